"""Piece 8: softmax, and attention between words as they are, softmax(x x^T) x."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array, Vjp, vjp

from ..piece import Arguments, Function, Piece, Slip
from .wrong_attention import attend, over_queries, softmax, transposed, unchanged, unnormalised, unshifted, weights


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


def _one_maximum(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return unshifted(x - x.max())


def _quiet_unshifted(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return unshifted(x)


def _exponentials(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.exp(x)


def _shares(x: Array) -> Array:
    with np.errstate(all="ignore"):
        return x / x.sum(axis=-1, keepdims=True)


_SOFTMAX_SLIPS = (
    Slip(
        "no-max-subtraction",
        "equals softmax without subtracting the maximum first",
        "e^1000 is larger than any float, and inf / inf is NaN. The maximum cancels in the ratio, so subtracting it "
        "changes nothing but the size of the numbers.",
        "Look at how large the exponentials become, and at what may be subtracted from all scores of a row.",
        _quiet_unshifted,
    ),
    Slip(
        "one-maximum-for-all",
        "equals softmax with one maximum for the whole array, not one for each row",
        "A row far below that maximum has exponentials that are all 0, and 0 / 0 is NaN. Each row needs its own "
        "maximum.",
        "Look at the axis of the maximum.",
        _one_maximum,
    ),
    Slip(
        "wrong-axis",
        "equals softmax over the axis before the last (over queries, not keys)",
        "Each column adds to 1, where each row should. In attention that means that keys share out the queries, and a "
        "query's weights have any sum.",
        "Add up one row of your result, and then one column.",
        over_queries,
    ),
    Slip(
        "first-axis",
        "equals softmax over the first axis",
        "On a matrix that is the axis of queries, and on a batch it mixes examples that have nothing to do with each "
        "other. The axis that is normalised is the last one, however many come before it.",
        "Count axes from the end, as in axis -1, where the number of axes in front may vary.",
        lambda x: softmax(x, axis=0),
    ),
    Slip(
        "one-sum-for-all",
        "equals softmax with one sum for the whole array, not one for each row",
        "All numbers together add to 1, where each row should. A sum without an axis adds everything.",
        "Look at the axis of the sum.",
        lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    ),
    Slip(
        "no-normalisation",
        "equals the exponentials without the division by their sum",
        "The numbers are positive, but a row does not add to 1. Weights that do not add to 1 make an average too large "
        "or too small.",
        "Add up one row of your result.",
        unnormalised,
    ),
    Slip(
        "exponentials-only",
        "equals e^x, neither divided by its sum nor safe from overflow",
        "The numbers are positive, but a row does not add to 1. For scores above 709 they are inf.",
        "Add up one row of your result.",
        _exponentials,
    ),
    Slip(
        "no-exponential",
        "equals x divided by its sum, without the exponential",
        "A row adds to 1, but negative scores give negative weights, and a sum near 0 gives huge ones. The exponential "
        "makes all numbers positive first.",
        "Look at what is applied to each score before the division.",
        _shares,
    ),
    Slip(
        "base-2",
        "equals softmax with powers of 2 instead of e",
        "The rows add to 1, but the weights are more even than they should be: it is softmax of x times ln 2.",
        "Look at the base of the power.",
        lambda x: softmax(x * np.log(2)),
    ),
    Slip(
        "log-softmax",
        "equals the logarithm of softmax",
        "Log-probabilities are what a loss needs. Attention needs the probabilities themselves.",
        "Look at what is done after the division.",
        lambda x: x - x.max(axis=-1, keepdims=True) - np.log(unnormalised(x).sum(axis=-1, keepdims=True)),
    ),
)


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# Scores x x^T are symmetric, so softmax over the queries is the transpose of softmax over the keys: no input tells
# "softmax-over-queries" from "weights-transposed" in the weights.
_WEIGHT_SLIPS = (
    Slip(
        "softmax-over-queries",
        "equals the weights with softmax over queries, not keys (the wrong axis)",
        "Each column adds to 1, where each row should. Row t holds the weights with which word t looks at all words.",
        "Add up one row of your weights, and then one column.",
        lambda x: weights(x, x, divisor=1, normalise=over_queries),
    ),
    Slip(
        "weights-transposed",
        "equals the transposed weights",
        "Row t should hold what word t looks at. Here it holds who looks at word t.",
        "Say in words what row and column of your weights stand for.",
        lambda x: weights(x, x, divisor=1, normalise=transposed),
    ),
    Slip(
        "no-softmax",
        "equals the raw scores, without softmax",
        "Scores may be negative and of any size. Weights of an average are positive and add to 1.",
        "Look at what follows the dot products.",
        lambda x: weights(x, x, divisor=1, normalise=unchanged),
    ),
    Slip(
        "no-normalisation",
        "equals the exponentials of the scores without the division by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words.",
        "Add up one row of your weights.",
        lambda x: weights(x, x, divisor=1, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals softmax without subtracting the maximum first",
        "Long vectors have large dot products, e^1000 is inf, and inf / inf is NaN. Subtracting a row's maximum "
        "changes nothing else.",
        "Use the softmax of this file, once it is right.",
        lambda x: weights(x, x, divisor=1, normalise=unshifted),
    ),
    Slip(
        "scaled",
        "equals attention with scores divided by sqrt(D), which this piece does not have yet",
        "The scale is a part of scaled dot-product attention, two pieces later. Here the scores are plain dot "
        "products.",
        "Compare with the worked example: which numbers go into the softmax there?",
        lambda x: weights(x, x),
    ),
    Slip(
        "cosine",
        "equals attention by cosines: each word vector was divided by its length",
        "A dot product keeps the lengths, so a long vector counts for more. Cosines lie between -1 and 1, and their "
        "softmax is nearly even.",
        "Compare the scores, before softmax, with those of the worked example.",
        lambda x: weights(_unit(x), _unit(x), divisor=1),
    ),
    Slip(
        "features-for-words",
        "equals the weights between features [D, D], not between words [T, T]",
        "x^T x compares the columns of x, which are features. Words are the rows.",
        "Write the shapes of both factors of your matrix product beside each other.",
        lambda x: weights(x.T, x.T, divisor=1),
    ),
)

_ATTENTION_SLIPS = (
    Slip(
        "softmax-over-queries",  # the same as transposed weights, for the reason above
        "equals attention with softmax over queries, not keys (or with the weights transposed, which is the same here)",
        "Each column of the weights adds to 1, where each row should. The result is no longer an average of the words.",
        "Add up one row of your weights, and then one column.",
        lambda x: attend(x, x, x, divisor=1, normalise=over_queries),
    ),
    Slip(
        "no-softmax",
        "equals attention without softmax",
        "Raw scores are used as weights, so the result is not an average: it may be any size.",
        "Look at what follows the dot products.",
        lambda x: attend(x, x, x, divisor=1, normalise=unchanged),
    ),
    Slip(
        "no-normalisation",
        "equals attention whose weights were not divided by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words.",
        "Add up one row of your weights.",
        lambda x: attend(x, x, x, divisor=1, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals attention by a softmax that does not subtract the maximum",
        "Long vectors have large dot products, e^1000 is inf, and inf / inf is NaN. Subtracting a row's maximum "
        "changes nothing else.",
        "Use the softmax of this file, once it is right.",
        lambda x: attend(x, x, x, divisor=1, normalise=unshifted),
    ),
    Slip(
        "scaled",
        "equals attention with scores divided by sqrt(D), which this piece does not have yet",
        "The scale is a part of scaled dot-product attention, two pieces later. Here the scores are plain dot "
        "products.",
        "Compare with the worked example: which numbers go into the softmax there?",
        lambda x: attend(x, x, x),
    ),
    Slip(
        "residual",
        "equals x plus the attention",
        "Adding the input is the work of the block, eight pieces later. Attention alone is an average of words.",
        "Look at what is added at the end.",
        lambda x: x + attend(x, x, x, divisor=1),
    ),
    Slip(
        "weights-only",
        "equals the weights, which were not applied to the words",
        "The weights [T, T] say how much each word counts. The result [T, D] is the average of the words by them.",
        "Look at what is returned.",
        lambda x: weights(x, x, divisor=1),
    ),
)

PIECE = Piece(
    "simple_attention",
    "Simple attention",
    "Each word becomes an average of all words, weighted by softmax of their dot products.",
    (
        Function(
            "softmax", reference.layers.softmax, _softmax_cases, _SOFTMAX_SLIPS, reference.layers.softmax_vjp, "T S"
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
