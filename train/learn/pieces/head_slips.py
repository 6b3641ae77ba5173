"""The slips of splitting features into heads and merging them, and the wrong layouts they are made of."""

import numpy as np

from jaxllm.reference.arrays import Array
from jaxllm.reference.attention import merge_heads, split_heads

from ..piece import Slip
from .hooks import after, before


def as_rows(x: Array, n_heads: int) -> Array:
    """[..., T, D] read as [..., H, T, K] in the order of memory."""
    return x.reshape(*x.shape[:-2], n_heads, x.shape[-2], x.shape[-1] // n_heads)


def from_rows(x: Array) -> Array:
    """[..., H, T, K] read as [..., T, D] in the order of memory."""
    return x.reshape(*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])


def every_nth(x: Array, n_heads: int) -> Array:
    """[..., T, D] -> [..., H, T, K] where head h has the features h, h + H, ..."""
    return np.stack([x[..., h::n_heads] for h in range(n_heads)], axis=-3)


def taking_turns(x: Array) -> Array:
    """[..., H, T, K] -> [..., T, D], a feature of each head by turns: undoes `every_nth`."""
    return np.moveaxis(x, -3, -1).reshape(*x.shape[:-3], x.shape[-2], -1)


def not_moved(x: Array, n_heads: int) -> Array:
    """[..., T, D] -> [..., T, H, K]."""
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)


SPLIT_SLIPS = (
    Slip(
        "reshaped",
        "equals x reshaped to [..., H, T, K], where the axes of heads and positions must be transposed",
        "A reshape keeps the numbers in the order of memory. So the first head gets all features of the first words, "
        "not the first features of all words.",
        "Write down a 2 x 4 array and mark which numbers belong to head 0.",
        as_rows,
    ),
    Slip(
        "not-transposed",
        "equals [..., T, H, K]: the heads are split off but still come after the positions",
        "The last two axes are what attention compares, and these must be positions and features. Here they are heads "
        "and features.",
        "Look at the order of the axes in the result.",
        not_moved,
    ),
    Slip(
        "every-nth-feature",
        "equals heads that take every H-th feature, not a run of features each",
        "Head 0 should hold the first K features, head 1 the next K. A model can be trained so, but weights that were "
        "trained in the usual order do not fit.",
        "Look at the order in which you split the features: heads first, or features of a head first?",
        every_nth,
    ),
    Slip(
        "features-before-positions",
        "equals [..., H, K, T]: positions and features of a head are swapped",
        "That is the shape in which keys enter the product, but queries and values need [..., H, T, K]. The transpose "
        "belongs to the product of queries and keys, not to the split.",
        "Look at the last two axes of the result.",
        **after(split_heads, lambda heads, given: heads.swapaxes(-1, -2)),
    ),
    Slip(
        "width-for-heads",
        "equals a split into K heads of width H: the number and the width of heads are swapped",
        "D = H K either way, so nothing fails. But there are K heads of H features now.",
        "Look at which of the two axes has the length n_heads.",
        **before(split_heads, lambda given: given | {"n_heads": given["x"].shape[-1] // given["n_heads"]}),
    ),
    Slip(
        "heads-reversed",
        "equals the heads in reversed order",
        "Head 0 should hold the first K features. Merging must undo the split, and weights that were trained in the "
        "usual order do not fit.",
        "Look at where head 0 begins.",
        **after(split_heads, lambda heads, given: heads[..., ::-1, :, :]),
    ),
)
MERGE_SLIPS = (
    Slip(
        "reshaped",
        "equals x reshaped to [..., T, D], where the axes of heads and positions must be transposed first",
        "A reshape keeps the numbers in the order of memory, in which a head's positions follow each other. A word "
        "gets the features of other words.",
        "Split an array into heads and merge it: is it the same again?",
        from_rows,
    ),
    Slip(
        "heads-take-turns",
        "equals the features of the heads by turns, not head after head",
        "The first K features of the result should be those of head 0. Here the first H are one of each head.",
        "Look at which axis must be the last one before both become one.",
        taking_turns,
    ),
    Slip(
        "heads-added",
        "equals the sum of the heads, not the heads beside each other",
        "The result is only as wide as one head. What the heads found can no longer be told apart.",
        "Look at the width of the result: it is D = H K.",
        lambda x: x.sum(axis=-3),
    ),
    Slip(
        "heads-averaged",
        "equals the mean of the heads, not the heads beside each other",
        "The result is only as wide as one head. What the heads found can no longer be told apart.",
        "Look at the width of the result: it is D = H K.",
        lambda x: x.mean(axis=-3),
    ),
    Slip(
        "heads-after-each-other",
        "equals [..., H T, K]: the heads are joined along the positions, not along the features",
        "The sequence becomes H times as long. Each word should keep its place and get the features of all heads.",
        "Look at which axis becomes longer.",
        lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1]),
    ),
    Slip(
        "heads-reversed",
        "equals the heads merged in reversed order",
        "The first K features of the result should be those of head 0. The output projection then reads each head "
        "where another one is expected.",
        "Look at where head 0 ends up.",
        **before(merge_heads, lambda given: {"x": given["x"][..., ::-1, :, :]}),
    ),
)
