"""Faults planted in a model: each place is found, and its diagnosis is right or silent.

The model is `tests/support/faulty_gpt.py`, over NumPy, and over PyTorch where that is installed.
"""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faulty_gpt import Library
from foreign_pieces import GPT_2, LLAMA
from planted_pieces import found, parameters, record

pytestmark = pytest.mark.newest

CAPPED = replace(
    LLAMA, n_heads=3, n_kv_heads=3, attention_scale=0.3, score_softcap=3.0, logits_softcap=5.0, rotary_fraction=0.5,
    tie_embeddings=True,
)  # fmt: skip
MODELS = {"gpt-2": GPT_2, "llama": LLAMA, "capped": CAPPED}
# The model, the place, the word that `planted` knows, the slip that is named and a part of the sentence; None where no
# known slip is right.
FAULTS = (
    ("gpt-2", "block_1/norm_2", "epsilon", "epsilon", "fits epsilon = 0.001 to"),
    ("gpt-2", "norm_final", "unbiased", "unbiased-variance", "divided by D - 1"),
    ("llama", "block_1/norm_1", "kind", "norm-kind", "LayerNorm in place of RMSNorm"),
    ("llama", "block_0/norm_2", "offset", "scale-offset", "1 + scale for scale"),
    ("gpt-2", "block_0/mlp/activation", "exact", "activation", "exact GELU in place of the tanh form"),
    ("gpt-2", "block_1/mlp/activation", "quick", "activation", "(quick_gelu)"),
    ("llama", "block_1/mlp/activation", "exchanged", "gate-and-up", "gate and up exchanged"),
    ("gpt-2", "block_0/attention/heads", "no mask", "no-mask", "without a mask"),
    ("gpt-2", "block_1/attention/heads", "late mask", "mask-one-late", "one token of the future"),
    ("llama", "block_1/attention/heads", "window", "window", "a window of 4 tokens"),
    ("gpt-2", "block_0/attention/heads", "no scale", "score-scale", "scores times 1 to"),
    ("llama", "block_0/attention/heads", "width", "score-scale", "(1 / sqrt(d_model)) to"),
    ("gpt-2", "block_1/attention/heads", "softmax over queries", "softmax-axis", "over the queries"),
    ("llama", "block_1/attention/heads", "interleaved", "rotary-pairs", "of neighbours, not of halves"),
    ("llama", "block_0/attention/heads", "base", "rotary-base", "a rotary base of 500 to"),
    ("llama", "block_1/attention/heads", "late queries", "positions-shifted", "queries one position after their keys'"),
    ("llama", "block_0/attention/heads", "tiled", "heads-tiled", "key heads tiled"),
    ("gpt-2", "block_0/mlp/up", "no bias", "no-bias", "without the bias"),
    ("gpt-2", "block_1/attention/output", "transposed", "transposed", "weight transposed"),
    ("llama", "block_1/mlp/down", "bfloat16", "operands", "rounded to bfloat16"),
    ("gpt-2", "position_embedding", "from one", "positions-shifted", "positions that begin at 1"),
    ("llama", "token_embedding", "scaled", "factor", "(sqrt(d_model)) to"),
    ("llama", "head", "tied", "tied-head", "the token table as head"),
    ("gpt-2", "head", "no norm", "no-final-norm", "without the final norm"),
    ("gpt-2", "block_1", "parallel", "parallel", "in parallel, each from its own norm"),
    ("llama", "block_0", "no residual", "residual", "without the residual around the MLP"),
    ("capped", "block_0/attention/heads", "no cap", "score-cap", "without the cap of the scores, 3"),
    ("capped", "block_1/attention/heads", "no scale", "score-scale", "scores times 1 to"),
    ("capped", "block_1/attention/heads", "all rotated", "rotary-fraction", "with 8 of 8 features of a head rotated"),
    ("capped", "head", "no cap", "logit-cap", "without the cap of the logits, 5"),
    ("gpt-2", "block_0/norm_1", "unknown", None, ""),
    ("gpt-2", "block_0/norm_1", "unbiased + epsilon", None, ""),
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
@pytest.mark.parametrize(("model", "place", "fault", "slip", "says"), FAULTS, ids=["-".join(one[:3]) for one in FAULTS])
def test_a_planted_fault(
    model: str, place: str, fault: str, slip: str | None, says: str, name: str, dtype: str, tolerance: float
) -> None:
    here = departures(model, library(name, dtype), {place: fault}, tolerance)
    assert list(here) == [place]
    named = here[place]
    assert (named.slip if named else None) == slip
    assert says in (named.sentence if named else "")


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
