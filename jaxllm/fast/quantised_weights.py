"""Weights as generation reads them: each output's weights side by side in memory, perhaps in bfloat16 or int8.

`pack` returns the parameters of a GPT with kernels and tables of the types below in place of arrays. `x @ kernel` looks
at the type, so the model needs no case for it: `jaxllm.layers.linear` and `jaxllm.embeddings.token_logits` compute with
either.

Reading the weights from memory limits the speed of generation. A row of int8 has one scale, the input is rounded to
int8 as well, and the product is one of integers (Dettmers et al. 2022, section 2, without its outliers). Maps of one
input share one matrix: fewer, larger products. `jaxllm.fast.few_rows` computes them. The NumPy twins are in
`jaxllm.reference.fast.quantised_weights`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.array import Array, StoredKernel
from jaxllm.config import WEIGHTS
from jaxllm.fast.few_rows import in_c, rows_product
from jaxllm.fast.platform import platform
from jaxllm.utils.errors import InputError

ONE_INPUT = (("query", "key", "value"), ("gate", "up"))  # maps that share a matrix
ROUTER = "router"  # of experts


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "scale"], meta_fields=["rows"])
@dataclass(frozen=True)
class PackedKernel(StoredKernel):
    """A kernel [D, F], stored as its transpose: kernel_df = scale_f weights_fd. It multiplies as `x @ kernel`."""

    weights: Array  # [F, D] float or int8
    scale: Array | None = None  # [F], with int8
    rows: tuple[int, int] | None = None  # first and end of the rows that are the kernel, None for all

    @property
    def shape(self) -> tuple[int, int]:
        """(D, F)."""
        n, width = self.weights.shape
        start, end = (0, n) if self.rows is None else self.rows
        return (width, end - start)

    @property
    def dtype(self) -> Any:
        """The dtype of float weights; that of the scale with int8."""
        return self.weights.dtype if self.scale is None else self.scale.dtype

    @property
    def T(self) -> "PackedTable":  # noqa: N802 (as of an array)
        """The kernel as a table [F, D], in which no token is looked up."""
        return PackedTable(self)

    def astype(self, dtype: Any) -> "PackedKernel":
        """The kernel with float weights in another dtype, unless their product with an x of that dtype casts itself."""
        casts = self.scale is not None or in_c(dtype, self.weights.dtype, dtype)
        return self if casts else replace(self, weights=self.weights.astype(dtype))

    def __rmatmul__(self, x: Array) -> Array:
        rows = slice(None) if self.rows is None else slice(*self.rows)
        if self.scale is not None:
            return quantised_product(x, self.weights, self.scale)[..., rows]
        if x.dtype.itemsize < 4 and platform() == "cpu":  # XLA itself casts these, see `cast_kernels`
            return jnp.einsum("...d,fd->...f", x, self.weights[rows])
        return rows_product(x, self.weights)[..., rows]


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "vectors"], meta_fields=[])
@dataclass(frozen=True)
class PackedTable:
    """A table [V, D]: `x @ table.T` reads the packed kernel, a lookup of tokens reads the array `vectors`."""

    kernel: PackedKernel  # [D, V]
    vectors: Array | None = None  # [V, D]; None where no token is looked up

    @property
    def shape(self) -> tuple[int, int]:
        """(V, D)."""
        return self.kernel.shape[::-1]

    @property
    def dtype(self) -> Any:
        """The dtype of the vectors; that of the kernel without vectors."""
        return (self.kernel if self.vectors is None else self.vectors).dtype

    @property
    def T(self) -> PackedKernel:  # noqa: N802 (as of an array)
        """The packed kernel [D, V]."""
        return self.kernel

    @property
    def at(self) -> Any:
        """`vectors.at`, through which tokens are looked up."""
        assert self.vectors is not None
        return self.vectors.at

    def astype(self, dtype: Any) -> "PackedTable":
        """The table with vectors and float weights in another dtype."""
        vectors = None if self.vectors is None else self.vectors.astype(dtype)
        return PackedTable(self.kernel.astype(dtype), vectors)

    def __len__(self) -> int:
        return self.shape[0]


Kernel = Array | StoredKernel
Table = Array | PackedTable


@jax.tree_util.register_pytree_node_class
class JoinedMaps(dict):
    """A module's parameters in which maps of one input have kernels that are row ranges of one matrix.

    As a pytree it holds that matrix once. A jitted function then sees the same array in each of these kernels, and XLA,
    which computes equal expressions once, computes one product for all of them.
    """

    def tree_flatten(self) -> tuple[tuple[PackedKernel, dict], tuple]:
        """The whole matrix and all other parameters; static are the rows of each kernel."""
        kernels = {name: part["kernel"] for name, part in sorted(self.items()) if _is_row_range(part.get("kernel"))}
        whole = replace(next(iter(kernels.values())), rows=None)
        rest = {name: _without(part, "kernel") if name in kernels else part for name, part in self.items()}
        return (whole, rest), tuple((name, kernel.rows) for name, kernel in kernels.items())

    @classmethod
    def tree_unflatten(cls, rows: tuple, children: tuple[PackedKernel, dict]) -> "JoinedMaps":
        """The inverse of `tree_flatten`."""
        whole, rest = children
        kernels = {name: PackedKernel(whole.weights, whole.scale, where) for name, where in rows}
        return cls(rest | {name: rest[name] | {"kernel": kernel} for name, kernel in kernels.items()})


def _is_row_range(kernel: Any) -> bool:
    return isinstance(kernel, PackedKernel) and kernel.rows is not None


def _without(part: dict, name: str) -> dict:
    return {n: leaf for n, leaf in part.items() if n != name}


def cast_kernels(params: Any, dtype: Any) -> Any:
    """The parameters with packed kernels in the dtype of the computation, as `PackedKernel.astype` casts; no arrays.

    `x @ kernel` casts too, but a loop around the model needs this call in its body: XLA on a CPU moves a cast of
    constants out of the loop before it looks for equal expressions, and then no longer sees that maps of one input
    share a matrix.
    """

    def is_kernel(leaf: Any) -> bool:
        return isinstance(leaf, PackedKernel)

    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_kernel(leaf) else leaf, params, is_leaf=is_kernel)


def parameter(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]) -> Any:
    """`module.param(name, init, shape)`, where the parameter may be a `StoredKernel` or a `PackedTable`.

    flax compares the shapes of arrays within a parameter with those that `init` would give; here the parameter's own
    shape is compared.
    """
    value: Any = module.get_variable("params", name)
    if not isinstance(value, StoredKernel | PackedTable):
        return module.param(name, init, shape)
    if value.shape != shape:
        raise ValueError(f"{name} of {module.name} has shape {value.shape}, but the model's is {shape}.")
    return value


def quantise_rows(x: Array) -> tuple[Array, Array]:
    """Each row as integers from -127 to 127 times a scale: [..., D] -> int8 [..., D], scales [..., 1]; 0 is exact.

    In bfloat16 the rounding of the scale may give -128.
    """
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return jnp.round(x / jnp.where(scale == 0, 1, scale)).astype(jnp.int8), scale


def quantised_product(x: Array, weights: Array, scale: Array) -> Array:
    """x [..., D] times int8 weights [F, D] with scales [F], x rounded to int8 too: -> [..., F] in the dtype of x."""
    rows, row_scale = quantise_rows(x)
    product = rows_product(rows, weights, jnp.int32).astype(row_scale.dtype)
    return (product * row_scale * jnp.broadcast_to(scale, product.shape)).astype(x.dtype)


def pack(params: Any, weights: str = "float32") -> Any:
    """A GPT's parameters for generating: kernels packed, those of one input joined; norms, biases and tables unchanged.

    `weights` is the dtype of packed kernels and of the head: float32, bfloat16 or int8. Routers of experts are packed
    in float32, because a logit that is rounded may choose another expert; the kernels of experts are left as they are.
    A tied table keeps its vectors beside the packed kernel, and is left as it is in float32. A kernel that is no array
    packs itself (`StoredKernel.packed`). Such parameters are for `jaxllm.generate` and `GPT.apply`; they have no
    gradient. Raises InputError for other `weights`.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights is {weights!r}; choose one of {', '.join(WEIGHTS)}.")
    packed = _pack_maps(params, weights)
    if weights != "float32" and "head" not in params:
        table = jnp.asarray(params["token_embedding"]["table"])
        packed["token_embedding"] = {"table": PackedTable(_packed(table, weights), table)}
    return packed


def _pack_maps(tree: Any, weights: str) -> Any:
    for names in ONE_INPUT:
        if all(_is_plain(tree.get(name)) for name in names):
            rest = {name: part for name, part in tree.items() if name not in names}
            return JoinedMaps(_pack_maps(rest, weights) | _joined({name: tree[name] for name in names}, weights))
    if "kernel" in tree:
        return tree | {"kernel": _packed_kernel(tree["kernel"], weights)}
    return {
        name: _pack_maps(part, "float32" if name == ROUTER else weights) if isinstance(part, dict) else part
        for name, part in tree.items()
    }


def _is_plain(part: Any) -> bool:
    """Whether it is a linear map whose kernel is an array; the kernels of experts are packed in no other form."""
    return isinstance(part, dict) and "kernel" in part and not isinstance(part["kernel"], StoredKernel)


def _joined(maps: dict[str, dict], weights: str) -> dict[str, dict]:
    kernels = [_packed_kernel(part["kernel"], weights) for part in maps.values()]
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *kernels)
    ends = np.cumsum([kernel.shape[1] for kernel in kernels]).tolist()
    ranges = zip([0, *ends[:-1]], ends, strict=True)
    return {
        name: part | {"kernel": replace(whole, rows=rows)}
        for (name, part), rows in zip(maps.items(), ranges, strict=True)
    }


def _packed_kernel(kernel: Kernel, weights: str) -> Any:
    if isinstance(kernel, StoredKernel):
        return kernel.packed(lambda array: _packed(jnp.asarray(array).T, weights))
    return _packed(jnp.asarray(kernel).T, weights)


def _packed(rows: Array, weights: str) -> PackedKernel:
    rows = jnp.asarray(rows)
    if weights == "int8":
        integers, scale = jax.jit(quantise_rows)(rows)
        return PackedKernel(integers, scale[:, 0])
    return PackedKernel(rows.astype(weights) if weights != "float32" else rows)
