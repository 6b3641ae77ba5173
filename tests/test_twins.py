"""Every numeric function of jaxllm against its NumPy twin: float64 and float32, jitted and not."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm

NOT_NUMERIC = {"config", "errors", "validate"}
WITHOUT_TWIN = {
    "layers.at_least_float32",  # a cast
    "layers.dropout_mask", "generate.draw", "generate.generate",  # random: test_step.py and test_generate.py
    "gpt.apply_with_intermediates", "gpt.count_parameters",  # the model as a whole: test_gpt.py
}  # fmt: skip


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions a module defines itself."""
    return {
        name: f
        for name, f in vars(module).items()
        if callable(f)
        and not inspect.isclass(f)
        and getattr(f, "__module__", "") == module.__name__
        and not name.startswith("_")
    }


def numeric_functions() -> list[str]:
    modules = {m.name for m in pkgutil.iter_modules(jaxllm.__path__) if not m.ispkg} - NOT_NUMERIC
    return [f"{m}.{f}" for m in modules for f in functions(importlib.import_module(f"jaxllm.{m}"))]


def find(name: str, package: str) -> Callable[..., Any]:
    module, function = name.split(".")
    return getattr(importlib.import_module(f"{package}.{module}"), function)


def normal(*shape: int) -> Any:
    return lambda rng: rng.normal(size=shape)


def integers(high: int, *shape: int) -> Any:
    return lambda rng: rng.integers(high, size=shape)


def mask(*shape: int) -> Any:
    return lambda rng: rng.random(shape) < 0.5  # some rows are all False


def keep(*shape: int) -> Any:
    return lambda rng: np.where(rng.random(shape) < 0.5, 2.0, 0.0)


# name -> argument lists; a callable is drawn from the generator, anything else is passed as it is (and static).
CASES: dict[str, list[list[Any]]] = {
    "layers.linear": [[normal(3, 4, 5), normal(5, 6)], [normal(1, 5), normal(5, 1), normal(1)], [normal(5), normal(5, 2)]],
    "layers.layer_norm": [[normal(3, 4, 5), normal(5)], [normal(2, 5), normal(5), normal(5)], [normal(2, 5), normal(5), None, 0.1]],
    "layers.rms_norm": [[normal(3, 4, 5), normal(5)], [normal(2, 5), normal(5), normal(5)], [normal(2, 5), normal(5), None, 0.1]],
    "layers.gelu_tanh": [[normal(50)]],
    "layers.gelu": [[normal(50)]],
    "layers.relu": [[normal(50)]],
    "layers.softmax": [[normal(3, 7)], [lambda rng: 500 * rng.normal(size=(3, 7))], [normal(3, 1)]],
    "layers.dropout": [[normal(3, 7), keep(3, 7)]],
    "embeddings.token_embedding": [[normal(7, 4), integers(7, 3, 5)], [normal(7, 4), lambda rng: np.array([0, 6, 7, -1, -7, -8])]],
    "embeddings.token_logits": [[normal(7, 4), normal(3, 5, 4)]],
    "embeddings.learned_positions": [[normal(7, 4), 5]],
    "embeddings.sinusoidal_positions": [[9, 6], [1, 2]],
    "attention.simple_attention": [[normal(6, 3)], [normal(2, 1, 3)]],
    "attention.causal_mask": [[1], [5]],
    "attention.attention_weights": [[normal(2, 5, 3), normal(2, 5, 3)], [normal(4, 3), normal(6, 3), mask(4, 6)], [normal(2, 4, 3), normal(2, 6, 3), mask(4, 6)]],
    "attention.scaled_dot_product_attention": [
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4)],
        [normal(2, 4, 3), normal(2, 6, 3), normal(2, 6, 1), mask(4, 6)],
        [normal(2, 3, 4, 3), normal(2, 3, 6, 3), normal(2, 3, 6, 2), mask(2, 1, 4, 6), keep(2, 3, 4, 6)],
    ],
    "attention.split_heads": [[normal(2, 5, 6), 3], [normal(5, 6), 1]],
    "attention.merge_heads": [[normal(2, 3, 5, 2)], [normal(1, 5, 2)]],
    "attention.repeat_heads": [[normal(2, 2, 5, 3), 6], [normal(1, 5, 3), 4], [normal(4, 5, 3), 4]],
    "loss.token_losses": [[normal(3, 5, 7), integers(7, 3, 5)], [normal(4, 7), lambda rng: np.array([0, 6, 7, -1])], [lambda rng: 300 * rng.normal(size=(4, 7)), integers(7, 4)]],
    "loss.cross_entropy": [[normal(3, 5, 7), integers(7, 3, 5)], [normal(3, 5, 7), integers(7, 3, 5), lambda rng: rng.random((3, 5))]],
    "sampling.scale_temperature": [[normal(3, 9), 0.7]],
    "sampling.top_k": [[normal(3, 9), 1], [normal(3, 9), 4], [normal(3, 9), 20], [lambda rng: rng.integers(3, size=(5, 9)).astype(float), 4]],
    "sampling.top_p": [[normal(3, 9), 0.5], [normal(3, 9), 1.0], [normal(3, 9), 0.01], [lambda rng: rng.integers(3, size=(5, 9)).astype(float), 0.6]],
    "sampling.min_p": [[normal(3, 9), 0.3], [normal(3, 9), 0.0], [normal(3, 9), 1.0]],
}  # fmt: skip


def draw(arguments: list[Any], dtype: str, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    drawn = [a(rng) if callable(a) else a for a in arguments]
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in drawn]


def test_every_function_has_a_twin_and_a_case() -> None:
    names = set(numeric_functions()) - WITHOUT_TWIN
    assert names == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_twins_share_their_signature(name: str) -> None:
    ours, twin = (inspect.signature(find(name, p)) for p in ("jaxllm", "jaxllm.reference"))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in twin.parameters.values()
    ]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(("name", "case"), [(n, i) for n in sorted(CASES) for i in range(len(CASES[n]))])
def test_agrees_with_twin(name: str, case: int, dtype: str, tolerance: float, jit: bool) -> None:
    arguments = draw(CASES[name][case], dtype)
    with jax.enable_x64(dtype == "float64"):
        ours = find(name, "jaxllm")
        if jit:
            static = [i for i, a in enumerate(arguments) if not isinstance(a, np.ndarray)]
            ours = jax.jit(ours, static_argnums=static)
        got = ours(*[jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments])
    want = find(name, "jaxllm.reference")(*arguments)
    assert got.shape == np.shape(want)
    if any(isinstance(a, np.ndarray) and a.dtype == dtype for a in arguments):
        assert got.dtype == dtype
    if want.dtype == bool:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["attention.scaled_dot_product_attention", "layers.layer_norm", "layers.softmax"])
def test_vmap_is_a_loop(name: str, rng: np.random.Generator) -> None:
    f = find(name, "jaxllm")
    shapes = {"layers.layer_norm": [(3, 5), (5,)], "layers.softmax": [(3, 5)]}.get(name, [(4, 3), (6, 3), (6, 2)])
    batches = [jnp.asarray(rng.normal(size=(7, *shape)), jnp.float32) for shape in shapes]
    loop = jnp.stack([f(*arguments) for arguments in zip(*batches, strict=True)])
    np.testing.assert_allclose(jax.vmap(f)(*batches), loop, rtol=1e-6, atol=1e-6)


def test_linear_keeps_the_derivatives_of_a_product(rng: np.random.Generator) -> None:
    """`linear` has a backward of its own, for speed."""
    from jaxllm.layers import linear

    x, w, b, dy = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 5), (5, 4), (4,), (2, 3, 4)))
    _, ours = jax.vjp(linear, x, w, b)
    _, plain = jax.vjp(lambda x, w, b: x @ w + b[None, None], x, w, b)
    for got, want in zip(ours(dy), plain(dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_follows_x(dtype: str, rng: np.random.Generator) -> None:
    """Compute in the dtype of x with float32 parameters; the result is in that dtype and near the truth."""
    from jaxllm import layers, reference

    x, w, b, scale = (rng.normal(size=s) for s in ((4, 32), (32, 8), (8,), (32,)))
    half = jnp.asarray(x, dtype)
    exact = np.asarray(half, np.float64)
    for got, want in (
        (layers.linear(half, jnp.asarray(w), jnp.asarray(b)), reference.layers.linear(exact, w, b)),
        (layers.layer_norm(half, jnp.asarray(scale)), reference.layers.layer_norm(exact, scale)),
    ):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2e-2, atol=2e-2 * np.abs(want).max())
