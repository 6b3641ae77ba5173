"""The token that separates documents: which one it is, and prepared data with it."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from models import TINY

from jaxllm import GPT, InputError
from jaxllm.compare import random_parameters
from jaxllm.data import shard_writer
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import open_split, read_index
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.tokenizers.sentencepiece import BYTES
from train.cli import main
from train.config import ModelConfig, RunConfig, TrainConfig
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

SINGLE = [bytes([i]) for i in range(256)]
END = "<|endoftext|>"


def sentencepiece_with(special: list[str]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(["<unk>", *special, *BYTES, "▁", "a"], [], ["<unk>", *special])


@pytest.mark.parametrize(
    ("special", "end"),
    [
        (["<s>", "</s>"], "</s>"),  # Llama 2, Mistral
        (["<pad>", "<eos>", "<bos>"], "<eos>"),  # Gemma
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|end_of_text|>"),  # Llama 3
        (["<|im_end|>", "</s>", END], END),
        (["<s>"], None),
    ],
)
def test_tokenizers_know_what_separates_documents(special: list[str], end: str | None) -> None:
    for tok in (BPETokenizer(SINGLE, special), sentencepiece_with(special)):
        assert tok.end_of_text == (None if end is None else tok.special_tokens[end])
        assert "end" not in tok.to_dict()


def test_the_end_token_that_a_model_names() -> None:
    names = ["<s>", "<|done|>", "<|im_end|>"]
    for tok in (BPETokenizer(SINGLE, names), sentencepiece_with(names)):
        done = tok.ending_documents_with("<|done|>")
        assert tok.end_of_text is None and done.end_of_text == tok.special_tokens["<|done|>"]
        assert done.encode("a") == tok.encode("a") and done != tok and done.fingerprint() != tok.fingerprint()
        assert type(tok).from_dict(done.to_dict()) == done
        assert done.ending_documents_with("<|im_end|>") is done
        assert tok.ending_documents_with("none") is tok.ending_documents_with(None) is tok
    both = BPETokenizer(SINGLE, [END, "</s>", "<|im_end|>"])
    assert both.ending_documents_with("<|im_end|>") is both
    assert both.ending_documents_with("</s>").end_of_text == 257


def test_an_end_that_is_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="'end' is 'x', which is no special token"):
        SentencePieceTokenizer.from_dict(sentencepiece_with([]).to_dict() | {"end": "x"})


def test_prepared_documents_are_separated_by_the_end_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n')
    cases = {
        "llama": (BPETokenizer(SINGLE, ["<s>", "</s>"]), [97, 257, 98, 257, 97], 257, "the token </s>, id 257"),
        "named": (BPETokenizer(SINGLE, ["<|x|>"]).ending_documents_with("<|x|>"), [97, 256, 98, 256, 97], 256, "the token <|x|>, id 256"),
        "none": (BPETokenizer(SINGLE, []), [97, 10, 98, 10, 97], None, "a newline, because the tokenizer has no end token"),
    }  # fmt: skip
    for name, (tok, ids, separator, words) in cases.items():
        tok.save(tmp_path / f"{name}.json")
        out = tmp_path / name
        command = f"data prepare {tmp_path}/docs.jsonl --tokenizer {tmp_path}/{name}.json --out {out} --validation 0"
        assert main(shlex.split(command + " --processes 1")) == 0
        assert f"documents are separated by {words}\n" in capsys.readouterr().out
        assert open_split(out, read_index(out), "train")[:].tolist() == ids
        assert read_index(out).separator == separator


def test_what_an_older_version_began_goes_on_only_with_its_separator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older version wrote no `end_token`, and a newline where an end token is written now."""
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    for name, goes_on in ((END, True), ("</s>", False)):
        tok, out = BPETokenizer(SINGLE, [name]), tmp_path / name.strip("<|/>")
        with monkeypatch.context() as patch:
            patch.setattr(shard_writer, "_finish", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prepare_shards([str(tmp_path / "docs.jsonl")], tok, out)
        progress = json.loads((out / "progress.json").read_text())
        del progress["settings"]["end_token"]
        (out / "progress.json").write_text(json.dumps(progress))
        if goes_on:
            prepare_shards([str(tmp_path / "docs.jsonl")], tok, out)
        else:
            with pytest.raises(InputError, match="was begun with end_token = None, not 256"):
                prepare_shards([str(tmp_path / "docs.jsonl")], tok, out)


def test_a_run_that_an_older_version_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tokenizer.json names no end token, its pretrained.json does; data prepared with it fit the run."""
    (tmp_path / "docs.jsonl").write_text('{"text": "abcdefgh"}\n' * 20)
    run, tok = RunFolder(tmp_path / "run"), BPETokenizer(SINGLE, ["<s>", "<|done|>"])
    config = replace(TINY, vocab_size=258)
    run.path.mkdir()
    ChatFormat(None, (257,), None, "<|done|>").save(run.pretrained)
    write_weights(run.weights, random_parameters(GPT(config)))
    run.create(RunConfig(model=ModelConfig(**asdict(config)), train=TrainConfig(batch_size=1)), tok)
    out = tmp_path / "out"
    command = f"data prepare {tmp_path}/docs.jsonl --tokenizer {run.path} --out {out} --processes 1"
    assert main(shlex.split(command)) == 0
    assert "separated by the token <|done|>, id 257" in capsys.readouterr().out
    assert read_index(out).separator == load_run(run.path).tokenizer.end_of_text == 257
    assert main(["evaluate", str(run.path), "--data", str(out)]) == 0
