"""`jaxllm attention` and `jaxllm inspect` show the model's own weights, probabilities and logit lens."""

import json
from base64 import b64decode
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY

from jaxllm import GPT, InputError, reference
from jaxllm.compare import random_parameters
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer
from train.cli import main
from train.commands.attention import attention_weights
from train.commands.attention_page import attention_page
from train.commands.attention_plot import attention_picture, draw_layer, draw_layers
from train.commands.inspect import _likeliest, lens_probabilities
from train.commands.prompt import read_prompt
from train.config import ModelConfig, RunConfig, TrainConfig
from train.pieces import label
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

TOKENIZER = BPETokenizer.train("the cat sat on the mat. " * 9, vocab_size=262)
CONFIG = replace(TINY, vocab_size=TOKENIZER.vocab_size + 40, context_length=16, n_layers=3, tie_embeddings=False)
PARAMS = random_parameters(GPT(CONFIG))
PROMPT = "the cät\n$<b>"


def make_run(path: Path, chat: ChatFormat) -> str:
    """A run of a random model, with more ids than its tokenizer."""
    folder = RunFolder(path)
    path.mkdir()
    chat.save(folder.pretrained)
    write_weights(folder.weights, PARAMS)
    folder.create(RunConfig(model=ModelConfig(**asdict(CONFIG)), train=TrainConfig(batch_size=1)), TOKENIZER)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("look") / "run", ChatFormat())


def seen(ids: list[int]) -> dict[str, np.ndarray]:
    """The intermediates by the NumPy reference."""
    return reference.gpt.forward_with_intermediates(CONFIG, PARAMS, [ids])[1]


def true_weights(ids: list[int]) -> np.ndarray:
    inside = seen(ids)
    return np.stack([inside[f"block_{i}/attention/weights"][0] for i in range(CONFIG.n_layers)])


def weights_of(length: int, layers: int = 2, heads: int = 3) -> np.ndarray:
    """Random causal weights; rows sum to 1."""
    w = np.random.default_rng(0).random((layers, heads, length, length)) ** 4 * np.tri(length)
    return w / w.sum(-1, keepdims=True)


def data_of(page: str) -> dict[str, Any]:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_labels_are_one_line_with_visible_spaces() -> None:
    labels = [label(TOKENIZER, i) for i in TOKENIZER.encode(" the\n\t é\x1b")]
    assert labels == ["␣the", "\\n", "\\t", "␣", "\\xc3", "\\xa9", "\\x1b"]


def test_a_page_holds_the_models_weights(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map.html"
    assert main(["attention", run, "--prompt", PROMPT, "--layer", "1", "--out", str(out)]) == 0
    ids = TOKENIZER.encode(PROMPT)
    assert capsys.readouterr().out == f"{out}: {len(ids)} tokens, 3 layers of 2 heads\n"
    data = data_of(out.read_text())
    assert (data["tokens"], data["layer"], data["layers"], data["heads"]) == (
        [label(TOKENIZER, i) for i in ids], 1, 3, 2,
    )  # fmt: skip
    stored = np.frombuffer(b64decode(data["weights"]), "<u2").reshape(3, 2, -1) / data["steps"]
    want = true_weights(ids)[..., *np.tril_indices(len(ids))]
    np.testing.assert_allclose(stored, want, atol=2e-5)


def test_no_token_ends_the_data_of_a_page() -> None:
    """Labels and names come from texts that anybody may have written."""
    marks = [attention_page(name, weights_of(1), [name]).count("</script") for name in ("a", "</script><b>")]
    assert marks[0] == marks[1] > 0


def picture(axes: Any) -> np.ndarray:
    """The drawn values, NaN where white."""
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def texts(figure: Any) -> list[str]:
    written = [text.get_text() for part in (figure, *figure.axes) for text in part.texts]
    return written + [axes.get_title() for axes in figure.axes]


def test_pictures_show_the_weights_and_the_tokens() -> None:
    weights, labels = weights_of(5), ["P", "$a$", "东", "</b>", "a_label_that_is_longer_than_that"]
    visible = np.where(np.tri(5, dtype=bool), weights, np.nan)
    small, large = draw_layers(weights, labels, "Title"), draw_layer(weights[1], labels, "Title")
    mosaic = picture(small.axes[0])
    stride = len(mosaic) // 2
    for layer, head in np.ndindex(2, 3):
        at = stride * layer, stride * head
        np.testing.assert_array_equal(mosaic[at[0] : at[0] + 5, at[1] : at[1] + 5], visible[layer, head])
    assert np.isfinite(mosaic).sum() == np.isfinite(visible).sum()
    for head in range(3):
        np.testing.assert_array_equal(picture(large.axes[head]), visible[1, head])
    for name in ("P", "$a$", "\\u4e1c", "</b>", "a_label_…an_that"):  # beside each row of maps and below each column
        assert texts(small).count(name) == 2 + 3 and texts(large).count(name) == 1 + 3
    assert {"Title", "head 0", "head 2", "layer 1"} <= {*texts(small)} and {"Title", "head 2"} <= {*texts(large)}


def test_a_dollar_sign_in_a_token_is_text() -> None:
    assert b"<svg" in attention_picture("$\\frac$", weights_of(2, 1, 1), ["$\\frac$", "$^$"], 0, ".svg")


def test_layer_0_is_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the same as no layer."""
    drawn: list[Any] = []
    monkeypatch.setattr(
        "train.commands.attention_plot.draw_layer", lambda w, *_: (drawn.append(w), draw_layer(w, ["a", "b"], ""))[1]
    )
    weights = weights_of(2)
    for layer in (0, 1, None):
        attention_picture("x", weights, ["a", "b"], layer, ".svg")
    assert len(drawn) == 2 and np.array_equal(drawn[0], weights[0]) and np.array_equal(drawn[1], weights[1])


@pytest.mark.parametrize("layer", [[], ["--layer", "2"]])
def test_pictures_are_written(run: str, layer: list[str], tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    assert main(["attention", run, "--prompt", PROMPT, "--out", str(out), *layer]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and [*tmp_path.iterdir()] == [out]


def test_the_lens_reads_each_block_and_ends_at_the_models_answer(run: str) -> None:
    looked = read_prompt(run, None, PROMPT)
    got = lens_probabilities(looked.run.model, looked.run.params, looked.ids, TOKENIZER.vocab_size)
    inside = seen(looked.ids)
    streams = np.stack([inside[f"block_{i}"][0, -1] for i in range(3)])
    logits = reference.logit_lens.logit_lens(CONFIG, PARAMS, streams)
    np.testing.assert_allclose(logits[-1], inside["logits"][0, -1], rtol=1e-12)
    np.testing.assert_allclose(got, reference.layers.softmax(logits[:, : TOKENIZER.vocab_size]), atol=1e-5)
    np.testing.assert_allclose(attention_weights(looked.run.model, looked.run.params, looked.ids)[0], true_weights(looked.ids), atol=1e-5)  # fmt: skip


def test_inspect_prints_next_tokens_and_the_lens(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", run, "--prompt", PROMPT, "--top", "4"]) == 0
    out = capsys.readouterr().out.splitlines()
    ids = TOKENIZER.encode(PROMPT)
    inside, n = seen(ids), TOKENIZER.vocab_size
    streams = np.stack([inside[f"block_{i}"][0, -1] for i in range(3)])
    by_block = reference.layers.softmax(reference.logit_lens.logit_lens(CONFIG, PARAMS, streams)[:, :n])
    best = np.argsort(-by_block[-1])[:4]
    for rank, (line, i) in enumerate(zip(out[2:6], best, strict=True), start=1):
        assert line.split(maxsplit=3)[:3] == [str(rank), f"{100 * by_block[-1, i]:.1f}", "%"]
        assert line.endswith(f"[{label(TOKENIZER, int(i)).replace('␣', ' ')}]")
    assert len({line.index("%") for line in out[2:6]}) == 1  # aligned
    for block, line in enumerate(out[-3:]):
        answer, rank = by_block[block, best[0]], 1 + (by_block[block] > by_block[block, best[0]]).sum()
        assert line.split()[0] == str(block) and line.split()[-3:] == [f"{100 * answer:.1f}", "%", str(rank)]
    assert out[-1].endswith(" 1")


WRONG = {
    "attention RUN --prompt= --out a.png": "--prompt '' holds no token",
    "attention RUN --prompt the\udc80 --out a.png": "a lone surrogate",
    f"attention RUN --prompt {'the' * 17} --out a.png": "17 tokens, more than the model's context of 16; shorten it",
    f"attention RUN --prompt {'a' * 1_000_001} --out a.png": "but it must have at most 1,000,000",
    "attention RUN --prompt a --out a.gif": "--out a.gif: the name of the file must end in .html or .png",
    "attention RUN --prompt a --out a": "--out a: the name of the file must end in",
    "attention RUN --prompt a --out missing/a.png": "--out missing/a.png: there is no folder missing",
    "attention RUN --prompt a --out RUN/a.png": "is a run folder, whose files stay as they are",
    "attention RUN --prompt a --out a.png --layer 3": "--layer is 3, but it must be from 0 to 2",
    "attention RUN --prompt a --out a.html --layer -1": "--layer is -1, but it must be from 0 to 2",
    "attention missing --prompt a --out a.png": "missing is no run folder",
    "inspect missing --prompt a": "missing is no run folder",
    "inspect RUN --prompt=": "--prompt '' holds no token",
    "inspect RUN --prompt a --top 0": "--top is 0, but it must be at least 1",
    "inspect RUN --prompt a --step 3": "--step is '3', but",
}


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command[:50].encode("ascii", "replace").decode())
def test_wrong_input_is_one_sentence(
    command: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("RUN", run) for word in command.split(" ")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxllm {command.split()[0]}: ") and error.count("\n") == 1
    assert WRONG[command] in error and not [*tmp_path.iterdir()]


def test_a_prompt_begins_with_the_begin_token(tmp_path: Path) -> None:
    looked = read_prompt(make_run(tmp_path / "run", ChatFormat(begin_token=65)), None, PROMPT)
    assert looked.ids == [65, *TOKENIZER.encode(PROMPT)] and label(TOKENIZER, looked.ids[0]) == "A"


def test_a_prompt_may_fill_the_context_and_begin_with_the_id_0(tmp_path: Path) -> None:
    """The begin token takes a place in the context, also with the id 0."""
    run = make_run(tmp_path / "run", ChatFormat(begin_token=0))
    assert read_prompt(run, None, "\0" * 15).ids == [0, *TOKENIZER.encode("\0" * 15)]
    with pytest.raises(InputError, match="--prompt has 17 tokens, more than the model's context of 16"):
        read_prompt(run, None, "\0" * 16)
    assert len(read_prompt(run, None, "\0" * 3, most=4).ids) == 4


def test_among_equally_likely_tokens_the_first_ids_come_first() -> None:
    probabilities = np.array([0.1, 0.3, 0.1, 0.3, 0.2])
    assert _likeliest(probabilities, 5) == [1, 3, 4, 0, 2] and _likeliest(probabilities, 1) == [1]


def test_a_prompt_of_more_tokens_than_can_be_shown(run: str) -> None:
    with pytest.raises(ValueError, match="--prompt has 5 tokens, but --out can show at most 4; shorten it"):
        read_prompt(run, None, "abcde", most=4)
