"""Linear maps as generation reads them: each output's weights side by side in memory, perhaps in 8 bits.

One token after another, a model is as fast as its weights come from memory. llama.cpp and torchao store them in
groups of 32 with a scale each, for kernels of their own; XLA has no such kernels, so here a row of int8 has one scale,
the input is rounded to int8 as well, and the product is one of integers, which XLA on a CPU does at the speed of the
memory (Dettmers et al. 2022, section 2, without its outliers). Maps of the same input are one matrix: fewer, larger
products. The NumPy twins are in `jaxllm.reference.fast.quantised_weights`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.config import WEIGHTS
from jaxllm.utils.errors import InputError

JOINED = {"query_key_value": ("query", "key", "value"), "gate_up": ("gate", "up")}  # maps of one input


class Packed(NamedTuple):
    """y_f = scale_f sum_d weights_fd x_d + bias_f."""

    weights: Array  # [F, D] float or int8
    scale: Array | None  # [F], with int8
    bias: Array | None  # [F]


def quantise_rows(x: Array) -> tuple[Array, Array]:
    """Each row as integers of -127 to 127 times a scale: [..., D] -> int8 [..., D], scales [..., 1]; 0 is exact.

    In bfloat16 the scale is rounded so far that -128 may occur.
    """
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return jnp.round(x / jnp.where(scale == 0, 1, scale)).astype(jnp.int8), scale


def quantised_product(x: Array, weights: Array, scale: Array) -> Array:
    """x [..., D] times int8 weights [F, D] with scales [F], x rounded to int8 too: -> [..., F] in the dtype of x."""
    rows, row_scale = quantise_rows(x)
    rows = rows.reshape(-1, x.shape[-1])
    n = len(rows)
    if n == 1:  # XLA on a CPU has fast integer products of matrices, but none of a vector
        rows = jnp.concatenate([rows, jnp.zeros_like(rows)])
    product = jnp.einsum("nd,fd->nf", rows, weights, preferred_element_type=jnp.int32)[:n]
    product = product.reshape(*x.shape[:-1], -1).astype(row_scale.dtype)
    return (product * row_scale * jnp.broadcast_to(scale, product.shape)).astype(x.dtype)


def packed_linear(x: Array, packed: Packed) -> Array:
    """x [..., D] -> [..., F] in the dtype of x."""
    if packed.scale is not None:
        y = quantised_product(x, packed.weights, packed.scale)
    else:
        y = jnp.einsum("...d,fd->...f", x, packed.weights.astype(x.dtype))
    return y if packed.bias is None else y + jnp.broadcast_to(packed.bias.astype(y.dtype), y.shape)


def pack(params: Any, weights: str = "float32") -> Any:
    """A GPT's parameters for generating: maps packed, those of one input joined; norms and tables as they are.

    `weights` is what the maps and the head become: float32, bfloat16 or int8. Such parameters are for `jaxllm.generate`
    and `GPT.apply`; they have no gradient. Raises InputError for other `weights`.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights is {weights!r}; choose one of {', '.join(WEIGHTS)}.")
    packed = _pack_maps(params, weights)
    if weights != "float32" and "head" not in params:  # the table is read by rows at the bottom, and whole at the top
        packed["head"] = {"packed": _packed(params["token_embedding"]["table"], None, weights)}
    return packed


def _pack_maps(tree: Any, weights: str) -> Any:
    if "kernel" in tree:
        return {"packed": _packed(jnp.asarray(tree["kernel"]).T, tree.get("bias"), weights)}
    out = {name: _pack_maps(x, weights) if isinstance(x, dict) else x for name, x in tree.items()}
    for joined, names in JOINED.items():
        if all(name in out for name in names):
            parts = [out.pop(name)["packed"] for name in names]
            out[joined] = {"packed": jax.tree.map(lambda *x: jnp.concatenate(x), *parts)}
    return out


def _packed(rows: Array, bias: Array | None, weights: str) -> Packed:
    rows = jnp.asarray(rows)
    if weights == "int8":
        integers, scale = jax.jit(quantise_rows)(rows)
        return Packed(integers, scale[:, 0], bias)
    return Packed(rows.astype(weights) if weights != "float32" else rows, None, bias)
