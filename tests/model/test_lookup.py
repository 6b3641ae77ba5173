"""Prompt lookup: the drafts, several tokens read at once, and the text that is the same with and without."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import ABSOLUTE, PLACED
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, InputError, fast, reference
from jaxllm.cache import Cache
from jaxllm.compare import random_parameters
from jaxllm.fast.cached_gpt import CachedGPT
from jaxllm.fast.generate import start_generation, stream
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling, generate
from jaxllm.lookup import drafted

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SMALL = replace(TINY, n_layers=1, tie_embeddings=False)
GREEDY, PENALTY = Sampling(0), Sampling(0, repetition_penalty=1.5)
CHANGED = {"visible": ABSOLUTE, "score": PLACED, "separator": 5}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layers": 2},
    "window": {"sliding_window": 9, "context_length": 64},
    "ngrams": {"separator": 5, "ngrams": 4, "ngram_rows": 7},
    "llama": VARIANTS["llama"],
    "qwen": VARIANTS["qwen"],
    "multi-query": VARIANTS["multi-query"],
    "changed": CHANGED,
}
FIRST = ("gpt2",)  # of which the oldest versions are tested too


def a_model(name: str, seed: int) -> tuple[GPT, Any]:
    """A model with few ids, which soon repeats itself but not at once."""
    model = GPT(replace(SMALL, vocab_size=7, **MODELS[name]))
    return model, random_parameters(model, seed=seed)


def some_prompts(seed: int, rows: int) -> list[list[int]]:
    """Prompts of 1 to 16 ids, most of which repeat a part of themselves."""
    rng = np.random.default_rng(seed)
    return [np.resize(rng.integers(7, size=rng.integers(1, 9)), rng.integers(1, 17)).tolist() for _ in range(rows)]


def readings(prompts: list[list[int]], tokens: np.ndarray, n: int) -> int:
    """How often a model reads to write these tokens, within its context, if every row's drafts must be right."""
    done, count = 1, 0  # the first token comes from the prompt
    while done < tokens.shape[1]:
        right = n
        for prompt, row in zip(prompts, tokens, strict=True):
            text = np.array([[*prompt, *row[:done]]])
            draft, true = reference.lookup.drafted(text, text.shape[1], [0], n)[0], row[done:][:n]
            right = min(right, int((draft[: len(true)] == true).cumprod().sum()))
        done, count = done + right + 1, count + 1
    return count


def test_drafts_follow_the_latest_of_the_longest() -> None:
    for text, draft in (
        ([1, 2, 3, 4, 1, 2, 3], [4, 1, 2, 3, 4]),
        ([1, 2, 5, 9, 3, 2, 6, 8, 1, 2], [5, 9, 3, 2, 6]),  # two tokens alike before one
        ([2, 5, 2, 6, 7, 2], [6, 7, 2, 6, 7]),  # the latest of two
        ([1, 2, 3], [3, 3, 3, 3, 3]),  # nothing to look up
        ([4, 4], [4, 4, 4, 4, 4]),
        ([4], [4, 4, 4, 4, 4]),
        ([5, 9], [9, 9, 9, 9, 9]),  # 9 is also before the text, where nothing is looked up
    ):
        padded = jnp.array([[9, 9, *text, 3, 3, 3]])
        got = jax.jit(drafted, static_argnums=3)(padded, 2 + len(text), jnp.array([2]), 5)
        twin = reference.lookup.drafted(np.asarray(padded), 2 + len(text), [2], 5)
        assert got.tolist() == twin.tolist() == [draft], text


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2}, {"separator": 5, "ngrams": 4},
        *(
            pytest.param(options, marks=pytest.mark.newest)
            for options in (CHANGED, VARIANTS["llama"], {"n_heads": 4, "n_kv_heads": 2, "position": "rotary"})
        ),
    ],
    ids=str,
)  # fmt: skip
def test_logits_of_tokens_read_together_are_those_of_the_whole_text(options: dict[str, Any]) -> None:
    """A prompt of 3 (in its row 2 and padding), then 3 tokens of which 2 are right, then the rest and 2 guesses beyond
    the context."""
    config = replace(SMALL, **options)
    model, params = random_gpt(config)
    tokens = random_tokens(config, batch=2)
    tokens[:, 3:5] = 5, 6  # 5 is the separator of some configs
    whole = model.apply({"params": params}, tokens)
    texts = np.stack([tokens[0], np.concatenate([[0], tokens[1, :-1]])])
    wrong = (texts + 1) % config.vocab_size
    wrong[:, 5] = 5  # a document that never began
    read = jax.jit(partial(CachedGPT(config).apply, {"params": params}), static_argnums=2)
    _, cache = read(texts[:, :3], Cache.empty(config, jnp.array([0, 1]), 11))
    window = np.concatenate([texts[:, 3:5], wrong[:, 5:6]], axis=1)
    first, after = read(window, cache, True)
    cache = after.with_first(jnp.asarray(2), window, cache)
    assert int(cache.length) == 5
    second, _ = read(np.concatenate([texts[:, 5:], wrong[:, :2]], axis=1), cache, True)
    got = np.concatenate([first[:, :2], second[:, :3]], axis=1)
    want = np.stack([whole[0, 3:8], whole[1, 2:7]])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.newest) for n in MODELS])
def test_the_text_is_the_one_without_drafts(name: str) -> None:
    """Far beyond the context, with several rows and other prompts, with and without a penalty."""
    alone = [(1, 12, GREEDY)] if name in ("gpt2", "window") else []
    for rows, n, sampling in (*alone, (3, 4, PENALTY)):
        for seed in range(6):
            model, params = a_model(name, seed)
            prompts = some_prompts(seed, rows)
            plain = generate(model, params, prompts, KEY, 40, sampling)
            done = start_generation(model, params, prompts, KEY, 40, sampling, lookup=n).advance(39)
            np.testing.assert_array_equal(done.tokens(), plain)
            assert 39 / (n + 1) <= int(done.state.readings) <= 39


@pytest.mark.parametrize(
    ("rows", "cases"),
    [(1, [(0, 1, PENALTY), (3, 15, GREEDY)]), (2, [(1, 4, GREEDY), (2, 4, GREEDY), (5, 4, PENALTY)])],
    ids=["1", "2"],
)
def test_a_reading_yields_what_was_drafted_rightly(rows: int, cases: list[tuple[int, int, Sampling]]) -> None:
    """As many readings as the twin's drafts need, in every row at once."""
    model, params = a_model("window", 1)
    counts = []
    for seed, n, sampling in cases:
        prompts = some_prompts(seed, rows)
        done = start_generation(model, params, prompts, KEY, 30, sampling, lookup=n).advance(29)
        counts.append(int(done.state.readings))
        assert counts[-1] == readings(prompts, done.tokens(), n)
    assert min(counts) < 29 and len(set(counts)) > 1  # 29 where no draft is right


@pytest.mark.newest
@pytest.mark.parametrize(("prompt", "n"), [(6, 2), (6, 3), (6, 4), (6, 12), (8, 1), (8, 2), (9, 1), (9, 12)])
def test_where_the_context_ends(prompt: int, n: int) -> None:
    """Texts of 7 to 21 tokens with a context of 8: guesses beyond it have no position."""
    model, params = a_model("gpt2", 2)
    row = [3, 1, 4, 3, 1, 4, 3, 1, 4][:prompt]
    want = generate(model, params, [row], KEY, n, GREEDY).tolist()
    assert generate(model, params, [row], KEY, n, GREEDY, lookup=5).tolist() == want


@pytest.mark.newest
def test_stop_tokens_and_a_begin_token() -> None:
    """Rows end at their stop tokens, also among tokens of one reading, and one that is done slows down no other."""
    model, params = a_model("window", 3)
    prompts = [[6, *row] for row in some_prompts(5, 3)]
    for stop in ([2, 2], [0, 4], [1, 3]):
        rest = (prompts, KEY, 70, PENALTY, None, stop, 6)
        want = generate(model, params, *rest)
        np.testing.assert_array_equal(generate(model, params, *rest, lookup=6), want)


@pytest.mark.newest
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_packed_weights(weights: str) -> None:
    for seed in range(3):
        model, params = a_model("window", seed)
        packed, prompts = pack(params, weights), some_prompts(seed, 2)
        want = generate(model, packed, prompts, KEY, 60, PENALTY, vocab_size=6)
        np.testing.assert_array_equal(generate(model, packed, prompts, KEY, 60, PENALTY, 6, lookup=5), want)


@pytest.mark.newest
def test_a_stream_gives_the_tokens_of_a_few_readings_at_a_time() -> None:
    model, params = a_model("window", 1)
    prompts = some_prompts(1, 2)
    whole = generate(model, params, prompts, KEY, 33, PENALTY)
    pieces = [*stream(start_generation(model, params, prompts, KEY, 33, PENALTY, lookup=4), 33)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    assert [piece.shape[1] for piece in pieces] == [1, *[5] * 6, 2]


@pytest.mark.newest
def test_the_textbook_takes_lookup_and_needs_none() -> None:
    model, params = a_model("gpt2", 1)
    with fast.off():
        want = generate(model, params, [[1, 2]], KEY, 3, GREEDY)
        np.testing.assert_array_equal(generate(model, params, [[1, 2]], KEY, 3, GREEDY, lookup=3), want)


@pytest.mark.parametrize("textbook", [True, False])
def test_what_is_refused(textbook: bool) -> None:
    model, params = a_model("gpt2", 1)
    with fast.off() if textbook else nullcontext():
        with pytest.raises(InputError, match="lookup is 4 at a temperature of 0.8, but .* set the temperature to 0 or"):
            generate(model, params, [[1, 2]], KEY, 3, Sampling(0.8), lookup=4)
        for n in (-1, 16):
            with pytest.raises(InputError, match=f"^lookup is {n}, but it must be from 0 to 15.$"):
                generate(model, params, [[1, 2]], KEY, 3, GREEDY, lookup=n)
