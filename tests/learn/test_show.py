"""The page of `jaxllm learn show` in a real browser: its numbers are the twin's, and its formulas give them."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browse
from jinja2.sandbox import SandboxedEnvironment
from models import random_gpt, random_like

from jaxllm import GPTConfig
from jaxllm.tokenizers import CharTokenizer, WordTokenizer
from jaxllm.utils.errors import InputError
from train.config import OptimizerConfig
from train.learn.course import ORDER
from train.learn.page import page as pages
from train.learn.page.axes import Limits
from train.learn.page.model import Shown
from train.learn.page.page import show_page, text_pairs
from train.learn.page.values import Trace, model_trace, twin_trace

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

TEXT = "Please buy an apple and an orange"
WORDS = ("Please", "an", "and", "apple", "buy", "orange", "the")
RULE = OptimizerConfig(learning_rate=1e-2, clip_norm=0.5)
# What is pointed at in every grid of every station: its corners, and a few cells between.
POINT = """
const digits17 = (x) => digits(x, 17);
const place = (td) => { const { id, r, c } = placeOf(td); return [id, r, c]; };
const states = [];
for (let i = 0; i < data.stations.length; i++) {
  show(i);
  for (const table of $("grids").querySelectorAll("table")) {
    const cells = [...table.querySelectorAll("td")], step = Math.max(1, Math.floor(cells.length / 5));
    for (let n = 0; n < cells.length; n += step) {
      cells[n].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
      const [id, r, c] = place(cells[n]);
      const parts = formula(id, r, c);
      states.push({
        station: data.stations[i].key, id, r, c, does: data.grids[id].made.do,
        ours: $("ours").textContent, twin: $("twin").textContent, difference: $("difference").textContent,
        which: $("which").textContent, spoken: cells[n].ariaLabel, shown: cells[n].textContent,
        formula: $("formula").textContent, full: written(parts, digits17).map((part) => part.text).join(""),
        marked: [...$("grids").querySelectorAll("[data-hue]")].map(place),
        pointed: [...$("grids").querySelectorAll(".pointed")].map(place),
        sources: [...$("sources").children].map((line) => line.firstChild.textContent),
      });
    }
  }
}
const found = { states, stations: data.stations, loaded: performance.getEntriesByType("resource").length };
"""


def shown_model(config: GPTConfig, tokenizer: Any, seed: int = 0) -> Shown:
    """A model whose parameters are all random."""
    model, params = random_gpt(config, seed=seed)
    return Shown(model, params, tokenizer, RULE)


@pytest.fixture(scope="module")
def small() -> Shown:
    tokenizer = WordTokenizer(WORDS)
    config = GPTConfig(tokenizer.vocab_size, context_length=9, d_model=8, n_layers=2, n_heads=2, d_ff=12)
    return shown_model(config, tokenizer)


@pytest.fixture(scope="module")
def traces(small: Shown) -> tuple[Trace, Trace]:
    """What the model computes, and its twin."""
    pairs = text_pairs(small.tokenizer, TEXT, 40)
    ours = model_trace(small.model, small.params, *pairs, small.rule)
    return ours, twin_trace(small.model.config, small.params, *pairs, small.rule)


@pytest.fixture(scope="module")
def found(small: Shown, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a browser shows of the page of the small model."""
    return browse(show_page(small, TEXT, "a model"), POINT, tmp_path_factory.mktemp("page"))


def number(text: str) -> float:
    """The number that the page writes."""
    return float(text.replace("−", "-").replace("∞", "inf"))


def value_of(formula: str) -> float:
    """The value of a formula of the page."""
    plain = formula.replace("the rest, ", "").replace("√(", "sqrt(").replace("^", "**")
    for sign, written in (("·", "*"), ("−", "-"), ("π", "pi"), ("∞", "inf")):
        plain = plain.replace(sign, written)
    functions = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log, "tanh": math.tanh, "min": min}
    expression = SandboxedEnvironment().compile_expression(plain, undefined_to_none=False)
    return float(expression(**functions, pi=math.pi, inf=math.inf))


def expected(trace: Trace, state: dict[str, Any]) -> float | None:
    """The number that a trace has for the cell of a state; None for what only the page names."""
    side, _, name = state["id"].partition(":")
    of_side = getattr(trace, f"{side}s")
    base, _, head = name.rpartition("/")
    if name in of_side:
        x = of_side[name]
        if x.ndim == 1:
            return float(x[max(state["r"], state["c"])])
        return float(x[state["r"], state["c"]])
    return float(of_side[base][int(head), state["r"], state["c"]]) if head.isdigit() else None


def test_the_model_agrees_with_its_twin_at_every_name(traces: tuple[Trace, Trace]) -> None:
    for got, want in zip(*traces, strict=True):
        assert got.keys() == want.keys()
        for name, x in want.items():
            if "attention/key/bias" not in name or got is not traces[0].updates:  # that of a gradient that is rounding
                np.testing.assert_allclose(got[name], x, rtol=2e-4, atol=1e-4, err_msg=name)


def test_every_grid_shows_the_numbers_of_model_and_twin(found: Any, traces: tuple[Trace, Trace]) -> None:
    seen = set()
    for state in found["states"]:
        for text, trace, rtol in ((state["ours"], traces[0], 1e-6), (state["twin"], traces[1], 1e-14)):
            want = expected(trace, state)
            if want is not None:
                np.testing.assert_allclose(number(text), want, rtol=rtol, err_msg=str(state))
                seen.add(state["id"].replace("/0", "").replace("/1", ""))
    all_names = {f"{side[:-1]}:{name}" for side, arrays in traces[1]._asdict().items() for name in arrays}
    assert all_names == seen


def test_every_formula_has_the_value_of_its_cell(found: Any) -> None:
    done = set()
    for state in found["states"]:
        if state["full"]:
            want = number(state["ours"])
            np.testing.assert_allclose(value_of(state["full"]), want, rtol=3e-4, atol=3e-6, err_msg=str(state))
            done.add(state["does"])
    assert done == {
        "lookup", "total", "product", "scaled", "mask", "mask_back", "softmax", "softmax_back", "stats", "means", "norm",
        "norm_back", "scale_back", "column", "gelu", "gelu_back", "loss", "mean", "loss_back", "table_back", "adamw",
        "root", "clip",
    }  # fmt: skip


def test_a_product_marks_the_row_and_the_column_that_made_it(found: Any) -> None:
    kernel, bias = "value:block_1/attention/query/kernel", "value:block_1/attention/query/bias"
    states = [
        s for s in found["states"] if s["id"] == "value:block_1/attention/query" and s["station"] == "block_1/query"
    ]
    assert len(states) >= 5
    for state in states:
        r, c = state["r"], state["c"]
        row, column = (sorted([grid, *at] for at in cells) for grid, cells in (
            ("value:block_1/norm_1", [(r, k) for k in range(8)]), (kernel, [(k, c) for k in range(8)]),
        ))  # fmt: skip
        assert sorted(state["marked"]) == sorted([*row, *column, [bias, 0, c]])
        assert state["pointed"] == [[state["id"], r, c]]
        word, feature = ["Please", "buy", "an", "apple", "and", "an", "orange"][r], f"h{c // 4}.{c % 4}"
        assert state["which"] == f"query: row {word} {r}, column {feature}"
        assert state["sources"] == [
            f"norm 1: row {word} {r}", f"query kernel: column {feature}", f"query bias: column {feature}",
        ]  # fmt: skip
        assert state["spoken"].startswith(f"row {word} {r}, column {feature}: ")


def test_stations_follow_the_course(found: Any) -> None:
    pieces = [station["piece"] for station in found["stations"]]
    assert set(pieces) <= set(ORDER) and found["loaded"] == 0
    assert [station["key"] for station in found["stations"] if "block_1" not in station["key"]] == [
        "tokens", "token_embedding", "position_embedding", "simple_attention",
        *(f"block_0/{name}" for name in (
            "norm_1", "query", "key", "value", "scores", "scaled", "masked", "weights", "merged", "output", "residual_1",
            "norm_2", "up", "gelu", "down", "residual_2",
        )),
        "norm_final", "logits", "loss", "step", "sampling",
    ]  # fmt: skip


KEYS = """
const press = (key, more = {}) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const here = () => { const { id, r, c } = placeOf(document.activeElement); return [id, r, c, $("which").textContent]; };
const stops = [...$("grids").querySelectorAll("table")].map((table) => table.querySelectorAll("[tabindex='0']").length);
const start = data.stations[shown.station].key, moves = [];
document.querySelector("[data-id='value:block_0/attention/weights/1'] td").focus(); moves.push(here());
for (const [key, more] of [["ArrowRight"], ["ArrowDown"], ["ArrowDown"], ["ArrowLeft"], ["ArrowLeft"], ["End"], ["ArrowRight"], ["ArrowUp"], ["Home"], ["End", { ctrlKey: true }], ["ArrowDown"], ["Home", { ctrlKey: true }]]) {
  press(key, more); moves.push(here());
}
const only = document.querySelector("[data-id='value:block_0/attention/weights/1']").querySelectorAll("[tabindex='0']").length;
$("after").click();
const after = [data.stations[shown.station].key, document.activeElement.id, location.hash];
const colour = () => getComputedStyle(document.body).backgroundColor, colours = [colour()];
$("theme").click(); colours.push(colour()); $("theme").click(); colours.push(colour());
let overflow = 0, scrolled = 0;
for (let i = 0; i < data.stations.length; i++) {
  show(i);
  overflow = Math.max(overflow, document.documentElement.scrollWidth - innerWidth);
  scrolled += [...document.querySelectorAll(".scroller")].filter((box) => box.scrollWidth > box.clientWidth).length;
}
const roles = ["grid", "row", "gridcell", "rowheader", "columnheader"].map((role) => document.querySelectorAll(`[role=${role}]`).length);
const unnamed = [...document.querySelectorAll("td, table")].filter((part) => !part.ariaLabel).length;
const found = { start, stops, moves, only, after, colours, overflow, scrolled, roles, unnamed };
"""


@pytest.mark.parametrize(("scheme", "width"), [(0, 500), (1, 1600)])
def test_keys_move_within_a_grid_and_the_page_fits(small: Shown, tmp_path: Path, scheme: int, width: int) -> None:
    page = show_page(small, TEXT, "a model", "causal_attention")
    flags = (f"blink-settings=preferredColorScheme={scheme}", f"window-size={width},800")
    found = browse(page, KEYS, tmp_path, *flags, fragment="#block_0/weights")
    assert found["start"] == "block_0/weights" and set(found["stops"]) == {1} and found["only"] == 1
    weights = "value:block_0/attention/weights/1"
    places = [(0, 0), (0, 1), (1, 1), (2, 1), (2, 0), (2, 0), (2, 6), (2, 6), (1, 6), (1, 0), (6, 6), (6, 6), (0, 0)]
    assert [tuple(move[:3]) for move in found["moves"]] == [(weights, *place) for place in places]
    assert found["moves"][2][3] == "weights, head 1: row buy 1, column buy 1"
    assert found["after"] == ["block_0/merged", "title", "#block_0/merged"]
    dark, light = "rgb(17, 20, 24)", "rgb(246, 247, 249)"
    assert found["colours"] == ([dark, light, dark] if scheme == 0 else [light, dark, light])
    assert found["overflow"] <= 0 and bool(found["scrolled"]) == (width == 500)  # grids scroll, the page does not
    assert found["unnamed"] == 0 and all(found["roles"])


HOSTILE = (
    "</script><script>hurt=1</script> <img/src=x/onerror=hurt=1> DATAASJSON SCRIPT STYLE \u202e 😀 שלום <!--<script>"
)
HURT = """
const labels = [...document.querySelectorAll("bdi")].map((part) => part.textContent);
const found = { hurt: window.hurt ?? null, text: $("text").textContent, title: document.title, labels, images: document.images.length };
"""


def test_a_hostile_text_is_only_text(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.train(HOSTILE)
    config = GPTConfig(tokenizer.vocab_size, context_length=16, d_model=4, n_layers=1, n_heads=1)
    page = show_page(shown_model(config, tokenizer), HOSTILE, "a model")
    found = browse(page, HURT, tmp_path)
    assert (found["hurt"], found["images"]) == (None, 0)
    assert found["text"] == HOSTILE and found["title"].startswith("</script>")
    assert {"</script><script>hurt=1</script>", "SCRIPT", "😀", "שלום"} <= set(found["labels"])


def test_a_page_loads_nothing(small: Shown) -> None:
    before, _, after = show_page(small, TEXT, "a model").partition('id="data"')
    assert not re.search(r"https?:|//\w|\bsrc\s*=|\bhref\s*=\s*\"|url\(|@import", before)
    assert not re.search(r"https?:|innerHTML|\beval\b|\bfetch\b|\bimport\b", after)
    assert "default-src 'none'" in before


def test_a_large_model_is_shown_in_part(tmp_path: Path) -> None:
    tokenizer = CharTokenizer.train(TEXT + "".join(map(chr, range(33, 100))))
    config = GPTConfig(tokenizer.vocab_size, context_length=40, d_model=60, n_layers=3, n_heads=12)
    large = shown_model(config, tokenizer)
    large = large._replace(params=random_like(large.params, scale=0.1))
    page = show_page(large, TEXT, "a model")
    assert len(page.encode()) < 3_000_000
    found = browse(page, POINT.replace("/ 5)", "/ 1)"), tmp_path)
    parts = [state for state in found["states"] if "the rest" in state["full"]]
    assert {"product", "softmax", "stats", "means"} == {state["does"] for state in parts}
    for state in parts:
        np.testing.assert_allclose(
            value_of(state["full"]), number(state["ours"]), rtol=1e-3, atol=1e-5, err_msg=str(state)
        )


def test_what_cannot_be_shown_is_refused(small: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"--text has 12 tokens, but a page shows at most 9 of this model; shorten it."
    ):
        show_page(small, "an apple and " * 4, "a model")
    with pytest.raises(InputError, match="--text has 0 tokens"):
        text_pairs(CharTokenizer("ab"), "", 9)
    rotary = GPTConfig(
        small.model.config.vocab_size, context_length=9, d_model=8, n_layers=1, n_heads=2, position="rotary"
    )
    with pytest.raises(InputError, match="model.position is rotary"):
        show_page(shown_model(rotary, small.tokenizer), TEXT, "a model")
    grouped = GPTConfig(small.model.config.vocab_size, context_length=9, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1)
    with pytest.raises(InputError, match="model.n_kv_heads is 1"):
        show_page(shown_model(grouped, small.tokenizer), TEXT, "a model")
    monkeypatch.setattr(pages, "LIMITS", (Limits(1, 1, 1, 1),))  # the vocabulary keeps the tokens of the text
    assert '"take":[0,1,2,3,4,5,7]' in show_page(small, TEXT, "a model")
