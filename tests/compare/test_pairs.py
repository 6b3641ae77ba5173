"""Two models side by side: parameters, values and losses, also where the models are not of one shape."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from models import TINY, random_gpt, random_tokens

from jaxllm.compare.pairs import NamedModel, compare_outputs, compare_parameters
from jaxllm.config import GPTConfig

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

TOKENS = random_tokens(TINY)


def side(name: str, config: GPTConfig = TINY, seed: int = 0) -> NamedModel:
    return NamedModel(name, config, random_gpt(config, seed=seed)[1])


def changed(one: NamedModel, by: float) -> NamedModel:
    """The side with a number of a kernel of the second block changed."""
    params: Any = jax.tree.map(np.array, one.params)
    params["block_1"]["mlp"]["up"]["kernel"][0, 0] += by
    return NamedModel("b", one.config, params)


def test_equal_models_agree_to_the_bit() -> None:
    rows = [*compare_parameters(side("a"), side("b")), *compare_outputs(side("a"), side("b"), TOKENS, TOKENS)]
    assert all(row.passed and row.max_abs == 0 for row in rows)
    values = [row.name for row in rows if row.stage == "on the same text"]
    names = ["token_embedding", "position_embedding", "block_0", "block_1", "norm_final", "logits", "loss"]
    assert values == names


def test_a_change_is_found_where_it_is_and_in_all_that_follows() -> None:
    ours = side("a")
    theirs = changed(ours, 0.5)
    (wrong,) = (row for row in compare_parameters(ours, theirs) if not row.passed)
    assert wrong.name == "block_1/mlp/up/kernel" and wrong.max_abs == pytest.approx(0.5, rel=1e-6)
    assert wrong.relative == pytest.approx(0.5 / np.abs(ours.params["block_1"]["mlp"]["up"]["kernel"]).max(), rel=1e-5)
    rows = compare_outputs(ours, theirs, TOKENS, TOKENS)
    assert [row.name for row in rows if not row.passed] == ["block_1", "norm_final", "logits", "loss"]
    assert " and " in rows[-1].note


def test_a_difference_within_the_tolerance_is_none() -> None:
    ours = side("a")
    theirs = changed(ours, 1e-4)
    for tolerance, passed in ((0.0, False), (1e-3, True)):
        rows = compare_parameters(ours, theirs, tolerance)
        rows += compare_outputs(ours, theirs, TOKENS, TOKENS, tolerance)
        assert all(row.passed for row in rows) is passed


def test_a_keys_bias_is_measured_with_its_kernel() -> None:
    """Its gradient is rounding only, so two runs that agree in all that matters differ in it by as much as it has."""
    ours = side("a")
    for by, passed in ((1e-9, True), (1e-2, False)):
        pair: list[Any] = [jax.tree.map(np.array, ours.params) for _ in range(2)]
        for number, params in enumerate(pair):
            params["block_0"]["attention"]["key"]["bias"][:] = by * (1 + number)
        rows = compare_parameters(NamedModel("a", TINY, pair[0]), NamedModel("b", TINY, pair[1]), 1e-6)
        (bias,) = (row for row in rows if row.name == "block_0/attention/key/bias")
        assert bias.passed is passed and bias.max_abs == pytest.approx(by) and not bias.note


def test_models_of_other_shapes_are_compared_in_what_both_have() -> None:
    """What only one has is held to nothing, and says which; losses are of the same tokens in any two models."""
    deep, wide = side("deep", replace(TINY, n_layers=3)), side("wide", replace(TINY, d_ff=5))
    rows = {row.name: row for row in compare_parameters(side("a"), deep)}
    assert rows["block_2/norm_1/scale"].note == "only in deep" and not rows["block_2/norm_1/scale"].compared
    assert rows["block_0/norm_1/scale"].compared
    rows = {row.name: row for row in compare_parameters(side("a"), wide)}
    assert rows["block_0/mlp/up/kernel"].note == "8 x 5 in wide" and not rows["block_0/mlp/up/kernel"].passed
    values = {row.name: row for row in compare_outputs(side("a"), deep, TOKENS, TOKENS)}
    assert values["block_2"].note == "only in deep" and values["logits"].compared and values["loss"].compared


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_values_are_computed_in_the_dtype(dtype: str) -> None:
    rows = compare_outputs(side("a"), changed(side("a"), 1e-7), TOKENS, TOKENS, dtype=dtype)
    assert all(row.passed for row in rows) is (dtype == "bfloat16")
