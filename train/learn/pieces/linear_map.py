"""Piece 7: y = x W + b."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference

from ..piece import Arguments, Function, Piece, Slip


def linear(x: Any, kernel: Any, bias: Any = None) -> Any:
    """The twin."""
    return reference.layers.linear(x, kernel, bias)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[1.0, 2]]), "kernel": np.array([[1.0, 0], [3, 4]]), "bias": None}
    yield {"x": np.array([[1.0, 2], [3, 5]]), "kernel": np.array([[1.0, 2], [3, 4]]), "bias": np.array([10.0, 20])}
    yield {"x": np.array([[1.0, 2]]), "kernel": np.array([[1.0, 2, 3], [4, 5, 6]]), "bias": np.array([1.0, 2, 4])}
    yield {"x": np.array([[-1.0, 2]]), "kernel": np.array([[3.0, 0, 1], [1, 1, 1]]), "bias": np.array([0.5, -3, 1])}
    for shape, f in (((3,), 5), ((4, 3), 4), ((5, 4), 4), ((6, 3), 5), ((2, 4, 3), 5), ((2, 3, 4, 5), 7)):
        x, kernel = rng.normal(size=shape), rng.normal(size=(shape[-1], f))
        yield {"x": x, "kernel": kernel, "bias": None}
        yield {"x": x, "kernel": kernel, "bias": rng.normal(size=f)}


def varied(
    x: Any, kernel: Any, bias: Any = None, *, layout: str = "D F", add: str = "once", after: str = "none"
) -> Any:
    """`linear` with the mistakes that the keywords choose. Raises ValueError where shapes do not fit, as NumPy does."""
    x, kernel = np.asarray(x), np.asarray(kernel)
    width, features = kernel.shape
    if layout == "F D":
        kernel = kernel.T
    elif layout == "reshaped":
        kernel = kernel.reshape(features, width).T
    y = x[..., -1:] @ kernel[-1:] if layout == "last input" else x @ kernel
    y = {"none": y, "mean": y / width, "over sqrt": y / width**0.5}.get(after, y)
    if bias is not None:
        y = _with_bias(y, np.asarray(bias), add)
    return np.maximum(y, 0) if after == "positive" else y


def _with_bias(y: Any, bias: Any, add: str) -> Any:
    if add == "per position":
        return y + bias[:, None]
    ways = {"once": y + bias, "never": y, "twice": y + 2 * bias, "subtracted": y - bias, "multiplied": y * bias}
    sums = {"summed": y + bias.sum(), "backwards": y + bias[::-1], "first": y + bias[0]}
    return (ways | sums).get(add, y + bias)


SLIPS = (
    Slip(
        "kernel-transposed",
        "equals the product with the transposed kernel",
        "The kernel is [D, F]: inputs are rows, outputs are columns. PyTorch's own layer keeps it the other way, [F, "
        "D].",
        "Which axis of the kernel does x meet?",
        partial(varied, layout="F D"),
    ),
    Slip(
        "kernel-reshaped",
        "equals the product with a kernel that was reshaped where it should be left",
        "A reshape reads the same numbers row by row into another form, and mixes inputs with outputs. It is no "
        "transpose.",
        "Does the kernel need any change before the product?",
        partial(varied, layout="reshaped"),
    ),
    Slip(
        "bias-forgotten",
        "lacks the bias",
        "Without a bias, zeros always give zeros. The bias is added to every output if there is one.",
        "Which argument is not used?",
        partial(varied, add="never"),
    ),
    Slip(
        "bias-twice",
        "has the bias added twice",
        "One addition is enough. Perhaps it happens both in the loop and after it.",
        "How often is the bias added to one output?",
        partial(varied, add="twice"),
    ),
    Slip(
        "bias-subtracted",
        "has the bias subtracted",
        "A learned bias could undo the sign, but given weights cannot. The bias is added.",
        "With which sign does the bias come in?",
        partial(varied, add="subtracted"),
    ),
    Slip(
        "bias-multiplied",
        "is multiplied by the bias",
        "A factor for each feature is the scale of a norm. The bias is added.",
        "What joins the product and the bias?",
        partial(varied, add="multiplied"),
    ),
    Slip(
        "bias-along-positions",
        "has the bias along the positions, not along the features",
        "The bias has one number for each feature F. Here every position got one, which fits only if there are F "
        "positions.",
        "Along which axis does the bias vary?",
        partial(varied, add="per position"),
    ),
    Slip(
        "bias-summed",
        "has the sum of all biases at every output",
        "Each output has one bias of its own. Perhaps the whole bias is added inside a sum.",
        "How many numbers of the bias go into one output?",
        partial(varied, add="summed"),
    ),
    Slip(
        "bias-of-the-first-feature",
        "has the first bias at every output",
        "Each output has one bias of its own. The index of the bias must follow the index of the output.",
        "Which number of the bias belongs to the last output?",
        partial(varied, add="first"),
    ),
    Slip(
        "bias-backwards",
        "has the biases in the reverse order",
        "The first bias belongs to the first output. Look at the order in which outputs are written.",
        "Which number of the bias belongs to the first output?",
        partial(varied, add="backwards"),
    ),
    Slip(
        "last-input-only",
        "has the product with the last input, not the sum over all",
        "Each product has replaced the one before it, and a bias that was there first. The products must be added up.",
        "What does the loop over the inputs do with the value so far?",
        partial(varied, layout="last input", add="never"),
    ),
    Slip(
        "mean-over-inputs",
        "is divided by D",
        "Each output is a sum over the inputs, not their mean. The kernel's own numbers set the scale.",
        "What happens to the products after they are formed?",
        partial(varied, after="mean"),
    ),
    Slip(
        "divided-by-sqrt",
        "has a product that is divided by sqrt(D)",
        "That scale belongs to the scores of attention. A linear map has none.",
        "What happens to the products after they are added?",
        partial(varied, after="over sqrt"),
    ),
    Slip(
        "negative-cut-off",
        "has no negative outputs",
        "An activation comes between two linear maps, but is not part of one. Negative outputs stay.",
        "What happens to an output below 0?",
        partial(varied, after="positive"),
    ),
)

PIECE = Piece(
    "linear_map",
    "Linear map",
    "Every output is a weighted sum of all inputs: the one step that most of a model's weights belong to.",
    (Function("linear", linear, _cases, SLIPS, vjp=reference.layers.linear_vjp, axes="T F"),),
)
