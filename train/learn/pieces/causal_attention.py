"""Piece 11: attention to what came before."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array, vjp

from ..piece import Arguments, Function, Piece, Slip
from .hooks import after
from .wrong_attention import (
    attend,
    keys_as_values,
    lower_triangle,
    one,
    over_queries,
    query_and_key_swapped,
    unnormalised,
    unshifted,
    width,
)


def causal_mask(length: int) -> Array:
    """[T, T] bool, True where s <= t."""
    return reference.attention.causal_mask(length)


def causal_attention(q: Any, k: Any, v: Any) -> Array:
    """The twin."""
    return reference.attention.causal_dot_product_attention(q, k, v)


causal_attention_vjp = vjp(lambda q, k, v: reference.attention.causal_dot_product_attention_vjp(q, k, v))


def _mask_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    return ({"length": length} for length in (2, 3, 1, int(rng.integers(4, 9))))


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    q, k, v = np.array([[1.0, 0], [2, 2]]), np.array([[1.0, 0], [0, 2]]), np.array([[10.0], [20]])
    yield {"q": q, "k": k, "v": v}
    yield {"q": 30 * q, "k": 30 * k, "v": v}
    for *batch, t, d, w in ((3, 2, 4), (4, 3, 2), (2, 5, 3, 4), (3, 2, 4, 6, 5)):
        q, k, v = (rng.normal(size=(*batch, t, width)) for width in (d, d, w))
        yield {"q": q, "k": k, "v": v}


_MASK_SLIPS = (
    Slip(
        "inverted",
        "equals the inverted mask: True where a query may not attend",
        "True means may attend. Here each word would see only those after it.",
        "Read row 0: which words may the first word see?",
        **after(causal_mask, lambda mask, given: ~mask),
    ),
    Slip(
        "transposed",
        "equals the transposed mask: each word sees itself and the words after it",
        "Row t belongs to the query, column s to the key. Here rows and columns have changed places.",
        "Read row 0: which words may the first word see?",
        **after(causal_mask, lambda mask, given: mask.T),
    ),
    Slip(
        "one-early",
        "equals a mask that ends one position early: no word sees itself",
        "The diagonal is False, and the first word may attend to nothing. Its softmax is then even or NaN.",
        "Look at the diagonal.",
        partial(lower_triangle, diagonal=-1),
    ),
    Slip(
        "one-late",
        "equals a mask that ends one position late: each word sees the next one",
        "The next word is what the model has to predict. A model that sees it learns to copy it, and its loss is near "
        "0.",
        "Look at the numbers just right of the diagonal.",
        partial(lower_triangle, diagonal=1),
    ),
    Slip(
        "all-visible",
        "equals a mask that hides nothing",
        "Each word sees all words, those to be predicted too. A model that sees the word to be predicted learns to "
        "copy it.",
        "Read row 0: which words may the first word see?",
        lambda length: np.ones((length, length), bool),
    ),
    Slip(
        "diagonal-only",
        "equals a mask with which each word sees only itself",
        "A word may attend to all that came before it, not only to itself. Otherwise nothing moves between words.",
        "Read the last row: which words may the last word see?",
        lambda length: np.eye(length, dtype=bool),
    ),
    Slip(
        "additive",
        "equals the mask in its additive form, 0 and -inf",
        "Some programs add such a mask to the scores. Here a mask is of type bool, and True means may attend.",
        "Look at the type of the mask that is asked for.",
        **after(causal_mask, lambda mask, given: np.where(mask, 0, -np.inf)),
    ),
)


def _causal(q: Array, k: Array, v: Array, **options: Any) -> Array:
    """`attend` with the causal mask."""
    return attend(q, k, v, lower_triangle(q.shape[-2]), **options)


def _diagonal(shift: int) -> Any:
    """The mask in place of the given one: s <= t + shift."""
    return lambda mask: lower_triangle(len(mask), shift)


_INVERTED = "equals attention with the mask inverted: each word sees only those after it"
_EARLY = "equals attention with a mask that ends one position early: no word sees itself"
_VISIBLE_SLIPS = (
    Slip(
        "not-causal",
        "equals attention without the mask",
        "Each word sees the words after it, which are those to be predicted. Training would seem to succeed, and "
        "generation would fail.",
        "Change the last word: does an earlier result change?",
        partial(_causal, masking="none"),
    ),
    Slip(
        "mask-transposed",
        "equals attention with the mask transposed: each word sees itself and the words after it",
        "Row t of the mask belongs to the query, column s to the key. Here rows and columns have changed places.",
        "Change the last word: does an earlier result change?",
        partial(_causal, seen=np.transpose),
    ),
    Slip(
        "mask-inverted",
        _INVERTED,
        "True means may attend. The last word may attend to nothing here, so its weights are even.",
        "Look at which of the two values of the mask leaves a score as it is.",
        partial(_causal, seen=np.logical_not),
    ),
    Slip(
        "mask-inverted-infinite",
        _INVERTED,
        "True means may attend. The last word may attend to nothing here: all its scores are -inf, and it becomes NaN.",
        "Look at which of the two values of the mask leaves a score as it is.",
        partial(_causal, seen=np.logical_not, hidden=-np.inf),
    ),
    Slip(
        "mask-one-early",
        _EARLY,
        "The diagonal is hidden. The first word may attend to nothing, so its weights are even, over words to come.",
        "Look at the diagonal of the mask.",
        partial(_causal, seen=_diagonal(-1)),
    ),
    Slip(
        "mask-one-early-infinite",
        _EARLY,
        "The diagonal is hidden. The first word may attend to nothing: all its scores are -inf, and it becomes NaN.",
        "Look at the diagonal of the mask.",
        partial(_causal, seen=_diagonal(-1), hidden=-np.inf),
    ),
    Slip(
        "mask-one-late",
        "equals attention with a mask that ends one position late: each word sees the next one",
        "The next word is what the model has to predict. A model that sees it learns to copy it, and its loss is near "
        "0.",
        "Change the last word: does the result of the word before it change?",
        partial(_causal, seen=_diagonal(1)),
    ),
    Slip(
        "mask-as-zero",
        "equals attention with masked scores set to 0",
        "e^0 is 1, so a score of 0 is still a weight like others. A hidden key needs a score whose exponential is 0.",
        "Look at the score of a hidden key, and at its exponential.",
        partial(_causal, hidden=0),
    ),
    Slip(
        "mask-after-softmax",
        "equals attention with the weights set to 0 after softmax, and not made to add to 1 again",
        "Hidden keys have taken part in the sum of the softmax. The weights that are left add to less than 1.",
        "Look at the order of mask and softmax.",
        partial(_causal, masking="after"),
    ),
    Slip(
        "mask-added",
        "equals attention with the mask added to the scores as 0 and 1",
        "An allowed key gets a score larger by 1, and a hidden one is not hidden. To hide it, its exponential must be "
        "0.",
        "Look at the score of a hidden key, and at its exponential.",
        partial(_causal, masking="added"),
    ),
)
_WEIGHT_SLIPS = (
    Slip(
        "no-scale",
        "equals causal attention without the division by sqrt(K)",
        "Scores grow with the width K of queries and keys. Softmax of large scores picks one position, and its "
        "gradient vanishes.",
        "Look at what happens between the scores and the softmax.",
        partial(_causal, divisor=one),
    ),
    Slip(
        "scale-by-width",  # sqrt(K) twice is the same
        "equals causal attention with scores divided by K, or by sqrt(K) twice, in place of sqrt(K) once",
        "A dot product of K random numbers has the size sqrt(K), so this divides too much. Weights become more even "
        "the wider the queries are.",
        "Look at the number by which you divide, and count how often you do it.",
        partial(_causal, divisor=width),
    ),
    Slip(
        "scale-by-length",
        "equals causal attention with scores divided by sqrt(T), from the number of words",
        "The size of a dot product depends on how many numbers are added, which is the width K. The number of words "
        "has no part in it.",
        "Look at the axis whose length you take.",
        partial(_causal, divisor=lambda q, k, v: q.shape[-2] ** 0.5),
    ),
    Slip(
        "softmax-over-queries",
        "equals causal attention with softmax over queries, not keys (the wrong axis)",
        "Each column of the weights adds to 1, where each row should. A word's result is no longer an average of "
        "values.",
        "Add up one row of your weights, and then one column.",
        partial(_causal, normalise=over_queries),
    ),
    Slip(
        "weights-transposed",
        "equals causal attention with the weights transposed",
        "Each word gathers from those that look at it, which come later. It should gather from those that it looks at.",
        "Say in words what row and column of your weights stand for.",
        partial(_causal, weights_transposed=True),
    ),
    Slip(
        "query-and-key-swapped",
        "equals causal attention with queries and keys swapped",
        "The word that asks and the word that is asked change places. Softmax then runs over the wrong ones.",
        "Look at the order of the factors in your scores.",
        partial(_causal, roles=query_and_key_swapped),
    ),
    Slip(
        "keys-as-values",
        "equals causal attention with the keys used as values",
        "A key says how a word is found, a value says what it passes on. The values have no effect here.",
        "Look at what the weights are applied to.",
        partial(_causal, roles=keys_as_values),
    ),
    Slip(
        "no-normalisation",
        "equals causal attention whose weights were not divided by their sum",
        "The weights of a word do not add to 1. What it gathers then grows with the number of words before it.",
        "Add up one row of your weights.",
        partial(_causal, normalise=unnormalised),
    ),
    Slip(
        "no-max-subtraction",
        "equals causal attention by a softmax that does not subtract the maximum",
        "Large scores give e^1000 = inf, and inf / inf is NaN. Subtracting a row's maximum changes nothing else.",
        "Use the softmax of piece 8.",
        partial(_causal, normalise=unshifted),
    ),
)

PIECE = Piece(
    "causal_attention",
    "Causal attention",
    "A mask hides the words after each word, so that a model can be trained to predict them.",
    (
        Function("causal_mask", causal_mask, _mask_cases, _MASK_SLIPS, axes="T S"),
        Function(
            "causal_attention",
            causal_attention,
            _cases,
            (*_VISIBLE_SLIPS, *_WEIGHT_SLIPS),
            causal_attention_vjp,
            "T W",
        ),
    ),
)
