"""Every numeric function and module of jaxllm against its NumPy twin, value and pullback, jitted and not."""

import inspect
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import compiled_for, quickly_compiled
from models import random_like
from twins import (
    ALL_CASES,
    CASES,
    MODULES,
    MODULES_WITHOUT_TWIN,
    draw,
    fast_alone,
    fast_forms,
    find,
    jitted,
    module_twin,
    modules,
    numeric_functions,
)

from jaxllm import fast, reference
from jaxllm.compare import assert_close_to_reference

# Bounds: jaxllm.compare.TOLERANCES, relative to the largest value.
# Without jit, where each operation is compiled separately, and in bfloat16 only the first case of each function runs.
# In float32, the dtype of training, programs are optimised as those of users; the others ask whether formulas agree.
WAYS = [("float64", "eager"), ("float64", "jit"), ("float32", "jit"), ("bfloat16", "jit"), ("float64", "textbook")]
FLOAT32 = pytest.param("float32", marks=pytest.mark.newest)
BFLOAT16 = pytest.param("bfloat16", marks=pytest.mark.newest)


FAST_ALONE = {  # functions of jaxllm.fast that are not the fast form of another, and why
    "attention.attention_path": "a choice",
    "attention.looks_ahead": "a choice: test_score_and_visible.py",
    "generate.why_not_cached": "a choice: test_score_and_visible.py",
    "cached_gpt.grouped_attention": "in CASES itself",
    "attention.chunking": "a plan: test_fast_attention.py",
    "few_rows.compiled": "a choice",
    "few_rows.in_c": "a choice: test_few_rows.py",
    "few_rows.why_not_compiled": "a choice: test_few_rows.py",
    "splash.splash_attention": "the kernel of a TPU: test_fast_attention.py",
    "lookup.column": "a slice",
    "lookup.read_drafts": "the loop as a whole: test_lookup.py",
    "on_mesh.active": "where numbers lie: test_parallel.py",
    "on_mesh.cut": "where numbers lie: test_parallel.py",
    "on_mesh.gather": "where numbers lie: test_parallel.py",
    "on_mesh.gathered": "where numbers lie: test_parallel.py",
    "on_mesh.gathered_ends": "where numbers lie: test_parallel.py",
    "on_mesh.mulhi": "integers: test_parallel.py",
    "on_mesh.on": "where numbers lie: test_parallel.py",
    "on_mesh.on_each_device": "where numbers lie: test_parallel.py",
    "on_mesh.read_in_loop": "where numbers lie: test_parallel.py",
    "on_mesh.size": "where numbers lie: test_parallel.py",
    "on_mesh.stored": "where numbers lie: test_parallel.py",
    "on_mesh.summed": "where numbers lie: test_parallel.py",
    "on_mesh.that_divide": "where numbers lie: test_parallel.py",
    "on_mesh.traced_on": "where numbers lie: test_parallel.py",
    "platform.compiling_for": "a choice",
    "platform.on_one_cpu": "a choice",
    "platform.platform": "a choice: test_products.py",
    "products.active": "a choice",
    "products.computes": "a choice",
    "products.product": "einsum by another library: test_products.py",
    "products.using": "a choice",
    "few_rows.rows_product": "in CASES itself",
    "generate.start_generation": "random: test_generate.py",
    "generate.stream": "random: test_generate.py",
    "init.init_params": "equals model.init to the bit: test_speed.py",
    "quantised_weights.cast_kernels": "a cast",
    "quantised_weights.pack": "the model as a whole: test_quantised_weights.py",
    "quantised_weights.parameter": "a lookup",
    "quantised_weights.quantise_rows": "rounds: test_quantised_weights.py",
    "quantised_weights.quantised_product": "rounds: test_quantised_weights.py",
}
CALL_FAST_FORMS = {"layers.swiglu", "layers.geglu", "logit_lens.logit_lens"}
NO_FLOATS = {  # what they return
    "attention.document_numbers": "int32", "attention.document_mask": "bool", "attention.visible": "bool",
    "embeddings.ngram_ids": "int32", "loss.learned": "bool", "lookup.drafted": "int32",
    "experts.chosen_experts": "int32",
}  # fmt: skip


def _arrays(arguments: list[Any]) -> list[int]:
    return [i for i, a in enumerate(arguments) if isinstance(a, np.ndarray)]


def test_every_function_has_a_case() -> None:
    assert numeric_functions() == set(CASES)


def test_every_module_has_a_twin() -> None:
    assert modules() - MODULES_WITHOUT_TWIN == {type(module).__name__ for module, *_ in MODULES.values()}


@pytest.mark.parametrize("name", sorted(CASES))
def test_twins_share_their_signature(name: str) -> None:
    """The function, its twin, and the twin's backward."""
    ours, twin, backward = (
        inspect.signature(find(*where)).parameters.values()
        for where in ((name, "jaxllm"), (name, "jaxllm.reference"), (f"{name}_vjp", "jaxllm.reference"))
    )
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in twin]
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in backward]


@pytest.mark.parametrize(
    ("name", "case", "dtype", "how"),
    [
        pytest.param(*case, *way, marks=[] if way == ("float64", "jit") else [pytest.mark.newest])
        for case in ALL_CASES
        for way in WAYS
        if (way[1] == "textbook" and case[0] in fast_forms() | CALL_FAST_FORMS)
        or (way[1] == "jit" and (case[1] == 0 or way[0] != "bfloat16"))
        or (way[1] == "eager" and case[1] == 0)
    ],
)
def test_agrees_with_twin(name: str, case: int, dtype: str, how: str) -> None:
    arguments = draw(CASES[name][case])
    ours = find(name, "jaxllm")
    with fast.off() if how == "textbook" else nullcontext(), compiled_for(dtype):
        assert_close_to_reference(
            ours if how == "eager" else jitted(ours, arguments),
            find(name, "jaxllm.reference"),
            arguments,
            reference_vjp=find(f"{name}_vjp", "jaxllm.reference"),
            dtype=dtype,
        )


def test_every_fast_function_is_a_fast_form_or_listed() -> None:
    assert fast_alone() <= set(FAST_ALONE)
    assert fast_forms() >= {"layers.linear", "layers.layer_norm", "embeddings.token_logits", "loss.head_loss"}


@pytest.mark.parametrize(("name", "case"), [(n, i) for n, i in ALL_CASES if n in fast_forms()])
def test_a_fast_form_equals_its_formula(name: str, case: int) -> None:
    """In value and gradient, in float64."""
    arguments = draw(CASES[name][case])
    floats = [i for i in _arrays(arguments) if arguments[i].dtype == np.float64]

    def outcome(function: Any) -> Any:
        def of_floats(*xs: Any) -> Any:
            given = dict(zip(floats, xs, strict=True))
            return function(*[given.get(i, a) for i, a in enumerate(arguments)])

        y, pullback = jax.vjp(of_floats, *[jnp.asarray(arguments[i]) for i in floats])
        return y, pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    with jax.enable_x64(True), quickly_compiled():
        formula, form = outcome(fast.formula(find(name, "jaxllm"))), outcome(find(name, "jaxllm.fast"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12, strict=True), form, formula)


@pytest.mark.parametrize("dtype", ["float64", FLOAT32, BFLOAT16, pytest.param("textbook", marks=pytest.mark.newest)])
@pytest.mark.parametrize("name", MODULES)
def test_module_agrees_with_twin(name: str, dtype: str, rng: np.random.Generator) -> None:
    module, (twin, twin_vjp, with_context) = MODULES[name][0], module_twin(name)
    inputs = [rng.normal(size=(3, 5, 6))] + [rng.normal(size=(3, 7, 3))] * with_context
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    ours = jax.jit(lambda params, *xs: module.apply({"params": params}, *xs))
    arguments = [random_like(shapes["params"]), *inputs]
    textbook = dtype == "textbook"
    with fast.off() if textbook else nullcontext(), compiled_for(dtype):
        dtype = "float64" if textbook else dtype
        assert_close_to_reference(ours, twin, arguments, reference_vjp=twin_vjp, dtype=dtype)


@pytest.mark.parametrize(("name", "case"), [(n, i) for n, i in ALL_CASES if _arrays(draw(CASES[n][i]))])
def test_dtype_is_that_of_the_arrays(name: str, case: int) -> None:
    arguments = draw(CASES[name][case], "float32")
    want = NO_FLOATS.get(name, "float32")
    assert jax.eval_shape(jitted(find(name, "jaxllm"), arguments), *arguments).dtype == want


@pytest.mark.newest
@pytest.mark.parametrize("name", sorted(n for n in CASES if n not in NO_FLOATS and _arrays(draw(CASES[n][-1]))))
def test_vmap_is_a_loop(name: str) -> None:
    """Value and gradient, mapped over all arrays together."""
    draws = [draw(CASES[name][-1], "float32", seed) for seed in range(3)]
    varied = _arrays(draws[0])
    ours = find(name, "jaxllm")
    floats = [i for i in varied if draws[0][i].dtype == np.float32]

    def outcome(*arrays: Any) -> Any:
        given = dict(zip(varied, arrays, strict=True))

        def of_floats(*xs: Any) -> Any:
            full = given | dict(zip(floats, xs, strict=True))
            return ours(*[full.get(i, a) for i, a in enumerate(draws[0])])

        y, pullback = jax.vjp(of_floats, *[given[i] for i in floats])
        return y, pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    batched = [jnp.stack([jnp.asarray(d[i]) for d in draws]) for i in varied]
    one = jax.jit(outcome)
    with quickly_compiled():
        mapped = jax.jit(jax.vmap(outcome))(*batched)
        loop = [one(*[d[i] for i in varied]) for d in draws]
    for got, *wanted in zip(jax.tree.leaves(mapped), *map(jax.tree.leaves, loop), strict=True):
        np.testing.assert_allclose(got, jnp.stack(wanted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_follows_x(dtype: str, rng: np.random.Generator) -> None:
    """With float32 parameters the result is in the dtype of x and near the exact one."""
    from jaxllm import layers

    x, w, b, scale = (rng.normal(size=s) for s in ((4, 32), (32, 8), (8,), (32,)))
    half = jnp.asarray(x, dtype)
    exact = np.asarray(half, np.float64)
    for got, want in (
        (layers.linear(half, jnp.asarray(w), jnp.asarray(b)), reference.layers.linear(exact, w, b)),
        (layers.layer_norm(half, jnp.asarray(scale)), reference.layers.layer_norm(exact, scale)),
    ):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2e-2, atol=2e-2 * np.abs(want).max())
