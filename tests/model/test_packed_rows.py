"""Rows that hold several texts: each text's hidden states, logits and gradients are those that it has alone."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import ALIBI, PREFIX
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, InputError
from jaxllm.gpt import summed_loss

LENGTHS = (3, 1, 5, 2)  # of the texts of a row; a place is left, with the last number
DOCUMENTS = np.array([[0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 4]])
POSITIONS = np.array([[0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 0]])
ROPE = {"position": "rotary", "rope_base": 20.0}
WAYS = {
    "learned": {},
    "sinusoidal": {"position": "sinusoidal"},
    "rotary": VARIANTS["llama"] | ROPE,
    "no positions": {"position": "none"},
    "n-grams": {"ngrams": 3, "ngram_rows": 11},
    "separated too": {"separator": 3},
}


def texts(tokens: Any) -> list[Any]:
    """The texts [1, T] of a row."""
    ends = np.cumsum((0, *LENGTHS))
    return [tokens[:, start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way == "learned" else [pytest.mark.newest]) for way in WAYS]
)
def test_each_text_is_as_it_is_alone(way: str) -> None:
    """Hidden states in float64, to 1e-12 of the largest."""
    config = replace(TINY, context_length=12, **WAYS[way])
    tokens = random_tokens(config, 1, seed=4)
    with jax.enable_x64(True):
        model, params = random_gpt(config, "float64")
        packed = texts(model.apply({"params": params}, tokens, DOCUMENTS, POSITIONS, method="hidden"))
        for got, text in zip(packed, texts(tokens), strict=True):
            want = np.asarray(model.apply({"params": params}, text, method="hidden"))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())
        together = model.apply({"params": params}, tokens, method="hidden")
    assert way == "separated too" or not np.allclose(together[:, 4:9], packed[2], rtol=0.01)


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_the_loss_of_a_row_is_that_of_its_texts() -> None:
    """With the gradient of each parameter; the logits of the model are those of the hidden states."""
    config = replace(TINY, context_length=12)
    tokens, targets = random_tokens(config, 1), random_tokens(config, 1, seed=1)
    weights = np.arange(12)[None] < sum(LENGTHS)
    with jax.enable_x64(True):
        model, params = random_gpt(config, "float64")

        def packed(params: Any) -> jax.Array:
            given = {"documents": DOCUMENTS, "positions": POSITIONS}
            return summed_loss(model, params, tokens, targets, jnp.asarray(weights, float), **given)

        def alone(params: Any) -> jax.Array:
            rows = zip(texts(tokens), texts(targets), strict=True)
            return sum((summed_loss(model, params, *row) for row in rows), jnp.zeros(()))

        got, want = (jax.jit(jax.value_and_grad(f))(params) for f in (packed, alone))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, want)
        hidden = model.apply({"params": params}, tokens, DOCUMENTS, POSITIONS, method="hidden")
        logits = model.apply({"params": params}, tokens, DOCUMENTS, POSITIONS)
        table = params["token_embedding"]["table"]
    np.testing.assert_allclose(logits, np.asarray(hidden) @ np.asarray(table).T, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_packed() -> None:
    """Positions alone would let texts attend to each other; the others are given places in the row."""
    for changes, given, message in (
        ({}, {"positions": POSITIONS}, "positions are given without documents"),
        ({"visible": PREFIX}, {"documents": DOCUMENTS}, "model.visible is .* tune.packing = false"),
        ({"score": ALIBI}, {"documents": DOCUMENTS, "positions": POSITIONS}, "model.score is"),
    ):
        model = GPT(replace(TINY, context_length=12, **changes))
        with pytest.raises(InputError, match=message):
            model.init(jax.random.key(0), random_tokens(model.config, 1), **given)
