"""Piece 8: softmax, and attention between words as they are, softmax(x x^T) x."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array, Vjp, vjp

from ..piece import Arguments, Function, Piece, Slip
from .hooks import after
from .softmax_slips import SOFTMAX_SLIPS
from .wrong_attention import Divisor, attend, one, over_queries, root_of_width, unchanged, unnormalised, unshifted


def simple_attention_weights(x: Any) -> Array:
    """softmax(x x^T): [T, D] -> [T, T]."""
    return reference.layers.softmax(np.asarray(x) @ np.transpose(x))


@vjp
def simple_attention_weights_vjp(x: Any) -> Vjp:
    """x occurs twice in S = x x^T, so dx = (dS + dS^T) x, where dS is dP taken back through the softmax."""
    out, softmax_back = reference.layers.softmax_vjp(x @ x.T)

    def pullback(dy: Array) -> tuple[Array]:
        (d_scores,) = softmax_back(dy)
        return ((d_scores + d_scores.T) @ x,)

    return out, pullback


def _softmax_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[0.0, np.log(3)], [1, 1]])}
    yield {"x": np.array([[1000.0, 1001, 999], [0, -1, 2]])}
    for shape in ((3, 5), (4, 2, 3), (2, 3, 4, 5)):
        yield {"x": 2 * rng.normal(size=shape)}


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[1.0, 1], [2, 0]])}  # apple, orange
    yield {"x": np.array([[40.0, 10], [0, 20], [-5, 1]])}
    for shape in ((3, 2), (2, 4), (5, 3)):
        yield {"x": rng.normal(size=shape)}


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _attention(
    x: Array, *, vectors: Callable[[Array], Array] = unchanged, divisor: Divisor = one, **options: Any
) -> Array:
    """Attention between words of which other vectors are compared, and `attend` changed."""
    compared = vectors(x)
    return attend(compared, compared, x, divisor=divisor, **options)


def _weights(x: Array, **options: Any) -> Array:
    return _attention(x, weights_only=True, **options)


# Scores x x^T are symmetric, so softmax over the queries is the transpose of softmax over the keys: no input tells
# "softmax-over-queries" from "weights-transposed" in the weights.
_WEIGHT_SLIPS = (
    Slip(
        "softmax-over-queries",
        "equals the weights with softmax over queries, not keys (the wrong axis)",
        "Each column adds to 1, where each row should. Row t holds the weights with which word t looks at all words.",
        "Add up one row of your weights, and then one column.",
        partial(_weights, normalise=over_queries),
    ),
    Slip(
        "weights-transposed",
        "equals the transposed weights",
        "Row t should hold what word t looks at. Here it holds who looks at word t.",
        "Say in words what row and column of your weights stand for.",
        **after(simple_attention_weights, lambda weights, given: weights.T),
    ),
    Slip(
        "no-softmax",
        "equals the raw scores, without softmax",
        "Scores may be negative and of any size. Weights of an average are positive and add to 1.",
        "Look at what follows the dot products.",
        partial(_weights, normalise=unchanged),
    ),
    Slip(
        "no-normalisation",
        "equals the exponentials of the scores without the division by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words.",
        "Add up one row of your weights.",
        partial(_weights, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals softmax without subtracting the maximum first",
        "Long vectors have large dot products, e^1000 is inf, and inf / inf is NaN. Subtracting a row's maximum "
        "changes nothing else.",
        "Use the softmax of this file, once it is right.",
        partial(_weights, normalise=unshifted),
    ),
    Slip(
        "scaled",
        "equals attention with scores divided by sqrt(D), which this piece does not have yet",
        "The scale is a part of scaled dot-product attention, two pieces later. Here the scores are plain dot "
        "products.",
        "Compare with the worked example: which numbers go into the softmax there?",
        partial(_weights, divisor=root_of_width),
    ),
    Slip(
        "cosine",
        "equals attention by cosines: each word vector was divided by its length",
        "A dot product keeps the lengths, so a long vector counts for more. Cosines lie between -1 and 1, and their "
        "softmax is nearly even.",
        "Compare the scores, before softmax, with those of the worked example.",
        partial(_weights, vectors=_unit),
    ),
    Slip(
        "features-for-words",
        "equals the weights between features [D, D], not between words [T, T]",
        "x^T x compares the columns of x, which are features. Words are the rows.",
        "Write the shapes of both factors of your matrix product beside each other.",
        partial(_weights, vectors=np.transpose),
    ),
)

_ATTENTION_SLIPS = (
    Slip(
        "softmax-over-queries",  # the same as transposed weights, for the reason above
        "equals attention with softmax over queries, not keys (or with the weights transposed, which is the same here)",
        "Each column of the weights adds to 1, where each row should. The result is no longer an average of the words.",
        "Add up one row of your weights, and then one column.",
        partial(_attention, normalise=over_queries),
    ),
    Slip(
        "no-softmax",
        "equals attention without softmax",
        "Raw scores are used as weights, so the result is not an average: it may be any size. Negative scores even "
        "take a word away.",
        "Look at what follows the dot products.",
        partial(_attention, normalise=unchanged),
    ),
    Slip(
        "no-normalisation",
        "equals attention whose weights were not divided by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words.",
        "Add up one row of your weights.",
        partial(_attention, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals attention by a softmax that does not subtract the maximum",
        "Long vectors have large dot products, e^1000 is inf, and inf / inf is NaN. Subtracting a row's maximum "
        "changes nothing else.",
        "Use the softmax of this file, once it is right.",
        partial(_attention, normalise=unshifted),
    ),
    Slip(
        "scaled",
        "equals attention with scores divided by sqrt(D), which this piece does not have yet",
        "The scale is a part of scaled dot-product attention, two pieces later. Here the scores are plain dot "
        "products.",
        "Compare with the worked example: which numbers go into the softmax there?",
        partial(_attention, divisor=root_of_width),
    ),
    Slip(
        "residual",
        "equals x plus the attention",
        "Adding the input is the work of the block, eight pieces later. Attention alone is an average of words.",
        "Look at what is added at the end.",
        **after(reference.attention.simple_attention, lambda result, given: given["x"] + result),
    ),
    Slip(
        "weights-only",
        "equals the weights, which were not applied to the words",
        "The weights [T, T] say how much each word counts. The result [T, D] is the average of the words by them.",
        "Look at what is returned.",
        partial(_attention, weights_only=True),
    ),
)

PIECE = Piece(
    "simple_attention",
    "Simple attention",
    "Each word becomes an average of all words, weighted by softmax of their dot products.",
    (
        Function(
            "softmax", reference.layers.softmax, _softmax_cases, SOFTMAX_SLIPS, reference.layers.softmax_vjp, "T S"
        ),
        Function(
            "simple_attention_weights",
            simple_attention_weights,
            _cases,
            _WEIGHT_SLIPS,
            simple_attention_weights_vjp,
            "T S",
        ),
        Function(
            "simple_attention",
            reference.attention.simple_attention,
            _cases,
            _ATTENTION_SLIPS,
            reference.attention.simple_attention_vjp,
            "T D",
        ),
    ),
)
