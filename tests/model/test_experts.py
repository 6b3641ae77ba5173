"""The mixture of experts as a part of the model: what it computes, initialises, packs, adapts and counts."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, InputError, fast, reference
from jaxllm.compare import Report, compare_model, random_parameters
from jaxllm.experts import experts
from jaxllm.fast.init import init_params
from jaxllm.fast.quantised_weights import PackedKernel, pack
from jaxllm.flops import flops_per_token
from jaxllm.gpt import count_parameters, parameter_shapes
from jaxllm.lora import adapted_paths
from jaxllm.parallel import parameter_axes, parameter_specs

MIXED = replace(TINY, **VARIANTS["experts"])
pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.mark.parametrize("variant", ["experts", "most experts"])
def test_model_and_gradients_agree_with_the_reference(variant: str) -> None:
    """Every intermediate, the gradient at each and at each parameter, in float64."""
    config = replace(TINY, **VARIANTS[variant])
    params = random_parameters(GPT(config))
    rows, _ = compare_model(config, params, random_tokens(config, 2), random_tokens(config, 2, seed=1), "float64")
    report = Report.of("float64", rows)
    assert report.passed, report
    assert {row.stage for row in rows if row.name == "block_1/mlp/router"} == {"forward", "backward"}
    assert "block_1/mlp/gate/kernels" in {row.name for row in rows if row.stage == "gradient"}


def test_each_token_is_the_sum_of_its_own_experts() -> None:
    """From the formula, token by token, without the code of either side."""
    rng = np.random.default_rng(0)
    x, router = rng.normal(size=(6, 3)), rng.normal(size=(3, 4))
    gate, up, down = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 5, 3))
    want = np.zeros_like(x)
    for t, token in enumerate(x):
        p = np.exp(token @ router) / np.exp(token @ router).sum()
        best = sorted(range(4), key=lambda e: -p[e])[:2]
        for e in best:
            g = token @ gate[e]
            want[t] += p[e] / p[best].sum() * ((g / (1 + np.exp(-g)) * (token @ up[e])) @ down[e])
    params = {"router": {"kernel": router}} | {
        name: {"kernels": x} for name, x in (("gate", gate), ("up", up), ("down", down))
    }
    np.testing.assert_allclose(reference.experts.mixture(params, x, 2), want, rtol=1e-12)


def test_an_expert_that_no_token_chose_is_not_computed() -> None:
    """Its parameters may be NaN: nothing reads them, forward or backward. The formula computes all of them."""
    x, chosen, weights = jnp.ones((2, 3)), jnp.array([[0], [2]]), jnp.ones((2, 1))
    gate, down = jnp.ones((3, 3, 5)).at[1].set(jnp.nan), jnp.ones((3, 5, 3))
    loss = lambda x: experts(x, chosen, weights, gate, gate, down).sum()  # noqa: E731
    assert np.isfinite(jax.jit(loss)(x)) and np.isfinite(jax.grad(loss)(x)).all()
    with fast.off():
        assert np.isnan(loss(x))


def test_initial_parameters_are_those_of_init() -> None:
    tokens = jnp.zeros((1, 1), jnp.int32)
    got = jax.jit(partial(init_params, GPT(MIXED)))(jax.random.key(0), tokens)
    want = GPT(MIXED).init(jax.random.key(0), tokens)["params"]
    jax.tree.map(np.testing.assert_array_equal, got, want)
    kernels = want["block_0"]["mlp"]["gate"]["kernels"]
    assert kernels.shape == (4, 8, 5) and np.unique(kernels).size == kernels.size


def test_only_the_experts_of_a_token_count() -> None:
    """Operations grow with the experts of a token; those of another expert are its column of the router alone."""
    one, two = (flops_per_token(replace(MIXED, n_experts_per_token=k)) for k in (1, 2))
    assert two - one == 6 * 2 * 3 * 8 * 5
    more = replace(MIXED, n_experts=5)
    assert flops_per_token(more) - two == 6 * 2 * 8
    assert count_parameters(more) - count_parameters(MIXED) == 2 * (3 * 8 * 5 + 8)


def test_where_experts_lie() -> None:
    assert parameter_axes("block_0/mlp/gate/kernels", (4, 8, 6)) == ("expert", "embed", "mlp")
    places = parameter_specs(parameter_shapes(replace(MIXED, d_ff=6)), {"data": 1, "fsdp": 2, "tensor": 2})
    assert places["block_1/mlp/down/kernels"] == PartitionSpec(None, "tensor", "fsdp")
    assert places["block_1/mlp/router/kernel"] == PartitionSpec("fsdp", None)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_packed_weights_leave_experts_as_they_are(weights: str) -> None:
    _, params = random_gpt(MIXED)
    packed = pack(params, weights)
    np.testing.assert_array_equal(packed["block_0"]["mlp"]["up"]["kernels"], params["block_0"]["mlp"]["up"]["kernels"])
    router = packed["block_0"]["mlp"]["router"]["kernel"]
    assert isinstance(router, PackedKernel) and router.weights.dtype == np.float32


def test_adapters_leave_routers_alone_unless_asked() -> None:
    shapes = parameter_shapes(MIXED)
    assert not [path for path in adapted_paths(shapes, None, 2) if "mlp" in path]
    assert all("attention" in path for path in adapted_paths(shapes, "^block_", 2))
    with pytest.raises(InputError, match="'mlp' matches none of the maps, which are block_0/attention/"):
        adapted_paths(shapes, "mlp", 2)
    assert adapted_paths(shapes, "block_0/.*router", 2) == ["block_0/mlp/router/kernel"]
