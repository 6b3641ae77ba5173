"""`generate` and `chat` write whole characters up to stop strings and end tokens; runs with imported weights."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, TOKENIZER, imported
from runs import piped

import train.writer
from jaxllm import GPT
from jaxllm.compare import random_parameters
from jaxllm.fast.generate import Generation, start_generation
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling, generate
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers.sentencepiece import BYTES, SentencePieceTokenizer
from jaxllm.utils.files import replacing
from train.cli import main
from train.runs.imported_weights import read_weights, write_weights
from train.runs.load import load_run
from train.writer import Options, Writer, behind, until

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["some ", "words"], [], "some words"),
        (["some wo", "rds, more"], ["words"], "some "),
        (["a", "b", "a", "b", "c"], ["abc"], "ab"),
        (["one two"], ["two", "ne"], "o"),
        (["a", "b"], ["abc"], "ab"),
        ([], ["x"], ""),
    ],
)
def test_text_ends_before_a_stop_string(pieces: list[str], stops: list[str], text: str) -> None:
    given = [*until(pieces, stops)]
    assert "".join(given) == text
    if not stops:
        assert [piece for piece in given if piece] == pieces  # nothing is held back


def test_a_space_between_prompt_and_answer_stays() -> None:
    """SentencePiece drops the space at the beginning of a text, but a continuation is not a beginning."""
    tokenizer = SentencePieceTokenizer([*BYTES, "\u2581", "o", "\u2581on", "e"], [])
    shown, more = [258, 259], [256, 257]
    assert (tokenizer.decode(shown), tokenizer.decode(more)) == ("one", "o")
    whole = tokenizer.decode_stream([*shown, *more])
    assert "".join(behind(whole, len(tokenizer.decode(shown)))) == " o"
    assert [*behind(["ab", "cd", "e"], 3)] == ["", "d", "e"]


def test_weights_come_back(tmp_path: Path) -> None:
    params = random_parameters(GPT(CONFIG))
    params["block_0"]["norm_1"]["scale"] = np.float32(np.arange(8))  # exact in bfloat16
    write_weights(tmp_path / "w", params, "caf\udce9")  # a path that is not UTF-8
    back = read_weights(tmp_path / "w", CONFIG)
    np.testing.assert_array_equal(back["block_0"]["norm_1"]["scale"], np.arange(8))
    np.testing.assert_array_equal(back["block_0"]["mlp"]["up"]["kernel"], params["block_0"]["mlp"]["up"]["kernel"])
    assert back["block_0"]["norm_1"]["scale"].dtype == np.float32
    assert b'"dtype":"BF16","shape":[8]' in (tmp_path / "w").read_bytes()[:2000]


def test_weights_half_written_are_gone(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "w") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["w"] and (tmp_path / "w").read_text() == "old"


def test_generate_answers_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(imported(tmp_path / "run"))

    def text(*options: str) -> str:
        assert main(["generate", run, "--prompt", "hi", "--max-new-tokens", "30", *options]) == 0
        return capsys.readouterr().out

    plain = text()
    assert plain.startswith("hi") and plain.endswith("\n")
    assert plain != text("--seed", "1")
    stop = plain[6:9]
    assert text("--stop", stop) == plain[: plain.index(stop, 2)] + "\n"
    answer = text("--chat", "--weights", "int8", "--repetition-penalty", "1.5")
    assert not answer.startswith("hi") and "</s>" not in answer


def test_drafted_tokens_leave_the_text_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the model reads less often."""
    run, texts = str(imported(tmp_path / "run")), []
    for options in (["--temperature", "0"], ["--lookup", "3"], ["--lookup", "7", "--weights", "float32"]):
        assert main(["generate", run, "--prompt", "hi hi hi", "--max-new-tokens", "30", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert len(texts[0]) > 9 and texts[1] == texts[2] == texts[0]
    options = Options(30, 0.0, None, None, None, None, 0, (), "float32", 7)
    pieces = [*Writer(run, None, options).drawn([256, *b"hi hi hi"], 0, 30)]
    assert pieces[1].shape[1] == 8  # several tokens at a time


def test_the_answer_is_that_of_the_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model reads the text of the template, with its special tokens as tokens."""
    run = imported(tmp_path / "run")
    loaded = load_run(run)
    ids = [256, *b"user:hi", 257, 256]
    params, key = pack(loaded.params), jax.random.key(0)
    tokens = generate(loaded.model, params, [ids], key, 9, Sampling(0), 258, (257,))[0].tolist()
    want = TOKENIZER.decode(tokens[: tokens.index(257)] if 257 in tokens else tokens)
    assert main(["generate", str(run), "--chat", "--prompt", "hi", "--max-new-tokens", "9", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == want + "\n"


def test_chat_remembers_forgets_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(imported(tmp_path / "run"))

    def talk(*lines: str) -> tuple[list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        assert main(["chat", run, "--max-new-tokens", "5", "--temperature", "0"]) == 0
        said = capsys.readouterr()
        return said.out.split("\n"), said.err

    twice, _ = talk("hi", "", "hi")
    again, _ = talk("hi", "/reset", "hi", "/exit", "never")
    assert len(twice) == len(again) == 3
    assert again[0] == again[1] == twice[0] != twice[1]  # the second question comes after the first and its answer
    _, forgotten = talk("a" * 30, "b" * 30)
    assert "no longer fit" in forgotten


def test_the_system_prompt_outlasts_what_is_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the oldest question and answer were dropped, and after /reset, the model reads the same as without them,
    with the system message."""
    run, read = str(imported(tmp_path / "run", replace(CONFIG, context_length=96))), []

    def spied(model: GPT, params: object, prompts: list[list[int]], *rest: object) -> Generation:
        read.append(TOKENIZER.decode(prompts[0]))
        return start_generation(model, params, prompts, *rest)

    def texts(*lines: str) -> list[str]:
        read.clear()
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        assert main(["chat", run, "--max-new-tokens", "4", "--temperature", "0", "--system", "be brief"]) == 0
        return [*read]

    monkeypatch.setattr(train.writer, "start_generation", spied)
    first, second = "a" * 40, "b" * 40
    (fresh,) = texts(second)
    assert fresh == f"<s>system:be brief</s><s>user:{second}</s><s>"
    assert texts(first, second)[1] == texts(first, "/reset", second)[1] == fresh
    assert texts("hi", "ho")[1].startswith("<s>system:be brief</s><s>user:hi</s>")  # with room nothing is dropped


def test_text_is_written_as_soon_as_it_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece, also into a pipe."""
    run, seen = str(imported(tmp_path / "run")), []

    def tokens(*_: object) -> Iterator[int]:
        for token in b"xyz":
            yield token
            seen.append((tmp_path / "out").read_text())

    monkeypatch.setattr(train.writer.Writer, "tokens", tokens)
    with piped(tmp_path / "out"):
        assert main(["generate", run, "--prompt", "hi"]) == 0
    assert seen == ["hix", "hixy", "hixyz"]


def test_a_note_where_there_is_no_compiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.writer, "why_not_compiled", lambda: "there is no C compiler 'cc'")
    monkeypatch.setattr(train.writer.Writer, "tokens", lambda *_: iter(b"x"))
    assert main(["generate", str(imported(tmp_path / "run")), "--prompt", "hi"]) == 0
    assert (
        capsys.readouterr().err == "note: text is written more slowly than it could be: there is no C compiler 'cc'\n"
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("generate {run} --prompt a --step 5", "was imported and has no steps"),
        ("evaluate {run}", "was imported without the text that it was trained on; name a text with --data"),
        ("generate {run} --prompt a --repetition-penalty 0", "--repetition-penalty is 0.0, but it must be above 0"),
        ("generate {run} --prompt a --stop", "expected one argument"),
        ("generate {run} --prompt a --lookup 16", "--lookup is 16, but it must be from 0 to 15."),
        ("chat {run} --lookup 4 --temperature 0.5", "--temperature is 0.5, but it must be 0 with --lookup."),
        ("generate {bare} --chat --prompt a", "has no chat template; use `jaxllm generate"),
        ("chat {bare}", "has no chat template"),
        ("generate {damaged} --prompt a", "is damaged: its bytes are not those that were written; import it again"),
        ("generate {other} --prompt a", "'block_1/attention/value/kernel' is missing and 8 more; import it again"),
        (
            "generate {begins} --prompt a",
            "pretrained.json puts the id 258 before each text, but the tokenizer has the ids 0 to 257; import it again",
        ),
        ("train --resume --out {run}", "it was imported"),
    ],
)
def test_what_is_wrong(tmp_path: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {name: imported(tmp_path / name) for name in ("run", "damaged", "other")}
    places["bare"] = imported(tmp_path / "bare", chat=ChatFormat())
    places["begins"] = imported(tmp_path / "begins", chat=ChatFormat(begin_token=258))
    weights = places["damaged"] / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    config = places["other"] / "config.toml"
    config.write_text(config.read_text().replace("n_layers = 1", "n_layers = 2"))
    try:
        code = main(command.format(**places).split())
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_answers_have_other_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float | None]] = []
    monkeypatch.setattr(
        "train.commands.generate.Writer", lambda _, __, options, ___: seen.append((options.temperature, options.top_p))
    )
    for name in ("continue_", "answer"):
        monkeypatch.setattr(f"train.commands.generate.{name}", lambda *_: None)
    words = ["generate", "run", "--prompt", "hi"]
    drafts = ["--chat", "--lookup", "4"]
    for more in ([], ["--chat"], ["--chat", "--temperature", "0", "--top-p", "1"], ["--top-p", "0.5"], drafts):
        assert main([*words, *more]) == 0
    assert seen == [(0.8, None), (0.2, 0.9), (0, 1), (0.8, 0.5), (0, None)]


def test_characters_that_the_terminal_cannot_encode(tmp_path: Path) -> None:
    """They are escaped; typed bytes that are not in the terminal's encoding are replaced."""
    run, root = str(imported(tmp_path / "run")), Path(__file__).parents[2]
    said = []
    for words, typed in ((["generate", run, "--prompt", "é"], b""), (["chat", run], b"\xff hi\n")):
        done = subprocess.run(
            [sys.executable, "-m", "train", *words, "--max-new-tokens", "2"], cwd=root, input=typed,
            env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        said.append(done.stdout)
    assert said[0].startswith(rb"\xe9") and said[1].isascii()
