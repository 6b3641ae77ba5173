"""Products of a few rows by compiled C: against their twin, and in generation against XLA's."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_gpt

from jaxllm import GPT, reference
from jaxllm.compare import random_parameters
from jaxllm.fast import few_rows
from jaxllm.fast.few_rows import MOST_ROWS, compiled, rows_product, why_not_compiled
from jaxllm.fast.generate import _advance, generate, start_generation
from jaxllm.fast.native.build import FEW_ROWS, register_few_rows
from jaxllm.fast.native.libraries import NoLibraryError
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling

KEY = jax.random.key(0)
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    try:
        register_few_rows()
    except NoLibraryError as error:
        pytest.skip(str(error))


def calls(function: Any, *args: Any) -> bool:
    return FEW_ROWS in jax.jit(function).lower(*args).as_text()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 35), (24, 64), (129, 400)])
def test_agrees_with_its_twin_and_rows_are_independent(n: int, k: int, rng: np.random.Generator) -> None:
    """All numbers of rows, with rests of tiles and vectors; the last product is cut into tasks."""
    weights = rng.normal(size=(n, k)).astype(np.float32)
    for m in range(1, MOST_ROWS + 1):
        x = rng.normal(size=(m, k)).astype(np.float32)
        with compiled():
            y = rows_product(jnp.asarray(x), jnp.asarray(weights))
            alone = [rows_product(jnp.asarray(row), jnp.asarray(weights)) for row in x]
        want = reference.fast.few_rows.rows_product(x, weights)
        bound = np.finfo(np.float32).eps * 4 * (np.abs(x) @ np.abs(weights).T)
        assert (np.abs(y - want) <= bound).all()
        np.testing.assert_array_equal(y, np.stack(alone))


@pytest.mark.parametrize("m", [1, 3, 4, MOST_ROWS])
def test_other_weights_agree_with_the_twin(m: int, rng: np.random.Generator) -> None:
    """bfloat16 up to the rounding of sums in float32; products of bytes, -128 among them, are exact."""
    x, weights = rng.normal(size=(m, 601)).astype(np.float32), jnp.asarray(rng.normal(size=(130, 601)), "bfloat16")
    integers, bytes_ = rng.integers(-128, 128, (m, 601)), rng.integers(-128, 128, (130, 601))
    bytes_[:3] = integers[0] = -128
    with compiled():
        assert calls(rows_product, x, weights)
        y = rows_product(jnp.asarray(x), weights)
        alone = [rows_product(jnp.asarray(row), weights) for row in x]
        exact = rows_product(jnp.asarray(integers, jnp.int8), jnp.asarray(bytes_, jnp.int8), "int32")
    want = reference.fast.few_rows.rows_product(x, np.asarray(weights, float))
    bound = np.finfo(np.float32).eps * 4 * (np.abs(x) @ np.abs(np.asarray(weights, np.float32)).T)
    assert (np.abs(y - want) <= bound).all()
    np.testing.assert_array_equal(y, np.stack(alone))
    np.testing.assert_array_equal(exact, reference.fast.few_rows.rows_product(integers, bytes_))


def test_what_the_code_computes() -> None:
    """Few rows in some dtypes, within the context; the rest is XLA's, whatever the context."""
    x, weights = jnp.ones((2, 8, 5)), jnp.ones((3, 5))
    assert not calls(rows_product, x, weights)
    with compiled():
        assert calls(rows_product, x, weights)
        assert not calls(rows_product, jnp.ones((MOST_ROWS + 1, 5)), weights)
        assert not calls(rows_product, jnp.ones((0, 5)), weights)
        assert not calls(rows_product, x.astype("bfloat16"), weights.astype("bfloat16"))
        np.testing.assert_array_equal(rows_product(x, weights), jnp.full((2, 8, 3), 5.0))
        np.testing.assert_array_equal(rows_product(jnp.ones((17, 5)), weights), jnp.full((17, 3), 5.0))


def test_without_a_compiler_xla_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NoLibraryError("there is no C compiler")

    assert why_not_compiled() == ""
    monkeypatch.setattr(few_rows, "register_few_rows", refuse)
    assert why_not_compiled() == "there is no C compiler"
    with compiled():
        assert not calls(rows_product, jnp.ones((2, 5)), jnp.ones((3, 5)))


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("packed", [False, True])
def test_generation_writes_the_same_tokens(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(TINY)
    params = random_parameters(model, seed=4)
    params = pack(params) if packed else params
    prompts = [[3], [1, 4, 1, 5, 9, 2], [7, 7, 2, 8]]
    got = generate(model, params, prompts, KEY, 20, GREEDY)
    monkeypatch.setattr("jaxllm.fast.generate.compiled", nullcontext)
    jax.clear_caches()
    want = generate(model, params, prompts, KEY, 20, GREEDY)
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(want)) > 3  # a model that repeats one token would prove nothing


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_generation_calls_the_code(weights: str) -> None:
    """With the weights as they are packed."""
    model, params = random_gpt(replace(TINY, n_layers=1))
    g = start_generation(model, params, [[1, 2]], KEY, 5, GREEDY)
    leaves, tree = jax.tree.flatten(pack(params, weights))

    def advance(leaves: Any) -> Any:
        params = jax.tree.unflatten(tree, leaves)
        return _advance(g.model, g.plan, params, g.sampling, g.stop, g.key, g.state, jnp.asarray(1))

    called = [line for line in jax.jit(advance).lower(leaves).as_text().splitlines() if FEW_ROWS in line]
    read = {"float32": "f32", "bfloat16": "bf16", "int8": "i8"}[weights]
    assert sum(f"x{read}>) ->" in line for line in called) == 7  # six maps, of which XLA joins three, and the head


def test_maps_of_one_input_are_one_call() -> None:
    """In a packed model: four products a block."""
    model, params = random_gpt(replace(TINY, n_layers=2, tie_embeddings=False))
    leaves, tree = jax.tree.flatten(pack(params))

    def logits(leaves: Any) -> Any:
        return model.apply({"params": jax.tree.unflatten(tree, leaves)}, jnp.zeros((1, 1), int))

    with compiled():
        program = jax.jit(logits).lower(leaves).compile().as_text()
    assert program.count(f'custom_call_target="{FEW_ROWS}"') == 2 * 4 + 1
