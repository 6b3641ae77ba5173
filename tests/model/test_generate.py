"""Generation: the draw, the loop through the cache against a plain loop over the NumPy model, and edge cases."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import ABSOLUTE, PLACED
from models import TINY, VARIANTS, random_gpt

from jaxllm import GPT, GPTConfig, fast, reference, sampling
from jaxllm.compare import random_parameters
from jaxllm.fast.generate import _advance, _rounded, start_generation, stream
from jaxllm.generate import Sampling, draw, generate

KEY = jax.random.key(0)
SMALL = replace(TINY, n_layers=1)
CHANGED = {"visible": ABSOLUTE, "score": PLACED, "separator": 5}  # by positions in a row, and numbers of documents
LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]))


def frequencies(logits: jax.Array, **options: float) -> np.ndarray:
    """[B, V]: how often each token is drawn in 20,000 draws."""
    keys = jax.random.split(KEY, (20_000, len(logits)))
    tokens = jax.vmap(lambda keys: draw(logits, keys, Sampling(**options)))(keys)
    return np.stack([(tokens == v).mean(0) for v in range(logits.shape[-1])], -1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]),
        ({"temperature": 0.5}, np.array([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]) ** 2 / [[0.345], [0.3]]),
        ({"top_k": 2}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"top_p": 0.6}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"min_p": 0.45}, [[2 / 3, 1 / 3, 0, 0], [0, 2 / 9, 3 / 9, 4 / 9]]),
        ({"top_k": 3, "top_p": 0.5}, [[1, 0, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"temperature": 0}, [[1, 0, 0, 0], [0, 0, 0, 1]]),
    ],
    ids=str,
)
def test_draws_follow_the_probabilities(options: dict[str, float], expected: object) -> None:
    np.testing.assert_allclose(frequencies(LOGITS, **options), expected, atol=0.015)


def plain_loop(
    config: GPTConfig, params: Any, row: list[int], n: int, penalty: float, begin: int | None = None
) -> list[int]:
    """Greedy decoding by the reference, which reads all tokens each time; a full context loses its older half."""
    text, start = list(row[-config.context_length :]), 0
    if begin is not None:
        text[0] = begin
    for i in range(n):
        if i and len(text) - 1 - start >= config.context_length:
            start = len(text) - 1 - config.context_length // 2
        read = text[start:] if begin is None else [begin, *text[start + 1 :]]
        logits = reference.gpt.forward(config, params, np.array([read]))[0, -1]
        seen = np.isin(np.arange(config.vocab_size), text)
        text.append(int(reference.sampling.repetition_penalty(logits, seen, penalty).argmax()))
    return text[-n:]


PROMPTS = [[3], [1, 4, 1, 5, 9, 2], [7, 7, 2, 8, 1, 8, 2, 8, 4, 5, 9]]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "variant",
    [
        "gpt2",
        "llama",
        *(
            pytest.param(v, marks=pytest.mark.newest)
            for v in ("multi-query", "qwen", "separator", "changed", "experts", "gemma 3", "neox")
        ),
    ],
)
def test_greedy_continues_as_the_reference_does(variant: str) -> None:
    """Three prompts of unequal lengths, one longer than the context, continued far beyond it; and one prompt alone."""
    variants = VARIANTS | {"separator": {"separator": 5, "ngrams": 4, "ngram_rows": 7}, "changed": CHANGED}
    config = replace(TINY if variant == "gpt2" else SMALL, **variants[variant] | {"tie_embeddings": False})
    model, params = GPT(config), random_parameters(GPT(config), seed=4)
    want = [plain_loop(config, params, row, 25, penalty=1.5) for row in PROMPTS]
    assert len({t for row in want for t in row}) > 3  # a model that repeats one token would prove nothing
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert generate(model, params, PROMPTS, KEY, 25, sampling).tolist() == want
    assert generate(model, params, PROMPTS[1:2], KEY, 25, sampling).tolist() == want[1:2]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("prompt", "n"), [(6, 2), (6, 3), (6, 4), (6, 5), (8, 1), (8, 2), (9, 1), (9, 2)])
def test_where_the_context_ends(prompt: int, n: int) -> None:
    """Texts of 7, 8, 9 and 10 tokens with a context of 8: from 9 on the older half is dropped."""
    config = replace(SMALL, tie_embeddings=False)
    model, params = GPT(config), random_parameters(GPT(config), seed=4)
    row = PROMPTS[2][:prompt]
    want = plain_loop(config, params, row, n, penalty=1.5)
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert generate(model, params, [row], KEY, n, sampling).tolist() == [want]


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("window", [None, 9])
def test_a_context_longer_than_its_prompts_is_outgrown_twice(window: int | None) -> None:
    """After each drop a row begins in the middle of the tokens read again, and then grows by half a context."""
    config = replace(SMALL, context_length=64, sliding_window=window, tie_embeddings=False)
    model, params = GPT(config), random_parameters(GPT(config), seed=4)
    want = [plain_loop(config, params, row, 120, penalty=1.5) for row in PROMPTS[:2]]
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert generate(model, params, PROMPTS[:2], KEY, 120, sampling).tolist() == want


@pytest.mark.usefixtures("quick_compilation")
def test_a_row_is_the_same_whatever_is_beside_it_and_however_it_is_cut() -> None:
    model, params = random_gpt(SMALL)
    sampling = Sampling(0.9, 5, 0.95, 0.01, 1.1)
    whole = generate(model, params, PROMPTS, KEY, 12, sampling)
    np.testing.assert_array_equal(generate(model, params, PROMPTS[:1], KEY, 12, sampling), whole[:1])
    one_by_one = stream(start_generation(model, params, PROMPTS, KEY, 12, sampling), 12)
    np.testing.assert_array_equal(np.concatenate([*one_by_one], axis=1), whole)
    in_parts = start_generation(model, params, PROMPTS, KEY, 12, sampling).advance(5).advance(5).advance(1)
    np.testing.assert_array_equal(in_parts.tokens(), whole)


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_a_stop_token_ends_its_row_and_the_last_one_ends_the_loop() -> None:
    model, params = random_gpt(SMALL, seed=3)
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    free = generate(model, params, PROMPTS, KEY, 25, sampling).tolist()
    stop = [free[0][4], free[1][2]]
    ends = [next((i for i, t in enumerate(row) if t in stop), 24) for row in free]
    got = generate(model, params, PROMPTS, KEY, 25, sampling, stop_tokens=stop).tolist()
    assert len(got[0]) == max(ends) + 1
    for row, end, plain in zip(got, ends, free, strict=True):
        assert row == plain[: end + 1] + [plain[end]] * (max(ends) - end)


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_the_key_decides() -> None:
    model, params = random_gpt(SMALL)
    first, same, other = (generate(model, params, [[0], [0]], jax.random.key(s), 30) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # rows draw their own
    assert len(np.unique(first)) > 3  # and each step its own


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_beyond_the_vocabulary_are_never_drawn(temperature: float) -> None:
    """A model may have more ids than its tokenizer has."""
    model, params = random_gpt(SMALL)
    tokens = generate(model, params, [[0]] * 3, KEY, 200, Sampling(temperature, None, None, None, 1.1), vocab_size=5)
    assert tokens.max() < 5
    assert temperature == 0 or set(np.unique(tokens)) == {0, 1, 2, 3, 4}


def test_of_equal_logits_the_first_is_the_most_likely() -> None:
    logits = jnp.array([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert draw(logits, jax.random.split(KEY, 2), Sampling(0)).tolist() == [1, 0]


def test_top_p_ends_where_p_is_reached_exactly() -> None:
    """Two tokens have all of the probability, to the last digit; the others come after p = 1."""
    logits = np.array([-200.0, 0.0, -300.0, 0.0], np.float32)
    for top_p in (sampling.top_p, reference.sampling.top_p):
        np.testing.assert_array_equal(top_p(logits, 1.0), [-np.inf, 0, -np.inf, 0])


def test_lengths_are_rounded_to_a_few_sizes() -> None:
    for length, rounded in ((1, 16), (16, 16), (17, 32), (255, 256), (256, 256), (257, 512), (513, 768), (1024, 1024)):
        assert _rounded(length) == rounded


def test_a_tiny_temperature_is_greedy() -> None:
    assert draw(LOGITS - 50, jax.random.split(KEY, 2), Sampling(1e-38)).tolist() == [0, 3]


@pytest.mark.usefixtures("quick_compilation")
def test_other_lengths_and_other_numbers_do_not_compile_again() -> None:
    config = replace(SMALL, context_length=64)
    model, params = random_gpt(config)
    generate(model, params, [[1, 2, 3]], KEY, 5, Sampling(0.7, 3, 0.8))
    before = _advance._cache_size()
    for row, n, temperature, p in (([4], 9, 0.7, 0.8), ([5] * 16, 16, 1.3, 0.5), ([1, 2], 2, 0.1, 0.9)):
        generate(model, params, [row], jax.random.key(n), n, Sampling(temperature, 3, p))
    assert _advance._cache_size() == before


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_a_begin_token_stays_the_first_that_the_model_sees(variant: str) -> None:
    """With a prompt longer than the context, and each time a row has filled it, independent of the other rows."""
    config = replace(TINY, **VARIANTS[variant], tie_embeddings=False)
    model, params = GPT(config), random_parameters(GPT(config), seed=4)
    prompts = [[6, *row] for row in PROMPTS]
    want = [plain_loop(config, params, row, 25, penalty=1.5, begin=6) for row in prompts]
    assert want != [plain_loop(config, params, row, 25, penalty=1.5) for row in prompts]
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert generate(model, params, prompts, KEY, 25, sampling, begin_token=6).tolist() == want
    assert generate(model, params, prompts[2:], KEY, 25, sampling, begin_token=6).tolist() == want[2:]


def test_a_prompt_without_a_token_is_refused() -> None:
    model, params = random_gpt(TINY)
    with pytest.raises(ValueError, match="a prompt holds no token"):
        generate(model, params, [[1], []], KEY, 3)
    with pytest.raises(ValueError, match="max_new_tokens is 0, but it must be at least 1"):
        generate(model, params, [[1]], KEY, 0)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "sampling", [Sampling(0, repetition_penalty=1.5), pytest.param(Sampling(0.9, 5, 0.95, 0.01), marks=pytest.mark.newest)],
    ids=["greedy", "sampled"],
)  # fmt: skip
def test_the_textbook_generates_the_same(sampling: Sampling) -> None:
    """Without a cache and without jit, also beyond the context and after a stop token."""
    config = replace(SMALL, tie_embeddings=False)
    model, params = GPT(config), random_parameters(GPT(config), seed=4)
    prompts = [[6, *row] for row in PROMPTS]
    for options in ({}, {"vocab_size": 15, "stop_tokens": [3, 4], "begin_token": 6}):
        want = generate(model, params, prompts, KEY, 14, sampling, **options)
        with fast.off():
            np.testing.assert_array_equal(generate(model, params, prompts, KEY, 14, sampling, **options), want)


def test_a_sampling_is_a_tree_of_what_a_program_takes() -> None:
    """Another k or another rule makes another program; other numbers do not."""
    leaves, structure = jax.tree.flatten(Sampling(0.7, 5, 0.9))
    assert leaves == [0.7, 0.9] and structure == jax.tree.structure(Sampling(0.8, 5, 0.8))
    for other in (Sampling(0.7, 4, 0.9), Sampling(0, 5, 0.9), Sampling(0.7, 5), Sampling(0.7, 5, 0.9, 0.1)):
        assert jax.tree.structure(other) != structure
        assert jax.tree.map(lambda x: x, other) == other
