"""The key/value cache: reading token by token gives the logits of reading all at once."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import InputError
from jaxllm.cache import Cache
from jaxllm.fast.cached_gpt import CachedGPT
from jaxllm.fast.generate import _advance, start_generation
from jaxllm.generate import Sampling

STARTS = np.array([0, 2, 3])  # slots of the rows' first tokens


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2}, {"position": "sinusoidal", "mup_base_width": 3}, {"position": "rotary", "n_heads": 4, "n_kv_heads": 2},
        *(
            pytest.param(options, marks=pytest.mark.newest)
            for options in (
                {"separator": 5}, {"sliding_window": 3}, VARIANTS["qwen"], VARIANTS["experts"],
                {"position": "rotary", "separator": 5, "sliding_window": 4}, {"separator": 5, "ngrams": 4},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_cached_logits_are_the_uncached_ones(options: dict[str, Any]) -> None:
    """Three rows aligned at their ends, float32; within 1e-5 of the largest logit."""
    config = replace(TINY, **{"n_layers": 1} | options)
    model, params = random_gpt(config)
    tokens = random_tokens(config)
    tokens[:, 4] = 5  # the separator of some configs, inside the prompt in one case and after it in another
    tokens[1, 6] = 5
    whole = model.apply({"params": params}, tokens)
    rows = np.stack(
        [np.concatenate([np.zeros(s, np.int32), row[: 8 - s]]) for s, row in zip(STARTS, tokens, strict=True)]
    )
    cache = Cache.empty(config, jnp.asarray(STARTS), 10)
    read = jax.jit(partial(CachedGPT(config).apply, {"params": params}))
    logits, cache = read(rows[:, :5], cache)
    for slot in range(5, 9):
        want = np.stack([whole[i, slot - 1 - s] for i, s in enumerate(STARTS)])
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=f"slot {slot}")
        if slot < 8:
            logits, cache = read(rows[:, slot : slot + 1], cache)
    assert int(cache.length) == 8


def test_more_than_the_cache_holds_is_refused() -> None:
    _, params = random_gpt(TINY)
    cache = Cache.empty(TINY, jnp.zeros(1, int), 4)
    with pytest.raises(InputError, match="5 tokens are more than the cache's capacity = 4"):
        CachedGPT(TINY).apply({"params": params}, np.zeros((1, 5), np.int32), cache)


def _one_thread() -> str:
    """A program whose loop XLA compiles into one single-threaded function."""
    loop = jax.jit(lambda x: jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x)))
    return loop.lower(jnp.ones(4)).compile().as_text() or ""


def _one_copy() -> str:
    """A program that only copies."""
    return jax.jit(lambda x: x).lower(jnp.ones(4)).compile().as_text() or ""


@pytest.mark.newest
@pytest.mark.parametrize("lookup", [0, 3])
def test_the_loop_is_neither_one_thread_nor_copies_its_cache(lookup: int) -> None:
    """Without workarounds XLA 0.12 makes one single-threaded function, and two copies of each layer's values a token."""
    config = replace(TINY, n_layers=1, position="rotary")
    model, params = random_gpt(config)
    begun = start_generation(model, params, [[1, 2]], jax.random.key(0), 6, Sampling(0), lookup=lookup)
    fixed = (begun.model, begun.plan, begun.params, begun.sampling, begun.stop, begun.key)
    program = _advance.lower(*fixed, begun.state, jnp.asarray(2)).compile().as_text()
    for mark, has_it in (("small_call", _one_thread), (" copy(", _one_copy)):
        if mark not in has_it():
            pytest.skip(f"this XLA has another name for {mark!r}")  # so the test would prove nothing
    assert "small_call" not in program
    shapes = [f"f32[{','.join(map(str, x.shape))}]" for x in begun.state.cache.layers[0]]
    assert "while" in program and all(shape in program for shape in shapes)
    copies = [
        line for line in program.splitlines() if " copy(" in line and any(f"= {shape}" in line for shape in shapes)
    ]
    assert not copies
