"""Piece 9: attention between queries, keys and values that the words are mapped to; raw scores, no scale yet."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm.reference.arrays import Array, Vjp, vjp
from jaxllm.reference.layers import linear, linear_vjp, softmax_vjp

from ..piece import Arguments, Function, Piece, Slip
from .hooks import before
from .wrong_attention import (
    Divisor,
    Normalise,
    Roles,
    as_given,
    attend,
    keys_as_values,
    lower_triangle,
    one,
    over_queries,
    query_and_key_swapped,
    root_of_width,
    softmax,
    unchanged,
    unnormalised,
    unshifted,
)


def attention_scores(x: Any, query: Any, key: Any) -> Array:
    """(x query) (x key)^T: [T, D], [D, K], [D, K] -> [T, T]."""
    return linear(x, query) @ linear(x, key).T


@vjp
def attention_scores_vjp(x: Any, query: Any, key: Any) -> Vjp:
    """With S = q k^T: dq = dS k and dk = dS^T q; x is read by both maps, so its gradients are added."""
    q, q_back = linear_vjp(x, query)
    k, k_back = linear_vjp(x, key)

    def pullback(dy: Array) -> tuple[Array, ...]:
        (from_q, d_query), (from_k, d_key) = q_back(dy @ k)[:2], k_back(dy.T @ q)[:2]
        return from_q + from_k, d_query, d_key

    return q @ k.T, pullback


def self_attention(x: Any, query: Any, key: Any, value: Any) -> Array:
    """softmax(scores) (x value): [T, D], [D, K], [D, K], [D, W] -> [T, W]."""
    return softmax(attention_scores(x, query, key)) @ linear(x, value)


@vjp
def self_attention_vjp(x: Any, query: Any, key: Any, value: Any) -> Vjp:
    """y = P v: dv = P^T dy, and dP = dy v^T is taken back through the softmax and the scores."""
    scores, scores_back = attention_scores_vjp(x, query, key)
    weights, softmax_back = softmax_vjp(scores)
    v, v_back = linear_vjp(x, value)

    def pullback(dy: Array) -> tuple[Array, ...]:
        from_scores, d_query, d_key = scores_back(softmax_back(dy @ v.T)[0])
        from_v, d_value = v_back(weights.T @ dy)[:2]
        return from_scores + from_v, d_query, d_key, d_value

    return weights @ v, pullback


def _score_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    return ({name: case[name] for name in ("x", "query", "key")} for case in _cases(rng))


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    apple_orange, swap = np.array([[1.0, 1], [2, 0]]), np.array([[0.0, 1], [1, 0]])
    yield {"x": apple_orange, "query": np.eye(2), "key": np.diag([2.0, 1]), "value": 3 * swap}
    yield {"x": 20 * apple_orange, "query": np.eye(2), "key": 2 * np.eye(2) - swap, "value": swap}
    for t, d, k, w in ((2, 3, 4, 5), (4, 3, 2, 5), (5, 2, 3, 4)):
        x, query, key, value = (rng.normal(size=shape) for shape in ((t, d), (d, k), (d, k), (d, w)))
        yield {"x": x, "query": query, "key": key, "value": value}


Maps = Callable[[Array, Array], tuple[Array, Array]]


def _both(query: Array, key: Array) -> tuple[Array, Array]:
    return query, key


def _scores(
    x: Array, query: Array, key: Array, *, maps: Maps = _both, roles: Roles = as_given, divisor: Divisor = one,
    normalise: Normalise = unchanged, features: bool = False,
) -> Array:  # fmt: skip
    """The scores with other maps, order, scale or softmax; or, with `features`, those between features."""
    query, key = maps(query, key)
    q, k, _ = roles(x @ query, x @ key, x)
    scores = q.T @ k if features else q @ k.T
    return normalise(scores / divisor(q, k, x))


_SCORE_SLIPS = (
    Slip(
        "query-and-key-swapped",  # k q^T is the transpose of q k^T: no input tells the two mistakes apart
        "equals the transposed scores: queries and keys are swapped",
        "Row t should hold what query t says to all keys. Attention has a direction, so the transpose is something "
        "else.",
        "Say in words what row t of your scores stands for.",
        partial(_scores, roles=query_and_key_swapped),
    ),
    Slip(
        "one-matrix-for-both",
        "equals the scores with the query's matrix used for the keys too",
        "Scores of equal queries and keys are symmetric: orange looks at apple as apple looks at orange. Two matrices "
        "are there so that it need not be so.",
        "Look at which matrix makes the keys.",
        partial(_scores, maps=lambda query, key: (query, query)),
    ),
    Slip(
        "key-matrix-for-both",
        "equals the scores with the key's matrix used for the queries too",
        "Scores of equal queries and keys are symmetric: orange looks at apple as apple looks at orange. Two matrices "
        "are there so that it need not be so.",
        "Look at which matrix makes the queries.",
        partial(_scores, maps=lambda query, key: (key, key)),
    ),
    Slip(
        "not-projected",
        "equals the dot products of the words themselves, as in simple attention",
        "The matrices of queries and keys have no effect, so nothing could be learned here. The scores are symmetric, "
        "as in simple attention.",
        "Look at what the dot product is taken of.",
        partial(_scores, maps=lambda query, key: (np.eye(len(query)),) * 2),
    ),
    Slip(
        "scaled",
        "equals the scores divided by sqrt(K), which this piece does not have yet",
        "The scale is the subject of the next piece. Here the scores are plain dot products.",
        "Compare with the scores of the worked example.",
        partial(_scores, divisor=root_of_width),
    ),
    Slip(
        "softmax-applied",
        "equals the weights: softmax was already applied to the scores",
        "Scores are the dot products before softmax. Later pieces scale and mask them in between.",
        "Look at what is returned.",
        partial(_scores, normalise=softmax),
    ),
    Slip(
        "features-for-words",
        "equals scores between features [K, K], not between words [T, T]",
        "q^T k compares the columns of queries and keys, which are features. Words are the rows.",
        "Write the shapes of both factors of your matrix product beside each other.",
        partial(_scores, features=True),
    ),
)


def _varied(
    x: Array, query: Array, key: Array, value: Array, *, maps: Maps = _both, divisor: Divisor = one, mask: Any = None,
    **options: Any,
) -> Array:  # fmt: skip
    """Self-attention with other maps, and `attend` changed."""
    query, key = maps(query, key)
    return attend(x @ query, x @ key, x @ value, mask and mask(len(x)), divisor=divisor, **options)


_ATTENTION_SLIPS = (
    Slip(
        "softmax-over-queries",
        "equals attention with softmax over queries, not keys (the wrong axis)",
        "Each column of the weights adds to 1, where each row should. A word's result is no longer an average of "
        "values.",
        "Add up one row of your weights, and then one column.",
        partial(_varied, normalise=over_queries),
    ),
    Slip(
        "weights-transposed",
        "equals attention with the weights transposed",
        "Each word gathers from those that look at it. It should gather from those that it looks at.",
        "Say in words what row and column of your weights stand for.",
        partial(_varied, weights_transposed=True),
    ),
    Slip(
        "query-and-key-swapped",
        "equals attention with queries and keys swapped",
        "The word that asks and the word that is asked change places. Softmax then runs over the wrong ones.",
        "Look at the order of the factors in your scores.",
        partial(_varied, roles=query_and_key_swapped),
    ),
    Slip(
        "one-matrix-for-both",
        "equals attention with the query's matrix used for the keys too",
        "The matrix of the keys has no effect, so it could not be learned. Scores become symmetric.",
        "Look at which matrix makes the keys.",
        partial(_varied, maps=lambda query, key: (query, query)),
    ),
    Slip(
        "values-not-projected",
        "equals an average of the words themselves: the values were not projected",
        "The matrix of the values has no effect, so what a word passes on could not be learned. The result is as wide "
        "as the words, not as wide as the values.",
        "Look at what the weights are applied to.",
        **before(self_attention, lambda given: given | {"value": np.eye(len(given["value"]))}),
    ),
    Slip(
        "keys-as-values",
        "equals attention with the keys used as values",
        "A key says how a word is found, a value says what it passes on. The matrix of the values has no effect here.",
        "Look at what the weights are applied to.",
        partial(_varied, roles=keys_as_values),
    ),
    Slip(
        "scaled",
        "equals attention with scores divided by sqrt(K), which this piece does not have yet",
        "The scale is the subject of the next piece. Here softmax is taken of the plain dot products.",
        "Compare with the worked example: which numbers go into the softmax there?",
        partial(_varied, divisor=root_of_width),
    ),
    Slip(
        "no-softmax",
        "equals attention without softmax",
        "Raw scores are used as weights, so the result is not an average: it may be any size. Negative scores even "
        "take a value away.",
        "Look at what happens between the scores and the values.",
        partial(_varied, normalise=unchanged),
    ),
    Slip(
        "no-normalisation",
        "equals attention whose weights were not divided by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words.",
        "Add up one row of your weights.",
        partial(_varied, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals attention by a softmax that does not subtract the maximum",
        "Large scores give e^1000 = inf, and inf / inf is NaN. Subtracting a row's maximum changes nothing else.",
        "Use the softmax of piece 8.",
        partial(_varied, normalise=unshifted),
    ),
    Slip(
        "causal",
        "equals attention with a causal mask, which this piece does not have yet",
        "Each word sees only those before it. The mask comes two pieces later; here all words see all.",
        "Look at whether a later word can change the result of an earlier one.",
        partial(_varied, mask=lower_triangle),
    ),
)

PIECE = Piece(
    "self_attention",
    "Self-attention",
    "Three learned matrices make queries, keys and values, so that what a word looks for, how it is found and what it "
    "passes on can differ.",
    (
        Function("attention_scores", attention_scores, _score_cases, _SCORE_SLIPS, attention_scores_vjp, "T S"),
        Function("self_attention", self_attention, _cases, _ATTENTION_SLIPS, self_attention_vjp, "T W"),
    ),
)
