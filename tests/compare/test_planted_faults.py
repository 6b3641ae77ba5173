"""Faults planted in a model: each place is found, and its diagnosis is right or silent.

The model is `tests/support/planted.py`, over NumPy, and over PyTorch where that is installed.
"""

import importlib.util
from typing import Any

import numpy as np
import pytest
from foreign_pieces import GPT_2, LLAMA
from planted import Library
from planted_pieces import found, parameters, record

MODELS = {"gpt-2": GPT_2, "llama": LLAMA}
# The model, the place, the word that `planted` knows, the diagnosis; None where none of the known slips is right.
FAULTS = (
    ("gpt-2", "block_1/norm_2", "epsilon", "epsilon"),
    ("gpt-2", "norm_final", "unbiased", "unbiased-variance"),
    ("llama", "block_1/norm_1", "kind", "norm-kind"),
    ("llama", "block_0/norm_2", "offset", "scale-offset"),
    ("gpt-2", "block_0/mlp/activation", "exact", "activation"),
    ("gpt-2", "block_1/mlp/activation", "quick", "activation"),
    ("llama", "block_1/mlp/activation", "exchanged", "gate-and-up"),
    ("gpt-2", "block_0/attention/heads", "no mask", "no-mask"),
    ("gpt-2", "block_1/attention/heads", "late mask", "mask-one-late"),
    ("llama", "block_1/attention/heads", "window", "window"),
    ("gpt-2", "block_0/attention/heads", "no scale", "score-scale"),
    ("llama", "block_0/attention/heads", "width", "score-scale"),
    ("gpt-2", "block_1/attention/heads", "softmax over queries", "softmax-axis"),
    ("llama", "block_1/attention/heads", "interleaved", "rotary-pairs"),
    ("llama", "block_0/attention/heads", "base", "rotary-base"),
    ("llama", "block_1/attention/heads", "late queries", "positions-shifted"),
    ("llama", "block_0/attention/heads", "tiled", "heads-tiled"),
    ("gpt-2", "block_0/mlp/up", "no bias", "no-bias"),
    ("gpt-2", "block_1/attention/output", "transposed", "transposed"),
    ("llama", "block_1/mlp/down", "bfloat16", "operands"),
    ("gpt-2", "position_embedding", "from one", "positions-shifted"),
    ("llama", "token_embedding", "scaled", "factor"),
    ("llama", "head", "tied", "tied-head"),
    ("gpt-2", "head", "no norm", "no-final-norm"),
    ("gpt-2", "block_1", "parallel", "parallel"),
    ("llama", "block_0", "no residual", "residual"),
    ("gpt-2", "block_0/norm_1", "unknown", None),
    ("gpt-2", "block_0/norm_1", "unbiased + epsilon", None),
)
LIBRARIES = (
    ("numpy", "float64", 1e-9),
    ("torch", "float64", 1e-9),
    ("torch", "float32", 1e-5),
)


def library(name: str, dtype: str) -> Library:
    if name == "numpy":
        return Library()
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the extra `peers`")
    return Library(importlib.import_module("torch"), dtype)


def departures(model: str, lib: Library, faults: dict[str, str], tolerance: float) -> dict[str, Any]:
    """Where a model with faults parts from ours, and the diagnoses."""
    config = MODELS[model]
    params, tokens = parameters(config), np.random.default_rng(2).integers(0, config.vocab_size, (3, 12))
    return found(config, params, tokens, record(lib, config, params, tokens, faults), tolerance)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "dtype", "tolerance"), LIBRARIES)
def test_without_a_fault_nothing_departs(model: str, name: str, dtype: str, tolerance: float) -> None:
    assert departures(model, library(name, dtype), {}, tolerance) == {}


@pytest.mark.parametrize(("name", "dtype", "tolerance"), LIBRARIES)
@pytest.mark.parametrize(("model", "place", "fault", "slip"), FAULTS)
def test_a_planted_fault(
    model: str, place: str, fault: str, slip: str | None, name: str, dtype: str, tolerance: float
) -> None:
    here = departures(model, library(name, dtype), {place: fault}, tolerance)
    assert list(here) == [place]
    assert (here[place] and here[place].slip) == slip


TWO = (
    ("gpt-2", "block_0/attention/heads", "no scale + late mask"),
    ("gpt-2", "block_0/attention/heads", "width + softmax over queries"),
    ("llama", "block_1/attention/heads", "interleaved + late queries"),
    ("llama", "block_1/attention/heads", "base + width"),
    ("llama", "block_1/attention/heads", "tiled + window"),
    ("gpt-2", "norm_final", "kind + unbiased"),
    ("llama", "block_0/norm_2", "offset + epsilon"),
    ("gpt-2", "block_1/attention/output", "transposed + no bias"),
    ("gpt-2", "block_1/mlp/up", "bfloat16 + no bias"),
    ("llama", "head", "no norm + tied"),
)


@pytest.mark.parametrize(("model", "place", "faults"), TWO)
def test_of_two_faults_in_one_place_none_is_named(model: str, place: str, faults: str) -> None:
    here = departures(model, Library(), {place: faults}, 1e-9)
    assert here == {place: None}


def test_every_fault_is_found_not_only_the_first() -> None:
    faults = {"block_0/norm_1": "epsilon", "block_0/attention/heads": "no mask", "block_1/mlp/down": "no bias"}
    here = departures("gpt-2", Library(), faults, 1e-9)
    assert {place: one and one.slip for place, one in here.items()} == {
        "block_0/norm_1": "epsilon", "block_0/attention/heads": "no-mask", "block_1/mlp/down": "no-bias",
    }  # fmt: skip
