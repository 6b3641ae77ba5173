"""Losses of answers and preferences: in chunks, with what is not learned left out, and without a frozen table's cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm import fast, loss
from jaxllm.fast import loss as fast_loss

TARGETS = np.array([[[-1, -1, 3, 0, 6], [-1, 2, -1, -1, -1]], [[-1, -1, -1, -1, -1], [1, 1, 5, 0, 2]]])


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 4)), rng.normal(size=(2, 2, 5, 4))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("most", [1, 21, pytest.param(1000, marks=pytest.mark.newest)])
def test_answers_in_chunks_are_the_formula(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty positions of seven logits, changed: chunks of one, three (the last is padded) and all; float64."""
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", most)

    def weighed(table: Any, x: Any) -> Any:
        found = loss.answer_log_probs(table, x, TARGETS, lambda z: jnp.tanh(z) * 2)
        return (found * jnp.array([[1.0, -2.0], [3.0, 0.5]])).sum(), found

    with jax.enable_x64(True):
        got = jax.value_and_grad(weighed, (0, 1), has_aux=True)(*drawn())
        with fast.off():
            want = jax.value_and_grad(weighed, (0, 1), has_aux=True)(*drawn())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), got, want)


@pytest.mark.newest
def test_log_probabilities_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four rows of 256 positions, forward and backward."""
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", 2**16)
    targets = jnp.zeros((4, 256), jnp.int32)

    def summed(table: Any, x: Any) -> Any:
        return jnp.square(loss.answer_log_probs(table, x, targets)).sum()

    for f in (summed, jax.grad(summed, (0, 1))):
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 8), (4, 256, 8)))
        plan: Any = jax.jit(f).lower(*shapes).compile().memory_analysis()
        assert plan.temp_size_in_bytes < 4 * 1024 * 1024 / 3


@pytest.mark.newest
@pytest.mark.parametrize("most", [2**26, 2**12])
def test_a_frozen_table_costs_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's loss has a matrix product less where only x is differentiated, in one chunk and in several."""
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", most)
    table, x, targets = jnp.ones((512, 64)), jnp.ones((32, 64)), jnp.zeros(32, jnp.int32)

    def flops(arguments: tuple[int, ...]) -> float:
        of = jax.jit(jax.value_and_grad(lambda table, x: loss.head_loss(table, x, targets), arguments))
        return float(of.lower(table, x).compile().cost_analysis()["flops"])

    assert flops((1,)) < 0.72 * flops((0, 1))


def test_what_is_not_learned_has_no_gradient() -> None:
    """To the bit, whatever the logits are there; a wrong target is not taken for one that is not learned."""
    rng = np.random.default_rng(0)
    logits, targets = jnp.asarray(rng.normal(size=(2, 2, 5, 7)), jnp.float32), jnp.asarray(TARGETS)
    losses, gradient = (
        loss.answer_losses(logits, targets), jax.grad(lambda z: loss.answer_losses(z, targets).sum())(logits)
    )  # fmt: skip
    here = TARGETS >= 0
    assert not np.any(losses[~here]) and not np.any(gradient[~here])
    np.testing.assert_allclose(losses[here], loss.token_losses(logits, targets)[here], rtol=1e-6)
    assert np.all(np.any(gradient[here] != 0, axis=-1))
    assert np.isnan(loss.answer_losses(logits[0, 0], jnp.array([-100, -1, 7, 0, 0]))).tolist() == [1, 0, 1, 0, 0]


def test_preferences_far_from_their_order_have_a_finite_loss() -> None:
    """Margins of +-2e4 nats in float32: the loss is the margin, or 0, and the slope -1 or 0."""
    chosen = jnp.array([-2e4, 0.0, 0.0, 0.0], jnp.float32)
    rejected = jnp.array([0.0, -2e4, 0.0, -1.0], jnp.float32)
    zero = jnp.zeros(4)
    losses, slopes = jax.vmap(jax.value_and_grad(lambda c, r, z: loss.dpo_losses(c, r, z, z, 1.0)))(
        chosen, rejected, zero
    )
    np.testing.assert_allclose(losses, [2e4, 0, np.log(2), np.log1p(np.exp(-1))], rtol=1e-6)
    np.testing.assert_allclose(slopes, [-1, 0, -0.5, -1 / (1 + np.e)], rtol=1e-6)
