"""A learner's functions on the page of `jaxllm learn show`: theirs where they are right, wrong, or fail."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from browser import browse
from models import random_gpt

from jaxllm import GPTConfig
from jaxllm.tokenizers import WordTokenizer
from train.cli import main
from train.config import OptimizerConfig
from train.ideas import load_code
from train.learn.folder import LearnFolder
from train.learn.page import theirs as page_theirs
from train.learn.page.calls import calls
from train.learn.page.model import Shown
from train.learn.page.page import show_page, text_pairs
from train.learn.page.theirs import Theirs, array_of, call_theirs
from train.learn.page.values import completed, twin_trace

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

SOLUTIONS = Path(__file__).parents[1] / "support" / "learn" / "solutions"
TEXT = "Please buy an apple and an orange"
RULE = OptimizerConfig(learning_rate=1e-2, clip_norm=0.5)
MODULE_OF = {"value": "values", "update": "updates"}


@pytest.fixture(scope="module")
def shown() -> Shown:
    tokenizer = WordTokenizer(("Please", "an", "and", "apple", "buy", "orange"))
    config = GPTConfig(tokenizer.vocab_size, context_length=8, d_model=8, n_layers=2, n_heads=2, d_ff=12)
    return Shown(*random_gpt(config), tokenizer, RULE)


def folder(path: Path, **changed: str) -> LearnFolder:
    """A folder with a right solution, in which some files are others; those of an empty text are left out."""
    for file in (SOLUTIONS / "loops").glob("*.py"):
        shutil.copy(file, path)
    for name, text in changed.items():
        (path / f"{name}.py").write_text(text) if text else (path / f"{name}.py").unlink()
    (path / "course.json").write_text(json.dumps({"version": 1, "language": "numpy"}))
    return LearnFolder.open(path)


def called(shown: Shown, learned: LearnFolder) -> tuple[Theirs, Any]:
    """What the functions of a folder make of the text, and what is right."""
    pairs = text_pairs(shown.tokenizer, TEXT, 40)
    twin = completed(twin_trace(shown.model.config, shown.params, *pairs, RULE), RULE, *pairs)
    return call_theirs(learned, [*calls(shown.model.config, twin, *pairs, RULE)], twin, Theirs()), twin


def test_a_right_solution_makes_what_the_twin_makes(shown: Shown, tmp_path: Path) -> None:
    theirs, twin = called(shown, folder(tmp_path))
    assert not theirs.failed and not theirs.wrong
    for name, x in theirs.arrays.items():
        np.testing.assert_allclose(x, array_of(twin, name), rtol=1e-10, atol=1e-12, err_msg=name)
    assert {who.rpartition(" ")[2][:3] for who in theirs.made_by.values()} == {
        "p04", "p05", "p06", "p07", "p08", "p09", "p11", "p12", "p13", "p14", "p15", "p16", "p17", "p18", "p19",
    }  # fmt: skip
    assert sum(name.startswith("update:") for name in theirs.arrays) == len(twin.updates)


def test_a_mistake_shows_where_it_is_made_and_not_after_it(shown: Shown, tmp_path: Path) -> None:
    wrong = "def layer_norm(x, scale, bias, epsilon):\n    return (x - x.mean(-1, keepdims=True)) * scale + bias\n"
    theirs, twin = called(shown, folder(tmp_path, p13_layer_norm=wrong))
    assert theirs.wrong == {"layer_norm of p13_layer_norm.py", "block of p15_block.py", "gpt of p16_gpt.py"}
    off = {
        name for name, x in theirs.arrays.items() if not np.allclose(x, array_of(twin, name), atol=1e-6)
    }  # the last two call the first
    assert off == {
        *(f"block_{i}/norm_{n}" for i in (0, 1) for n in (1, 2)), "norm_final", "block_0", "block_1", "logits",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    raise ValueError('no')", "raises ValueError: no"),
        ("    raise NotImplementedError", "is not written yet"),
        ("    return x[0]", "returns the shape (12,) for (7, 12)"),
        ("    return 'x'", "returns something of another type"),
        ("    return None", "returns nothing"),
        ("    while True: pass", "does not end within 1 seconds"),
        ("    import os; os._exit(3)", "ended the process, with exit code 3"),
    ],
)
def test_what_fails_is_said_and_ours_is_shown(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    monkeypatch.setitem(page_theirs.SECONDS, "numpy", 1)
    mlp = (
        (SOLUTIONS / "loops" / "p14_mlp.py").read_text().replace("def gelu", "def gelu(x):\n" + body + "\n\ndef other")
    )
    theirs, _ = called(shown, folder(tmp_path, p14_mlp=mlp, p13_layer_norm=""))
    assert "your gelu of p14_mlp.py" in theirs.failed["block_0/mlp/gelu"]
    assert says in theirs.failed["block_0/mlp/gelu"]
    assert "block_0/mlp/gelu" not in theirs.arrays and "block_0/norm_1" not in theirs.made_by
    assert "sampling" in theirs.arrays  # pieces after it are run


POINT = """
const texts = (selector) => [...document.querySelectorAll(selector)].map((part) => part.textContent);
const norm = document.querySelector("[data-id='value:block_0/norm_1']");
norm.querySelectorAll("td")[9].focus();
const found = {
  notes: texts("#notes li"), whose: $("whose").textContent, ours: $("ours").textContent, twin: $("twin").textContent,
  formula: $("formula").textContent, off: norm.querySelectorAll(".off").length, cells: norm.querySelectorAll("td").length,
  spoken: document.activeElement.ariaLabel, elsewhere: document.querySelectorAll("[data-id='value:position_embedding'] .off").length,
};
"""


def test_the_page_marks_what_is_wrong(shown: Shown, tmp_path: Path) -> None:
    wrong = "def layer_norm(x, scale, bias, epsilon):\n    return 0 * x + 7.5\n"
    page = show_page(shown, TEXT, "a model", "layer_norm", folder(tmp_path, p13_layer_norm=wrong))
    found = browse(page, POINT, tmp_path)
    assert found["notes"] == [
        "Made by your layer_norm of p13_layer_norm.py, and not right; `jaxllm learn check` looks for the mistake.",
        "Updates made by your adamw_update of p18_training_step.py, and right.",
    ]
    assert (found["whose"], found["ours"], found["off"], found["elsewhere"]) == ("yours", "7.5", found["cells"], 0)
    assert found["spoken"] == "row buy 1, column 1: 7.5, not what is right"
    right = float(found["twin"].replace("−", "-"))
    assert float(found["formula"].rpartition(" = ")[2].replace("−", "-")) == pytest.approx(right, rel=1e-3)


BLOCK = """
from jaxllm.gpt import Block

class Other(Block):
    def __call__(self, x, documents=None):
        return {change}super().__call__(x, documents)
"""


@pytest.mark.parametrize(
    ("change", "verdict"), [("", "right"), ("0.5 * ", "not right; `jaxllm learn check` looks for the mistake")]
)
def test_a_run_whose_block_is_the_learners(shown: Shown, tmp_path: Path, change: str, verdict: str) -> None:
    (tmp_path / "learned.py").write_text(BLOCK.format(change=change))
    code = load_code(str(tmp_path / "learned.py"))
    assert code is not None
    config = GPTConfig(
        shown.model.config.vocab_size, context_length=8, d_model=8, n_layers=2, n_heads=2, d_ff=12,
        block=code.idea("learned.py:Other", "model.block"),
    )  # fmt: skip
    params = jax.tree.map(np.asarray, shown.params)  # as those of a run
    page = show_page(shown._replace(model=type(shown.model)(config), params=params), TEXT, "a model")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    station = next(station for station in data["stations"] if station["key"] == "block_0/residual_2")
    assert station["notes"] == [f"Made by your learned.py:Other, and {verdict}."]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    learned = folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "page.html"
    assert main(["learn", "show", "14", "--text", "an apple <b>", "--out", str(out)]) == 0
    page = out.read_text()
    assert len(page.encode()) < 3_000_000 and '"open":"block_0/norm_2"' not in page and '"open":"block_0/up"' in page
    assert f"Your functions in {learned.path.resolve().name}" in page and "an apple \\u003cb>" in page
    assert re.search(r"page.html: every number of a small model, .* MB; open it", capsys.readouterr().out)
