"""Hashed n-grams: rows that saved models rely on, evenly used; no n-gram reaches further than it may."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_gpt, random_tokens

from jaxllm.embeddings import ngram_ids
from jaxllm.gpt import apply_with_intermediates
from jaxllm.reference.embeddings import ngram_ids as reference_ids


def test_rows_are_those_of_saved_models() -> None:
    """Another hash would read other rows of a table that was trained."""
    tokens = jnp.array([0, 1, 2, 50256, 2, 1])
    assert ngram_ids(tokens, 2, 16384).tolist() == [10423, 3088, 15968, 10581, 11044, 5503]
    assert ngram_ids(tokens, 4, 10**6).tolist() == [76727, 996176, 78823, 2574, 926760, 174866]


def test_rows_are_used_as_if_drawn() -> None:
    """All pairs of 256 tokens: as many rows as random draws reach, and no row much more often than its share."""
    rows = 2**14
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).reshape(-1, 2)
    ids = np.asarray(ngram_ids(jnp.asarray(pairs), 2, rows))[:, 1]
    counts = np.bincount(ids, minlength=rows)
    assert (counts > 0).mean() == pytest.approx(1 - np.exp(-len(pairs) / rows), abs=0.01)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)


@pytest.mark.parametrize("tokens", [[2**31 - 1, -1, -(2**31)], [2**24, 7, 0]], ids=str)
def test_any_token_has_the_row_of_the_reference(tokens: list[int]) -> None:
    """Also one outside the vocabulary, whose own vector is NaN."""
    ids = np.array([tokens], np.int32)
    np.testing.assert_array_equal(jax.jit(ngram_ids, static_argnums=(1, 2))(ids, 3, 1000), reference_ids(ids, 3, 1000))


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_a_vector_depends_on_the_tokens_of_its_ngrams() -> None:
    """Those are itself and two before it, of which the separator at 4 hides all from those that follow it."""
    config = replace(TINY, ngrams=3, ngram_rows=1000, separator=5)
    model, params = random_gpt(config)
    tokens = random_tokens(config, batch=1)
    tokens[:] = np.where(tokens == 5, 6, tokens)
    tokens[0, 4] = 5

    def embedded(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(apply_with_intermediates(model, params, tokens)[1]["ngram_embedding"])[0]

    for t, reached in ((0, [0, 1, 2]), (2, [2, 3]), (5, [5, 6, 7])):
        other = tokens.copy()
        other[0, t] = 7 + (tokens[0, t] == 7)
        changed = (embedded(other) != embedded(tokens)).any(-1)
        assert np.flatnonzero(changed).tolist() == reached
