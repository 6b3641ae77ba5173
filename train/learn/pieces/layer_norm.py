"""Piece 13: the features of each word shifted to mean 0 and stretched to variance 1."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array

from ..piece import Arguments, Function, Piece, Slip
from .hooks import before


def layer_norm(x: Any, scale: Any, bias: Any, epsilon: float) -> Array:
    """The twin."""
    return reference.layers.layer_norm(x, scale, bias, epsilon)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    x, scale, bias = np.array([[1.0, 3], [2, 2]]), np.array([2.0, 3]), np.array([0.5, 0])
    yield {"x": x, "scale": scale, "bias": bias, "epsilon": 3.0}
    x = np.array([[0.1, 0.2, 0.3], [100, 101, 102]])
    yield {"x": x, "scale": np.array([1.0, 2, 3]), "bias": np.array([4.0, 5, 6]), "epsilon": 0.1}
    for *batch, d, epsilon in ((2, 3, 1e-5), (4, 3, 0.2), (3, 2, 4, 0.5), (2, 3, 4, 5, 1e-2)):
        scale, bias = 1 + rng.normal(size=d), rng.normal(size=d)
        yield {"x": 1 + rng.normal(size=(*batch, d)), "scale": scale, "bias": bias, "epsilon": epsilon}


def _features(x: Array) -> int:
    return -1


def _root(variance: Array, epsilon: float) -> Array:
    return np.sqrt(variance + epsilon)


def _centred(x: Array, axis: Any) -> Array:
    return x - x.mean(axis=axis, keepdims=True)


def _varied(
    x: Array, scale: Any, bias: Any, epsilon: float, *, axes: Callable[[Array], Any] = _features, centre: bool = True,
    squared: Callable[[Array, Any], Array] = _centred, less: int = 0, divisor: Callable[[Array, float], Array] = _root,
    mean_kept: bool = False, scaled: bool = True, shifted: bool = True, scale_first: bool = False,
    bias_first: bool = False,
) -> Array:  # fmt: skip
    """Layer norm with other axes, mean, variance, divisor, or order of scale and bias."""
    x = x * scale if scale_first else x
    scale, bias = scale if scaled and not scale_first else 1, bias if shifted else 0
    axis = axes(x)
    numbers = x.shape[-1] / (x.shape[-1] - less)
    variance = ((squared(x, axis) if centre else x) ** 2).mean(axis=axis, keepdims=True) * numbers
    with np.errstate(all="ignore"):
        z = (_centred(x, axis) if centre and not mean_kept else x) / divisor(variance, epsilon)
        return (z + bias) * scale if bias_first else z * scale + bias


_STATISTICS_SLIPS = (
    Slip(
        "unbiased-variance",
        "equals layer norm with the variance divided by D - 1, not D",
        "D - 1 is for estimating the variance of a population from a sample. Layer norm takes the mean of the squares.",
        "Look at what the sum of squares is divided by; some libraries choose D - 1 unless told otherwise.",
        partial(_varied, less=1),
    ),
    Slip(
        "mean-not-subtracted",
        "equals RMS norm: the mean was not subtracted",
        "x is divided by the root of its mean square. That is another norm, which Llama uses.",
        "Look at the mean of one row of your result, before scale and bias.",
        partial(_varied, centre=False),
    ),
    Slip(
        "mean-only-in-variance",
        "equals x divided by its standard deviation: the mean was subtracted in the variance only",
        "The variance of the result is 1, but its mean is not 0. The mean belongs to the numerator too.",
        "Compute the mean of one row of your result, before scale and bias.",
        partial(_varied, mean_kept=True),
    ),
    Slip(
        "mean-square-for-variance",
        "equals layer norm with the mean of x^2 in place of the variance",
        "The variance is the mean of (x - mean)^2. Where the mean is far from 0, the mean of x^2 is much larger.",
        "Look at which numbers are squared.",
        partial(_varied, squared=lambda x, axis: x),
    ),
    Slip(
        "over-positions",
        "equals a norm over positions, not features (the wrong axis)",
        "Mean and variance are taken over the words of a text, for each feature. Then a word depends on those after "
        "it.",
        "Compute the mean of one row of your result, and of one column.",
        partial(_varied, axes=lambda x: -2),
    ),
    Slip(
        "first-axis",
        "equals a norm over the first axis, not over features",
        "Mean and variance are taken over the examples of a batch, or the words of a text. The features are the last "
        "axis.",
        "Count axes from the end, as in axis -1, where the number of axes in front may vary.",
        partial(_varied, axes=lambda x: 0),
    ),
    Slip(
        "batch-norm",
        "equals batch norm: mean and variance over all words and all examples, for each feature",
        "A word's result depends on the other texts of the batch. Layer norm looks at one word at a time.",
        "Look at the axes of mean and variance.",
        partial(_varied, axes=lambda x: tuple(range(x.ndim - 1))),
    ),
    Slip(
        "over-all-axes",
        "equals a norm with one mean and one variance for the whole array",
        "All words share their statistics. Layer norm looks at one word at a time.",
        "Look at the axes of mean and variance.",
        partial(_varied, axes=lambda x: None),
    ),
    Slip(
        "over-words-and-features",
        "equals a norm with one mean and one variance for each text, over words and features",
        "All words of a text share their statistics, so a word depends on those after it. Layer norm looks at one "
        "word at a time.",
        "Look at the axes of mean and variance.",
        partial(_varied, axes=lambda x: (-2, -1)),
    ),
)
_EPSILON_SLIPS = (
    Slip(
        "no-epsilon",
        "equals layer norm without epsilon",
        "Where all features are equal the variance is 0, and 0 / 0 is NaN. Where they are nearly equal, the result is "
        "large and its gradient larger.",
        "Look at what happens where all features of a word are equal.",
        partial(_varied, divisor=lambda variance, epsilon: np.sqrt(variance)),
    ),
    Slip(
        "epsilon-outside-root",
        "equals layer norm with epsilon added to the standard deviation, outside the root",
        "sqrt(var) + epsilon and sqrt(var + epsilon) are nearly equal for large variances only. Near 0 they differ, "
        "and so do their gradients.",
        "Look at the order of the root and of adding epsilon.",
        partial(_varied, divisor=lambda variance, epsilon: np.sqrt(variance) + epsilon),
    ),
    Slip(
        "epsilon-fixed",
        "equals layer norm with an epsilon of 1e-5, whatever is given",
        "The argument has no effect. Models differ in their epsilon.",
        "Look at where the argument is used.",
        partial(_varied, divisor=lambda variance, epsilon: np.sqrt(variance + 1e-5)),
    ),
    Slip(
        "no-root",
        "equals layer norm divided by the variance, without the root",
        "x / var does not have the variance 1: a row that is twice as large becomes half as large. The standard "
        "deviation has the unit of x, the variance that of x^2.",
        "Compute the variance of one row of your result, before scale and bias.",
        partial(_varied, divisor=lambda variance, epsilon: variance + epsilon),
    ),
    Slip(
        "only-centred",
        "equals x minus its mean, times scale plus bias: nothing was divided",
        "The mean is 0, but the variance is what it was. The norm is there so that the size of what comes in does not "
        "matter.",
        "Compute the variance of one row of your result, before scale and bias.",
        partial(_varied, divisor=lambda variance, epsilon: np.ones(1)),
    ),
)
_AFFINE_SLIPS = (
    Slip(
        "bias-forgotten",
        "equals layer norm without the bias",
        "Biases are often 0 at first, so this goes unnoticed until they are trained. Without a bias the mean of each "
        "feature cannot be learned.",
        "Look at where each argument is used.",
        partial(_varied, shifted=False),
    ),
    Slip(
        "scale-forgotten",
        "equals layer norm without the scale",
        "Scales are often 1 at first, so this goes unnoticed until they are trained. Without a scale all features "
        "stay equally large.",
        "Look at where each argument is used.",
        partial(_varied, scaled=False),
    ),
    Slip(
        "neither-scale-nor-bias",
        "equals layer norm with neither scale nor bias",
        "At first scales are often 1 and biases 0, so this goes unnoticed until they are trained. Both are parameters "
        "that the model learns.",
        "Look at where each argument is used.",
        partial(_varied, scaled=False, shifted=False),
    ),
    Slip(
        "scale-and-bias-swapped",
        "equals layer norm with scale and bias swapped",
        "The bias multiplies and the scale is added. With a bias of 0 the input has no effect at all.",
        "Look at which of the two multiplies.",
        **before(layer_norm, lambda given: given | {"scale": given["bias"], "bias": given["scale"]}),
    ),
    Slip(
        "scale-before-norm",
        "equals layer norm of x times the scale",
        "The norm takes away most of what the scale did. The scale belongs to the result.",
        "Look at the order of scale and norm.",
        partial(_varied, scale_first=True),
    ),
    Slip(
        "bias-before-scale",
        "equals (z + bias) times scale, where z is the normalised x",
        "The scale also multiplies the bias. The bias is added last.",
        "Look at the order of scale and bias.",
        partial(_varied, bias_first=True),
    ),
)

PIECE = Piece(
    "layer_norm",
    "Layer norm",
    "The features of each word get mean 0 and variance 1, then a learned scale and bias.",
    (
        Function(
            "layer_norm",
            layer_norm,
            _cases,
            (*_STATISTICS_SLIPS, *_EPSILON_SLIPS, *_AFFINE_SLIPS),
            reference.layers.layer_norm_vjp,
            "T D",
        ),
    ),
)
