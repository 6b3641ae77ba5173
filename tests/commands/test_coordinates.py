"""`jaxllm coordinates`: the moves of activations at two widths, in both parametrisations."""

import json
from pathlib import Path

import pytest
from runs import write_config

from jaxllm import GPTConfig
from train.cli import main
from train.commands.coordinates_moves import with_width

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_width_keeps_the_width_of_heads_and_the_shape_of_the_mlp() -> None:
    model = with_width(GPTConfig(d_model=16, n_heads=4, n_kv_heads=2, d_ff=24), 32, 8)
    assert (model.n_heads, model.kv_heads, model.head_dim, model.hidden_dim, model.width_ratio) == (8, 4, 4, 48, 4)


@pytest.mark.newest
def test_moves_grow_with_the_width_and_by_mup_they_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, figures, picture = write_config(tmp_path), tmp_path / "figures.json", tmp_path / "coordinates.png"
    words = [
        "--set",
        "model.dropout=0",
        "--set",
        "train.grad_accumulation=1",
        "--widths",
        "32",
        "128",
        "--steps",
        "3",
        "--json",
        str(figures),
        "--out",
        str(picture),
    ]
    assert main(["coordinates", str(config), *words]) == 0
    said, content = capsys.readouterr().out, json.loads(figures.read_text())
    assert (content["widths"], content["mup_base_width"], content["steps"]) == ([32, 128], 32, 3)
    for activation in ("mlp", "residual", "logits"):
        standard, mup = (content[name][activation]["moved"] for name in ("standard", "muP"))
        assert standard["values"][0] == mup["values"][0]  # the base itself
        assert abs(mup["slope"]) < 0.25 and standard["slope"] > 0.5, activation
    assert abs(content["muP"]["mlp"]["before"]["slope"]) < 0.1
    slope = content["muP"]["logits"]["moved"]["slope"]
    assert f"{slope:+.2f}" in said.partition("before the first step")[0].splitlines()[-2]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("words", "message"), [
    ("--widths 32", "--widths gives 1 width, but a slope needs 2 or more"),
    ("--widths 16 20", "--widths has 20, for which model.n_heads would be 2.5, in proportion to 2 for 16"),
    ("--steps 0", "--steps is 0, but it must be at least 1"),
    ("--set optimizer.name=sgd", "optimizer.name is sgd, but model.mup_base_width is for adamw"),
    ("--json figures.txt", "must end in .json"),
])  # fmt: skip
def test_wrong_input(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordinates", str(write_config(tmp_path)), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
