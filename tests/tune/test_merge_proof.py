"""The proof that a merge keeps the tuning: what it measures, and what it refuses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_gpt, random_like, random_tokens

from jaxllm.gpt import parameter_shapes
from jaxllm.lora import adapted_paths, attach, init_adapter, merge, quantise_base
from jaxllm.utils.errors import NonFiniteError
from train.errors import RunError
from train.tune import merge as merging
from train.tune.merge import Proof, check_finite, counted_logits, prove, rounded_to

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = replace(TINY, tie_embeddings=False)
ROWS = [(tokens, np.arange(CONFIG.context_length) > 2) for tokens in random_tokens(CONFIG, 2)]
PATHS = adapted_paths(parameter_shapes(CONFIG), None, 2)


def tuned(size: float = 1.0, base: str = "float32") -> Any:
    """A random model with adapters of rank 2 at all maps, whose changes are of that size."""
    params = random_gpt(CONFIG)[1]
    adapter = init_adapter(jax.random.key(0), {path: parameter_shapes(CONFIG)[path] for path in PATHS}, 2)
    params = quantise_base(params, PATHS) if base == "int8" else params
    return attach(params, random_like(adapter), scale=size)


@pytest.mark.parametrize("base", ["float32", "int8"])
def test_a_merge_is_proven(base: str) -> None:
    params = tuned(base=base)
    proof = prove(CONFIG, params, merge(params), ROWS)
    assert proof.n_positions == 10
    assert proof.difference < 1e-14 and 1e-9 < proof.lost < 1e-5
    assert proof.agreeing == 10 and proof.changed >= 1
    proof.check("float32")
    assert "10 of 10" in proof.lines("float32")[-1]


def test_a_small_change_is_lost_in_a_coarse_dtype() -> None:
    """Not in float32, and in bfloat16 where the change is large."""
    for size, dtype, kept in ((1.0, "bfloat16", True), (1e-3, "bfloat16", False), (1e-3, "float32", True)):
        params = tuned(size)
        proof = prove(CONFIG, params, rounded_to(merge(params), dtype), ROWS)
        assert proof.difference < 1e-14
        assert (proof.lost <= merging.MOST_LOST) == kept
        if not kept:
            with pytest.raises(RunError, match=r"^bfloat16 is too coarse .* use --dtype float32\.$"):
                proof.check(dtype)


def test_the_share_that_is_lost() -> None:
    """Weights without the adapters lose all of it."""
    params = tuned()
    proof = prove(CONFIG, params, merging.without_adapters(params), ROWS)
    assert proof.lost == pytest.approx(1, abs=1e-6)
    assert proof.agreeing == proof.n_positions - proof.changed


def test_a_merge_of_other_matrices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    params = tuned()
    kept = merge(params)
    monkeypatch.setattr(merging, "merge", lambda params: merge(jax.tree.map(lambda x: x * (1 + 1e-9), params)))
    proof = prove(CONFIG, params, kept, ROWS)
    assert 1e-12 < proof.difference < 1e-6
    with pytest.raises(RunError, match="in float64 the merged logits differ"):
        proof.check("float32")


def test_nan_is_beyond_every_bound() -> None:
    proof = Proof(1, 1, 0.0, 0.0, 1)
    proof.check("float32")
    for wrong in (replace(proof, difference=np.nan), replace(proof, lost=np.nan)):
        with pytest.raises(RunError):
            wrong.check("float32")


def test_an_adapter_that_changes_nothing_is_refused() -> None:
    params = tuned(size=0.0)
    with pytest.raises(RunError, match="changes no logit"):
        prove(CONFIG, params, merge(params), ROWS)


def test_numbers_that_are_not_finite_are_refused() -> None:
    params = tuned()
    kernel = params["block_1"]["mlp"]["up"]["kernel"]
    params["block_1"]["mlp"]["up"]["kernel"] = replace(kernel, b=kernel.b.at[0, 0].set(jnp.nan))
    with pytest.raises(NonFiniteError, match=r"^the adapter of block_1/mlp/up/kernel holds NaN"):
        prove(CONFIG, params, merge(params), ROWS)
    params["block_1"]["mlp"]["up"]["kernel"] = replace(kernel, base=kernel.base.at[0, 0].set(jnp.inf))
    with pytest.raises(NonFiniteError, match=r"^block_1/mlp/up/kernel holds"):
        check_finite(params)
    with pytest.raises(NonFiniteError, match="computes NaN or infinity"):
        counted_logits(CONFIG, merge(params), ROWS)


def test_positions_that_count() -> None:
    params = merge(tuned())
    whole = counted_logits(CONFIG, params, [(tokens, counted | True) for tokens, counted in ROWS])
    some = counted_logits(CONFIG, params, ROWS)
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(whole.reshape(2, 8, -1)[:, 3:].reshape(10, -1), some)
    with pytest.raises(RunError, match="no position"):
        counted_logits(CONFIG, params, [(tokens, counted & False) for tokens, counted in ROWS])
    with pytest.raises(RunError, match="no position"):
        counted_logits(CONFIG, params, [])
