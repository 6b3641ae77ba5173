"""The slips of softmax."""

from functools import partial

import numpy as np

from jaxllm.reference.arrays import Array

from ..piece import Slip


def _softmax(
    x: Array, *, axis: int = -1, shift: bool = True, one_maximum: bool = False, one_sum: bool = False,
    normalised: bool = True, exponential: bool = True, base: float = np.e, logarithm: bool = False,
) -> Array:  # fmt: skip
    """Softmax with one of its parts changed."""
    with np.errstate(all="ignore"):
        maximum = x.max() if one_maximum else x.max(axis=axis, keepdims=True)
        powers = np.exp((x - maximum if shift else x) * np.log(base)) if exponential else x
        total = powers.sum() if one_sum else powers.sum(axis=axis, keepdims=True)
        result = powers / total if normalised else powers
        return np.log(result) if logarithm else result


SOFTMAX_SLIPS = (
    Slip(
        "no-max-subtraction",
        "equals softmax without subtracting the maximum first",
        "e^1000 is larger than any float, and inf / inf is NaN. The maximum cancels in the ratio, so subtracting it "
        "changes nothing but the size of the numbers.",
        "Look at how large the exponentials become, and at what may be subtracted from all scores of a row.",
        partial(_softmax, shift=False),
    ),
    Slip(
        "one-maximum-for-all",
        "equals softmax with one maximum for the whole array, not one for each row",
        "A row far below that maximum has exponentials that are all 0, and 0 / 0 is NaN. Each row needs its own "
        "maximum.",
        "Look at the axis of the maximum.",
        partial(_softmax, one_maximum=True),
    ),
    Slip(
        "wrong-axis",
        "equals softmax over the axis before the last (over queries, not keys)",
        "Each column adds to 1, where each row should. In attention that means that keys share out the queries, and a "
        "query's weights have any sum.",
        "Add up one row of your result, and then one column.",
        partial(_softmax, axis=-2),
    ),
    Slip(
        "first-axis",
        "equals softmax over the first axis",
        "On a matrix that is the axis of queries, and on a batch it mixes examples that have nothing to do with each "
        "other. The axis that is normalised is the last one, however many come before it.",
        "Count axes from the end, as in axis -1, where the number of axes in front may vary.",
        partial(_softmax, axis=0),
    ),
    Slip(
        "second-axis",
        "equals softmax over axis 1, counted from the front",
        "For a matrix that is the last axis, and all is well. With a batch in front it is another one.",
        "Count axes from the end, as in axis -1, where the number of axes in front may vary.",
        partial(_softmax, axis=1),
    ),
    Slip(
        "one-sum-for-all",
        "equals softmax with one sum for the whole array, not one for each row",
        "All numbers together add to 1, where each row should. A sum without an axis adds everything.",
        "Look at the axis of the sum.",
        partial(_softmax, one_sum=True),
    ),
    Slip(
        "over-everything",
        "equals softmax over the whole array at once, with one maximum and one sum",
        "All numbers together add to 1, where each row should. A maximum and a sum without an axis take everything.",
        "Look at the axis of the maximum and of the sum.",
        partial(_softmax, one_maximum=True, one_sum=True),
    ),
    Slip(
        "no-normalisation",
        "equals the exponentials without the division by their sum",
        "The numbers are positive, but a row does not add to 1. Weights that do not add to 1 make an average too large "
        "or too small.",
        "Add up one row of your result.",
        partial(_softmax, normalised=False),
    ),
    Slip(
        "exponentials-only",
        "equals e^x, neither divided by its sum nor safe from overflow",
        "The numbers are positive, but a row does not add to 1. For scores above 709 they are inf.",
        "Add up one row of your result.",
        partial(_softmax, normalised=False, shift=False),
    ),
    Slip(
        "no-exponential",
        "equals x divided by its sum, without the exponential",
        "A row adds to 1, but negative scores give negative weights, and a sum near 0 gives huge ones. The exponential "
        "makes all numbers positive first.",
        "Look at what is applied to each score before the division.",
        partial(_softmax, exponential=False),
    ),
    Slip(
        "base-2",
        "equals softmax with powers of 2 instead of e",
        "The rows add to 1, but the weights are more even than they should be: it is softmax of x times ln 2. Models "
        "are trained with e.",
        "Look at the base of the power.",
        partial(_softmax, base=2),
    ),
    Slip(
        "log-softmax",
        "equals the logarithm of softmax",
        "Log-probabilities are what a loss needs. Attention needs the probabilities themselves.",
        "Look at what is done after the division.",
        partial(_softmax, logarithm=True),
    ),
)
