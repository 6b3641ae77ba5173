"""The slips of multi-head attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxllm.reference.arrays import Array, Params
from jaxllm.reference.attention import merge_heads, split_heads
from jaxllm.reference.layers import linear

from ..piece import Slip
from .head_slips import as_rows, every_nth, from_rows, not_moved, taking_turns
from .wrong_attention import (
    attend,
    keys_as_values,
    lower_triangle,
    one,
    over_queries,
    query_and_key_swapped,
    unchanged,
    unshifted,
)


def _width_of_model(q: Array, k: Array, v: Array) -> float:
    return float((q.shape[-1] * q.shape[-3]) ** 0.5)


def _number_of_heads(q: Array, k: Array, v: Array) -> float:
    return float(q.shape[-3] ** 0.5)


def _joined(x: Array) -> Array:
    """[..., T, H, K] -> [..., T, D]."""
    return x.reshape(*x.shape[:-2], -1)


def _varied(
    params: Params, x: Array, n_heads: int, *, split: Callable[..., Array] = split_heads,
    merge: Callable[..., Array] = merge_heads, input_biases: bool = True, output_bias: bool = True,
    output: bool = True, heads: Callable[[int], int] = unchanged, diagonal: int = 0, causal: bool = True,
    **options: Any,
) -> Array:  # fmt: skip
    """Multi-head attention with one of its parts changed, or `attend`."""
    maps = (params[name] for name in ("query", "key", "value"))
    q, k, v = (split(linear(x, map["kernel"], map["bias"] if input_biases else None), heads(n_heads)) for map in maps)
    mask = lower_triangle(q.shape[-2], diagonal) if causal else None
    merged = merge(attend(q, k, v, mask, **options))
    if not output:
        return merged
    return linear(merged, params["output"]["kernel"], params["output"]["bias"] if output_bias else None)


_TRANSPOSE = "Split an array of two words into heads, and look at what head 0 holds."
# The bias of the keys adds the same to all scores of a query, and softmax ignores that: no input shows it missing.
_STRUCTURE_SLIPS = (
    Slip(
        "heads-reshaped",
        "equals multi-head attention whose heads were reshaped where they must be transposed, in splitting and merging",
        "A reshape keeps the numbers in the order of memory. A head then compares pieces of the same word as if they "
        "were different words.",
        _TRANSPOSE,
        partial(_varied, split=as_rows, merge=from_rows),
    ),
    Slip(
        "split-reshaped",
        "equals multi-head attention whose heads were reshaped where they must be transposed, in splitting",
        "A reshape keeps the numbers in the order of memory. A head then compares pieces of the same word as if they "
        "were different words.",
        _TRANSPOSE,
        partial(_varied, split=as_rows),
    ),
    Slip(
        "merge-reshaped",
        "equals multi-head attention whose heads were reshaped where they must be transposed, in merging",
        "A reshape keeps the numbers in the order of memory. A word gets the results of other words.",
        "Split an array into heads and merge it: is it the same again?",
        partial(_varied, merge=from_rows),
    ),
    Slip(
        "every-nth-feature",
        "equals heads that take every H-th feature, not a run of features each",
        "Head 0 should hold the first K features, head 1 the next K. Weights that were trained in the usual order do "
        "not fit.",
        "Look at the order in which you split the features.",
        partial(_varied, split=every_nth, merge=taking_turns),
    ),
    Slip(
        "among-heads",
        "equals attention of heads to heads at the same position: the axis of heads is where that of positions must be",
        "With [..., T, H, K] the product of queries and keys is H x H at each word. No word learns of any other.",
        "Write the shape of your scores; it must end in T x T.",
        partial(_varied, split=not_moved, merge=_joined),
    ),
    Slip(
        "among-heads-unmasked",
        "equals attention of heads to heads at the same position, without a mask",
        "With [..., T, H, K] the product of queries and keys is H x H at each word. No word learns of any other.",
        "Write the shape of your scores; it must end in T x T.",
        partial(_varied, split=not_moved, merge=_joined, causal=False),
    ),
    Slip(
        "one-head",
        "equals attention with one head of width D",
        "n_heads has no effect. One head makes one set of weights for all features.",
        "Look at where the number of heads is used.",
        partial(_varied, heads=lambda n_heads: 1),
    ),
    Slip(
        "no-output-projection",
        "equals multi-head attention without the output projection",
        "The heads are beside each other, and nothing mixes them. The output map also has a bias.",
        "Count the maps in `params`, and those that you use.",
        partial(_varied, output=False),
    ),
    Slip(
        "no-biases",
        "equals multi-head attention without any bias",
        "Each of the four maps adds its bias after the product. Biases are often 0 at first, so this goes unnoticed "
        "until they are trained.",
        "Look at what each entry of `params` holds.",
        partial(_varied, input_biases=False, output_bias=False),
    ),
    Slip(
        "no-input-biases",
        "equals multi-head attention without the biases of queries and values",
        "Each of the four maps adds its bias after the product. Biases are often 0 at first, so this goes unnoticed "
        "until they are trained.",
        "Look at what each entry of `params` holds.",
        partial(_varied, input_biases=False),
    ),
    Slip(
        "no-output-bias",
        "equals multi-head attention without the bias of the output projection",
        "The output map is a linear map like others, with a bias. Biases are often 0 at first, so this goes unnoticed "
        "until they are trained.",
        "Look at what `params['output']` holds.",
        partial(_varied, output_bias=False),
    ),
)
_HEAD_SLIPS = (
    Slip(
        "scale-by-model-width",
        "equals multi-head attention with scores divided by sqrt(D), the width of the model, not of a head",
        "A head's dot product adds K = D / H numbers, so its size is sqrt(K). Dividing by more makes all weights too "
        "even.",
        "Look at the width that you take the root of.",
        partial(_varied, divisor=_width_of_model),
    ),
    Slip(
        "scale-by-heads",
        "equals multi-head attention with scores divided by sqrt(H), from the number of heads",
        "A head's dot product adds K numbers, so its size is sqrt(K). The number of heads has no part in it.",
        "Look at the axis whose length you take.",
        partial(_varied, divisor=_number_of_heads),
    ),
    Slip(
        "no-scale",
        "equals multi-head attention without the division by sqrt(K)",
        "Scores grow with the width of a head. Softmax of large scores picks one position, and its gradient vanishes.",
        "Look at what happens between the scores and the softmax.",
        partial(_varied, divisor=one),
    ),
    Slip(
        "not-causal",
        "equals multi-head attention without the causal mask",
        "Each word sees the words after it, which are those to be predicted. Training would seem to succeed, and "
        "generation would fail.",
        "Change the last word: does an earlier result change?",
        partial(_varied, causal=False),
    ),
    Slip(
        "mask-one-late",
        "equals multi-head attention with a mask that ends one position late: each word sees the next one",
        "The next word is what the model has to predict. A model that sees it learns to copy it.",
        "Change the last word: does the result of the word before it change?",
        partial(_varied, diagonal=1),
    ),
    Slip(
        "query-and-key-swapped",
        "equals multi-head attention with queries and keys swapped",
        "The word that asks and the word that is asked change places. Softmax then runs over the wrong ones.",
        "Look at which map makes which of the two.",
        partial(_varied, roles=query_and_key_swapped),
    ),
    Slip(
        "keys-as-values",
        "equals multi-head attention with the keys used as values",
        "A key says how a word is found, a value says what it passes on. The map of the values has no effect here.",
        "Look at what the weights are applied to.",
        partial(_varied, roles=keys_as_values),
    ),
    Slip(
        "softmax-over-queries",
        "equals multi-head attention with softmax over queries, not keys (the wrong axis)",
        "Each column of the weights adds to 1, where each row should. A word's result is no longer an average of "
        "values.",
        "Add up one row of your weights, and then one column.",
        partial(_varied, normalise=over_queries),
    ),
    Slip(
        "no-max-subtraction",
        "equals multi-head attention by a softmax that does not subtract the maximum",
        "Large scores give e^1000 = inf, and inf / inf is NaN. Subtracting a row's maximum changes nothing else.",
        "Use the softmax of piece 8.",
        partial(_varied, normalise=unshifted),
    ),
)
ATTENTION_SLIPS = (*_STRUCTURE_SLIPS, *_HEAD_SLIPS)
