"""What computes a run's matrix products: chosen by time, only if the numbers are right, and kept."""

import tomllib
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from libraries import INSTALLED
from models import TINY
from runs import write_config

import train.products as choosing
from jaxllm.fast import products
from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError
from jaxllm.gpt import parameter_shapes
from jaxllm.utils.errors import InputError
from jaxllm.utils.private_folder import VARIABLE
from train.cli import main
from train.config import TrainConfig
from train.products import HEAD, LINEAR, Choice, Products, check_products, choose, measure, products_of, refusal

pytestmark = pytest.mark.newest

ONE = Counter({Products(LINEAR, (6, 5), (5, 4), "float32"): 3})
needs_onednn = pytest.mark.skipif("onednn" not in INSTALLED, reason="oneDNN is not installed")


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The time that each library is said to take for three products."""
    times = {"xla": 1.0, "onednn": 0.5, "mkl": 0.6, "openblas": 0.94}
    monkeypatch.setattr(choosing, "_seconds", lambda *_: times[products.active()])
    return times


def test_the_products_of_a_step_are_counted_once() -> None:
    """Their operations are 6 for each weight of a linear map and each token; of the head as well."""
    train = TrainConfig(steps=5, batch_size=4, grad_accumulation=2)
    found = products_of(TINY, train)
    tokens = train.batch_size * TINY.context_length
    linear = sum(6 * p.x[0] * p.w[0] * p.w[1] * n for p, n in found.items() if p.axes == LINEAR)
    kernels = sum(np.prod(shape) for name, shape in parameter_shapes(TINY).items() if name.endswith("kernel"))
    assert linear == 6 * kernels * tokens
    head = [(p, n) for p, n in found.items() if p.axes == HEAD]
    assert [6 * p.x[0] * np.prod(p.w) * n for p, n in head] == [6 * TINY.vocab_size * TINY.d_model * tokens]
    attention = [(p, n) for p, n in found.items() if p.axes == choosing.ATTENTION]
    assert [p.x[0] for p, _ in attention] == [train.batch_size // 2 * TINY.n_heads]


@needs_onednn
def test_the_fastest_is_chosen(seconds: dict[str, float]) -> None:
    others = {name: "not asked" for name in LIBRARIES if name != "onednn"}
    assert measure(ONE, "float32", others) == Choice("onednn", {"onednn": 0.5}, others)
    seconds["onednn"] = 0.96  # less than 5 % faster
    assert measure(ONE, "float32", others).name == "xla"


@needs_onednn
@pytest.mark.parametrize("factor", [1.0001, float("nan")])
def test_one_that_computes_wrong_is_left_out(
    factor: float, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(axes: str, a: jax.Array, b: jax.Array, dtype: str) -> jax.Array:
        wrong = products.active() == "onednn" and axes == LINEAR[2]
        return products.product(axes, a, b, dtype) * (factor if wrong else 1)

    monkeypatch.setattr(choosing, "product", product)
    choice = measure(ONE, "float32", {name: "not asked" for name in LIBRARIES if name != "onednn"})
    assert choice.name == "xla" and choice.relative_times == {}
    assert choice.left_out["onednn"].startswith("its products are wrong here, off by ")


def test_the_choice_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is measured once for a model; a damaged file is measured again; another model has its own."""
    measured = []
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(choosing, "WORTH", 0)
    monkeypatch.setattr(choosing, "refusal", lambda name, dtype: "")
    monkeypatch.setattr(choosing, "find", lambda name: Path(__file__))
    monkeypatch.setattr(choosing, "measure", lambda p, *_: measured.append(p) or Choice("mkl", {"mkl": 0.5}))
    train = TrainConfig(steps=50, batch_size=4)
    assert choose(TINY, train) == choose(TINY, train) == Choice("mkl", {"mkl": 0.5})
    assert len(measured) == 1
    (kept,) = (tmp_path / "native").glob("choice-*.json")
    for n, damaged in enumerate((b"{", b"\xff", b'{"name": "foo"}'), start=2):
        kept.write_bytes(damaged)
        assert choose(TINY, train).name == "mkl" and len(measured) == n
    choose(replace(TINY, n_layers=3), train)
    assert len(measured) == 5
    monkeypatch.setenv(VARIABLE, "off")
    assert choose(TINY, train).name == "mkl" and len(measured) == 6


def test_xla_computes_where_nothing_else_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run is not measured; without a library each reason is named."""
    train = TrainConfig(steps=5, batch_size=4)
    assert str(choose(TINY, train)) == (
        "matrix products by xla (no onednn, mkl, openblas: the run is too short to measure)"
    )
    monkeypatch.setattr(choosing, "WORTH", 0)
    assert choose(TINY, replace(train, steps=49)) == choose(TINY, train)
    train = replace(train, steps=50)
    monkeypatch.setattr(choosing, "refusal", lambda name, dtype: "not here" if name == "mkl" else "absent")
    assert str(choose(TINY, train)) == "matrix products by xla (no onednn, openblas: absent; no mkl: not here)"
    with pytest.raises(
        InputError,
        match="train.products is 'mkl', but not here. To compute without it: --set train.products=xla.",
    ):
        check_products(replace(train, products="mkl"))
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    check_products(replace(train, products="mkl"))
    assert choose(TINY, replace(train, products="mkl")) == Choice("xla")


@needs_onednn
@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_keeps_what_computes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The resolved name is in config.toml, so a resumed run computes with it, unless told otherwise."""
    config, run = str(write_config(tmp_path)), str(tmp_path / "run")

    def kept() -> str:
        return str(tomllib.loads((tmp_path / "run" / "config.toml").read_text())["train"]["products"])

    sets = ["--set=train.steps=4", "--set=train.products=onednn"]
    assert main(["train", config, "--out", run, *sets]) == 0
    assert "matrix products by onednn\n" in capfd.readouterr().out and kept() == "onednn"
    assert main(["train", "--out", run, "--resume", "--set=train.steps=5"]) == 0
    assert "matrix products by onednn\n" in capfd.readouterr().out and kept() == "onednn"
    assert main(["train", "--out", run, "--resume", "--set=train.steps=6", "--set=train.products=xla"]) == 0
    assert "matrix products by xla\n" in capfd.readouterr().out and kept() == "xla"
    assert main(["train", config, "--out", run, "--resume", "--set=train.steps=7", "--set=train.products=xla"]) == 0
    assert main(["train", config, "--out", f"{run}-2", "--set=train.steps=3"]) == 0
    assert 'products = "xla"' in (tmp_path / "run-2" / "config.toml").read_text()


def test_a_named_library_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choosing, "refusal", lambda name, dtype: "it is not installed")
    assert main(["train", str(write_config(tmp_path)), "--out", str(tmp_path / "run"), "--set=train.products=mkl"]) == 2
    assert capfd.readouterr().err == (
        "jaxllm train: train.products is 'mkl', but it is not installed. To compute without it: --set train.products=xla.\n"
    )
    assert not (tmp_path / "run").exists()


def test_why_a_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Any:
        def product(*_: object) -> None:
            raise error

        return product

    assert refusal("mkl", "bfloat16") == "it has no bfloat16"
    for error, reason in (
        (NoLibraryError("it is not installed"), "it is not installed"),
        (jax.errors.JaxRuntimeError("INTERNAL"), "it has no float32 for this processor"),
    ):
        monkeypatch.setattr(choosing, "using", lambda name: nullcontext())
        monkeypatch.setattr(choosing, "product", fail(error))
        assert refusal("mkl", "float32") == reason
