"""Piece 10: softmax(q k^T / sqrt(K)) v, where a mask allows."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array

from ..piece import Arguments, Function, Piece, Slip
from .wrong_attention import attend, keys_as_values, one, over_queries, unchanged, unnormalised, unshifted, width


def scaled_dot_product_attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """The twin."""
    return reference.attention.scaled_dot_product_attention(q, k, v, mask)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    q, k = np.array([[2.0, 0, 0, 0]]), np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    yield {"q": q, "k": k, "v": np.array([[10.0, 0], [0, 20]]), "mask": None}
    q, k, v = np.array([[1.0, 2], [0, 3]]), np.array([[1.0, 0], [1, 1]]), np.array([[1.0], [2]])
    yield {"q": q, "k": k, "v": v, "mask": np.array([[True, False], [False, True]])}
    yield {"q": 40 * q, "k": 20 * k, "v": v, "mask": None}
    for *batch, t, s, d, w in ((2, 3, 5, 2), (4, 5, 3, 6), (2, 4, 3, 5, 6), (3, 2, 2, 4, 5, 3)):
        q, k, v = (rng.normal(size=(*batch, *shape)) for shape in ((t, d), (s, d), (s, w)))
        yield {"q": q, "k": k, "v": v, "mask": None}
        yield {"q": q, "k": k, "v": v, "mask": _mask(rng, t, s)}


def _mask(rng: np.random.Generator, t: int, s: int) -> Array:
    """A mask with True and False in each row and column.

    Where a query may attend to nothing, right solutions differ: in some the weights are even, in others NaN.
    """
    while True:
        mask = rng.random((t, s)) < 0.5
        if all(0 < mean < 1 for axis in (0, 1) for mean in mask.mean(axis=axis)):
            return mask


_SCALE_SLIPS = (
    Slip(
        "no-scale",
        "equals attention without the division by sqrt(K)",
        "Scores grow with the width K of queries and keys. Softmax of large scores picks one position, and its "
        "gradient vanishes.",
        "Look at what happens between the scores and the softmax.",
        partial(attend, divisor=one),
    ),
    Slip(
        "scale-by-width",  # sqrt(K) twice is the same
        "equals attention with scores divided by K, or by sqrt(K) twice, in place of sqrt(K) once",
        "A dot product of K random numbers has the size sqrt(K), so this divides too much. Weights become more even "
        "the wider the queries are.",
        "Look at the number by which you divide, and count how often you do it.",
        partial(attend, divisor=width),
    ),
    Slip(
        "scale-multiplied",
        "equals attention with scores multiplied by sqrt(K) instead of divided",
        "Scores become larger by sqrt(K), where they should become smaller. Softmax then picks one position.",
        "Look at the direction of the scale: should wide queries give larger or smaller scores?",
        partial(attend, divisor=lambda q, k, v: q.shape[-1] ** -0.5),
    ),
    Slip(
        "scale-by-queries",
        "equals attention with scores divided by sqrt(T), from the number of queries",
        "The size of a dot product depends on how many numbers are added, which is the width K. The number of words "
        "has no part in it.",
        "Look at the axis whose length you take.",
        partial(attend, divisor=lambda q, k, v: q.shape[-2] ** 0.5),
    ),
    Slip(
        "scale-by-keys",
        "equals attention with scores divided by sqrt(S), from the number of keys",
        "The size of a dot product depends on how many numbers are added, which is the width K. The number of words "
        "has no part in it.",
        "Look at the axis whose length you take.",
        partial(attend, divisor=lambda q, k, v: k.shape[-2] ** 0.5),
    ),
    Slip(
        "scale-by-values",
        "equals attention with scores divided by sqrt(W), from the width of the values",
        "Values are not part of the dot product, so their width says nothing of its size. Often all widths are equal, "
        "and then this goes unnoticed.",
        "Look at the array whose width you take.",
        partial(attend, divisor=lambda q, k, v: v.shape[-1] ** 0.5),
    ),
    Slip(
        "scale-after-softmax",
        "equals attention with the weights, not the scores, divided by sqrt(K)",
        "The weights of a query then add to 1 / sqrt(K) instead of 1. The softmax itself is as sharp as without a "
        "scale.",
        "Look at the order of scale and softmax.",
        partial(attend, scaled_late=True),
    ),
)
_SOFTMAX_SLIPS = (
    Slip(
        "softmax-over-queries",
        "equals attention with softmax over queries, not keys (the wrong axis)",
        "Each column of the weights adds to 1, where each row should. A query's result is no longer an average of "
        "values.",
        "Add up one row of your weights, and then one column.",
        partial(attend, normalise=over_queries),
    ),
    Slip(
        "no-softmax",
        "equals attention without softmax",
        "Raw scores are used as weights, so the result is not an average: it may be any size. A masked score is then a "
        "huge weight.",
        "Look at what happens between the scores and the values.",
        partial(attend, normalise=unchanged, hidden=-np.inf),
    ),
    Slip(
        "keys-as-values",
        "equals attention with the keys used as values",
        "A key says how a word is found, a value says what it passes on. The values have no effect here.",
        "Look at what the weights are applied to.",
        partial(attend, roles=keys_as_values),
    ),
    Slip(
        "no-normalisation",
        "equals attention whose weights were not divided by their sum",
        "The weights of a query do not add to 1. What it gathers then grows with the number of keys.",
        "Add up one row of your weights.",
        partial(attend, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals attention by a softmax that does not subtract the maximum",
        "Large scores give e^1000 = inf, and inf / inf is NaN. Subtracting a row's maximum changes nothing else.",
        "Use the softmax of piece 8.",
        partial(attend, normalise=unshifted),
    ),
)
_MASK_SLIPS = (
    Slip(
        "mask-ignored",
        "equals attention without the mask",
        "Every query sees every key. A language model trained so would see the word that it has to predict.",
        "Look at where the mask is used.",
        partial(attend, masking="none"),
    ),
    Slip(
        "mask-inverted",
        "equals attention with the mask inverted",
        "True means that a query may attend to a key. Here the allowed keys are hidden, and the others are seen.",
        "Look at which of the two values of the mask leaves a score as it is.",
        partial(attend, seen=np.logical_not),
    ),
    Slip(
        "mask-as-zero",
        "equals attention with masked scores set to 0",
        "e^0 is 1, so a score of 0 is still a weight like others. A hidden key needs a score whose exponential is 0.",
        "Look at the score of a hidden key, and at its exponential.",
        partial(attend, hidden=0),
    ),
    Slip(
        "mask-after-softmax",
        "equals attention with the weights set to 0 after softmax, and not made to add to 1 again",
        "Hidden keys have taken part in the sum of the softmax. The weights that are left add to less than 1.",
        "Look at the order of mask and softmax.",
        partial(attend, masking="after"),
    ),
    Slip(
        "mask-added",
        "equals attention with the mask added to the scores as 0 and 1",
        "An allowed key gets a score larger by 1, and a hidden one is not hidden. To hide it, its exponential must be "
        "0.",
        "Look at the score of a hidden key, and at its exponential.",
        partial(attend, masking="added"),
    ),
)

PIECE = Piece(
    "scaled_dot_product",
    "Scaled dot-product attention",
    "Scores are divided by sqrt(K), so that softmax does not saturate as queries get wider.",
    (
        Function(
            "scaled_dot_product_attention",
            scaled_dot_product_attention,
            _cases,
            (*_SCALE_SLIPS, *_SOFTMAX_SLIPS, *_MASK_SLIPS),
            vjp=reference.attention.scaled_dot_product_attention_vjp,
            axes="T W",
        ),
    ),
)
