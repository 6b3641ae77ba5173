"""`jaxllm.fast.off()`: every function by its textbook formula, which has every derivative."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPTConfig, fast
from jaxllm.gpt import summed_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")


def loss_of(config: GPTConfig, dtype: str) -> tuple[Any, Any]:
    """The loss of a small GPT as a function of its parameters, and the parameters."""
    model, params = random_gpt(config, dtype)
    tokens, targets = random_tokens(config), random_tokens(config, seed=1)
    return lambda params: summed_loss(model, params, tokens, targets) / targets.size, params


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", ["gpt2", pytest.param("llama", marks=pytest.mark.newest)])
def test_the_textbook_gives_the_same_loss_and_gradient(variant: str) -> None:
    config = replace(TINY, **VARIANTS[variant], separator=5)
    loss, params = loss_of(config, "float64")
    want = jax.jit(jax.value_and_grad(loss))(params)
    with fast.off():
        got = jax.jit(jax.value_and_grad(loss))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got, want)


@pytest.mark.usefixtures("x64")
def test_the_textbook_has_forward_and_second_derivatives() -> None:
    """A forward derivative along a random direction, and the Hessian of one vector, against the gradient and its differences."""
    loss, params = loss_of(replace(TINY, n_layers=1), "float64")
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)

    def of_scale(scale: jax.Array) -> jax.Array:
        return loss(params | {"norm_final": params["norm_final"] | {"scale": scale}})

    with fast.off():
        value, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (direction,)))(params)
        hessian = jax.jit(jax.hessian(of_scale))(params["norm_final"]["scale"])
    want, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == pytest.approx(float(want), rel=1e-12)
    inner = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
    assert slope == pytest.approx(float(sum(jax.tree.leaves(inner))), rel=1e-9)
    h, scale, slope_at = 1e-5, params["norm_final"]["scale"], jax.jit(jax.grad(of_scale))
    differences = [(slope_at(scale + h * e) - slope_at(scale - h * e)) / (2 * h) for e in np.eye(len(scale))]
    np.testing.assert_allclose(hessian, np.stack(differences), rtol=1e-5, atol=1e-8)
