"""Sampling: the draw, and the loop that slides its window over the text."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_gpt

from jaxllm import reference
from jaxllm.generate import draw, generate

KEY = jax.random.key(0)
LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]))


def frequencies(logits: jax.Array, **options: float) -> np.ndarray:
    """[B, V]: how often each token is drawn in 20,000 draws."""
    tokens = jax.vmap(lambda key: draw(logits, key, **options))(jax.random.split(KEY, 20_000))
    return np.stack([(tokens == v).mean(0) for v in range(logits.shape[-1])], -1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]),
        ({"temperature": 0.5}, np.array([[0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]]) ** 2 / [[0.345], [0.3]]),
        ({"k": 2}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"p": 0.6}, [[2 / 3, 1 / 3, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"minimum_p": 0.45}, [[2 / 3, 1 / 3, 0, 0], [0, 2 / 9, 3 / 9, 4 / 9]]),
        ({"k": 3, "p": 0.5}, [[1, 0, 0, 0], [0, 0, 3 / 7, 4 / 7]]),
        ({"temperature": 0}, [[1, 0, 0, 0], [0, 0, 0, 1]]),
    ],
    ids=str,
)
def test_draws_follow_the_probabilities(options: dict[str, float], expected: object) -> None:
    np.testing.assert_allclose(frequencies(LOGITS, **options), expected, atol=0.015)


@pytest.mark.parametrize("length", [1, 5, 8, 11], ids=lambda n: f"prompt of {n}")
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_continues_as_the_reference_does(batch: int, length: int) -> None:
    """Most likely token after token, the model seeing the last 8: against a plain loop over the NumPy model."""
    model, params = random_gpt(replace(TINY, use_bias=False), seed=1)
    prompt = np.random.default_rng(1).integers(TINY.vocab_size, size=(batch, length))
    text = prompt.copy()
    for _ in range(12):
        logits = reference.gpt.forward(model.config, params, text[:, -TINY.context_length :])
        text = np.concatenate([text, logits[:, -1].argmax(-1)[:, None]], axis=1)
    assert len(np.unique(text[:, length:])) > 2  # a model that says one thing only would prove nothing
    got = generate(model, params, jnp.asarray(prompt), KEY, 12, temperature=0)
    np.testing.assert_array_equal(got, text[:, length:])


def test_the_key_decides() -> None:
    model, params = random_gpt(TINY)
    prompt = jnp.zeros((2, 1), int)
    first, same, other = (generate(model, params, prompt, jax.random.key(s), 30) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # rows draw their own
    assert len(np.unique(first)) > 3  # and each step its own


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_beyond_the_vocabulary_are_never_drawn(temperature: float) -> None:
    """A model may have more ids than its tokenizer."""
    model, params = random_gpt(TINY)
    tokens = generate(model, params, jnp.zeros((3, 1), int), KEY, 200, temperature, vocab_size=5)
    assert tokens.max() < 5
    assert temperature == 0 or set(np.unique(tokens)) == {0, 1, 2, 3, 4}


def test_a_tiny_temperature_is_greedy() -> None:
    assert draw(LOGITS - 50, KEY, temperature=1e-38).tolist() == [0, 3]
