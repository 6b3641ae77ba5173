"""The parts of the page of `jaxllm learn show` one by one, without a browser."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learned import solution
from models import random_gpt

from jaxllm import GPTConfig
from jaxllm.tokenizers import CharTokenizer, WordTokenizer
from jaxllm.utils.errors import InputError
from train.cli import main
from train.config import OptimizerConfig
from train.learn.page import model as page_model
from train.learn.page import page
from train.learn.page.axes import Axes, Limits
from train.learn.page.calls import Call, calls
from train.learn.page.formulas import operations, update_operations, value
from train.learn.page.grids import page_data, titled
from train.learn.page.page import html, text_pairs, token_label
from train.learn.page.stations import SHAPES, inside, stations
from train.learn.page.theirs import Theirs, array_of
from train.learn.page.values import Trace, completed, norms, plain_config, twin_trace

pytestmark = pytest.mark.newest

RULE = OptimizerConfig(learning_rate=1e-2, clip_norm=0.5)
INPUTS, TARGETS = [2, 0, 5], [0, 5, 1]
CONFIG = GPTConfig(vocab_size=6, context_length=4, d_model=4, n_layers=2, n_heads=2, d_ff=6)
ALL, LITTLE = Limits(48, 64, 8, 4), Limits(2, 3, 2, 1)


def axes_of(config: GPTConfig, limits: Limits = ALL) -> Axes:
    return Axes(config, INPUTS, TARGETS, [f"w{i}" for i in range(config.vocab_size)], limits)


@pytest.fixture(scope="module")
def twin() -> Trace:
    """All numbers of a small model, by the reference."""
    _, params = random_gpt(CONFIG)
    return completed(twin_trace(CONFIG, params, INPUTS, TARGETS, RULE), RULE, INPUTS, TARGETS)


def test_a_part_of_a_large_model_is_chosen() -> None:
    axes = axes_of(CONFIG, LITTLE)
    assert {letter: axis.take for letter, axis in axes.by_letter.items()} == {
        "t": [0, 1, 2], "d": [0, 1], "a": [0, 2], "f": [0, 1], "v": [0, 1, 2, 5],
    }  # fmt: skip
    assert (axes.ids, axes.targets, axes.head_of_column()) == ([2, 0, 3], [0, 3, 1], [0, 1])
    assert axes.by_letter["a"].labels == ["h0.0", "h1.0"] and axes.of_head(1) == [1] and [*axes.blocks] == [0]
    assert axes.cut("d") and not axes.cut("t")


def test_the_right_functions_make_what_the_twin_makes(twin: Trace) -> None:
    """In this process; `test_show_theirs` has them run in another."""
    seen = set()
    for call in calls(CONFIG, twin, INPUTS, TARGETS, RULE):
        made = call.placed(getattr(solution("library", call.piece), call.function)(*call.arguments))
        assert set(made) == set(call.names)
        for name, x in made.items():
            np.testing.assert_allclose(x, array_of(twin, name), rtol=1e-9, atol=1e-12, err_msg=name)
        seen.add(call.function)
    assert len(seen) == 20


def test_every_formula_reads_grids_that_have_a_shape(twin: Trace) -> None:
    found = operations(CONFIG, axes_of(CONFIG), set(twin.updates)) | update_operations(RULE, {"head/kernel": 2})
    named = [text for text in _strings(list(found.values())) if text.startswith(("value:", "gradient:"))]
    assert {inside(_whole(name.partition(":")[2])) for name in [*found, *named]} <= SHAPES.keys()
    values = {name for name in twin.values if name not in twin.updates}
    assert {value(name) for name in values} <= {_whole(name) for name in found}


def _whole(name: str) -> str:
    base, _, head = name.rpartition("/")
    return base if head.isdigit() else name


def _strings(part: Any) -> list[str]:
    if isinstance(part, dict):
        part = list(part.values())
    return (
        [text for one in part for text in _strings(one)] if isinstance(part, list) else [part] * isinstance(part, str)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_the_table_or_a_map_of_its_own(tied: bool) -> None:
    config = GPTConfig(vocab_size=6, context_length=4, d_model=4, n_layers=1, n_heads=2, tie_embeddings=tied)
    found = operations(config, axes_of(config), set())
    term, back = (found[name]["terms"][0] for name in ("value:logits", "gradient:norm_final"))
    kernel = "value:token_embedding/table" if tied else "value:head/kernel"
    assert (term["b"], term["flip"], back["flip"]) == ((kernel, "b", "") if tied else (kernel, "", "b"))
    assert ("dl" in found["gradient:token_embedding/table"]) == tied


def test_only_matrices_decay() -> None:
    found = update_operations(OptimizerConfig(weight_decay=0.5), {"w": 2, "b": 1})
    assert (found["update:w"]["decay"], found["update:b"]["decay"]) == (0.5, 0.0)


def test_the_numbers_of_a_grid_are_at_its_place(twin: Trace) -> None:
    data = page_data(CONFIG, axes_of(CONFIG), RULE, twin, twin, Theirs())
    numbers = np.frombuffer(b64decode(data["twins"]), "<f8")
    for name, grid in data["grids"].items():
        side, _, of = name.partition(":")
        x = getattr(twin, f"{side}s").get(of)
        x = np.asarray(getattr(twin, f"{side}s")[_whole(of)][int(of[-1])] if x is None else x)
        x = x[: len(INPUTS)] if of == "position_embedding/table" else x
        np.testing.assert_array_equal(numbers[grid["at"] : grid["at"] + x.size], x.ravel(), err_msg=name)
    assert data["grids"]["value:block_0/attention/weights/1"]["at"] + 9 <= len(numbers)


def test_theirs_is_shown_and_said_to_be_theirs(twin: Trace) -> None:
    theirs = Theirs()
    call = Call("mlp", "mlp", [], ("block_0/mlp",), lambda result: {"block_0/mlp": result})
    theirs.take(call, twin.values["block_0/mlp"] + 1.0, twin)
    data = page_data(CONFIG, axes_of(CONFIG), RULE, twin, twin, theirs)
    grid = data["grids"]["value:block_0/mlp"]
    assert grid["yours"] == "mlp of p14_mlp.py"
    numbers = np.frombuffer(b64decode(data["numbers"]), "<f4")[grid["at"] : grid["at"] + 12]
    np.testing.assert_allclose(numbers, twin.values["block_0/mlp"].ravel() + 1.0, rtol=1e-6)
    (station,) = (one for one in data["stations"] if one["key"] == "block_0/down")
    assert station["notes"] == [
        "Made by your mlp of p14_mlp.py, and not right; `jaxllm learn check` looks for the mistake."
    ]
    assert titled("step/clip") == "factor of clipping"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda x: x * (1 + 1e-6), None),
        (lambda x: x * 1.01, None),
        (lambda x: x[0], "returns the shape (4,) for (3, 4)"),
        (lambda x: None, "returns nothing"),
        (lambda x: "x", "returns something of another type"),
    ],
)
def test_a_result_is_judged(make: Any, says: str | None, twin: Trace) -> None:
    theirs, right = Theirs(), twin.values["block_0/mlp"]
    call = Call("mlp", "mlp", [], ("block_0/mlp",), lambda result: {"block_0/mlp": result})
    theirs.take(call, make(right), twin)
    assert theirs.failed == ({"block_0/mlp": f"your mlp of p14_mlp.py {says}"} if says else {})
    assert ("block_0/mlp" in theirs.arrays) == (says is None)
    assert bool(theirs.wrong) == (says is None and abs(make(right) - right).max() > 1e-3)


def test_a_station_reads_what_the_one_before_it_made() -> None:
    found = {one.key: one for one in stations(CONFIG, range(2))}
    assert found["block_0/norm_1"].reads == ("position_embedding",)
    assert found["block_1/norm_1"].reads == ("block_0",) and found["block_1/scaled"].reads == (
        "block_1/attention/scores",
    )
    assert found["norm_final"].reads == ("block_1",) and found["logits"].parameters == ("token_embedding/table",)
    names = {name for one in found.values() for name in (*one.reads, *one.parameters, *one.makes)}
    assert {inside(name) for name in names} <= SHAPES.keys()


def test_what_follows_from_the_numbers_of_a_model(twin: Trace) -> None:
    squares = sum(float((g**2).sum()) for g in (twin.gradients[name] for name in twin.updates))
    assert twin.values["step/norm"] == pytest.approx(squares**0.5)
    assert twin.values["step/clip"] == pytest.approx(min(1.0, 0.5 / squares**0.5))
    chances = np.exp(twin.values["logits"][-1] / 0.8)
    np.testing.assert_allclose(twin.values["sampling"], chances / chances.sum())
    assert twin.values["loss"] == pytest.approx(twin.values["losses"].mean())
    assert norms(CONFIG)["block_1/norm_1"] == "block_0" and plain_config(CONFIG) is CONFIG


def test_the_gradients_are_those_of_the_mean(twin: Trace) -> None:
    wanted = np.eye(6)[TARGETS]
    np.testing.assert_allclose(twin.gradients["logits"], (twin.values["probabilities"] - wanted) / 3)


def test_a_text_fits_in_the_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_model, "_trained", lambda *given: None)
    assert page_model.small_model("apple").model.config.context_length == 8
    assert page_model.small_model("a b c d e f g h i j").model.config.context_length == 10
    with pytest.raises(InputError, match="--text holds no words"):
        page_model.small_model(" \n")


def test_a_text_is_cut_into_inputs_and_targets() -> None:
    words = WordTokenizer(("an", "apple"))
    assert text_pairs(words, "an apple an", 3) == ([0, 1, 0], [1, 0, words.end_of_text])
    assert text_pairs(CharTokenizer("ab"), "abab", 3) == ([0, 1, 0], [1, 0, 1])
    with pytest.raises(InputError, match="--text has 4 tokens, but a page shows at most 2"):
        text_pairs(CharTokenizer("ab"), "abab", 2)
    assert token_label(CharTokenizer(" a"), 0) == "␣" and token_label(CharTokenizer("a"), 1) == "unused"


def test_no_text_ends_the_data_of_a_page() -> None:
    written = html({"text": "</script><script>DATA_AS_JSON SCRIPT"})
    data = written.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == {"text": "</script><script>DATA_AS_JSON SCRIPT"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "there is no piece 'nonsense'"),
        (["--out", "page.txt"], "must end in .html"),
        (["--text", ""], "--text"),
        (["--text", "word " * 50], "--text has 50 words, but a page shows at most 40"),
        (["--code", "x.py"], "there is no --run"),
        (["--step", "3"], "there is no --run"),
        (["--dir", "nowhere"], "nowhere is no folder"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page_model, "_trained", lambda *given: None)
    monkeypatch.setattr(page, "model_trace", lambda *given: pytest.fail("nothing was refused"))
    assert main(["learn", "show", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_text_too_long_is_refused_before_a_model_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_model, "_trained", None)
    with pytest.raises(InputError, match="--text has 41 words, but a page shows at most 40 tokens; shorten it."):
        page_model.small_model("word " * 41)
