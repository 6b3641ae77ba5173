"""Low-rank adaptation (LoRA): frozen maps, each with a small trained one beside it. Hu et al. 2021.

An adapter is a nested dict that has, at the path of each adapted kernel W [D, F], {"a": A [D, r], "b": B [r, F]}.
`attach` puts both into the parameters of a model, as leaves that compute x W + scale (x A) B; `merge` makes arrays of
such leaves. With B = 0, where training begins, the model is the base to the bit. `quantise_base` keeps frozen kernels
in int8, as QLoRA keeps them in 4 bits (Dettmers et al. 2023). The NumPy twins of the products are in
`jaxllm.reference.lora`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int8, Key

from jaxllm.array import Array, StoredKernel
from jaxllm.fast import has_fast_form
from jaxllm.fast.quantised_weights import Kernel, quantise_rows
from jaxllm.layers import dropout, dropout_mask
from jaxllm.utils.errors import InputError, shown

MOST_NAMED = 4  # paths in a message
KERNEL, TABLE = "/kernel", "/table"
Shapes = Mapping[str, tuple[int, ...]]  # of parameters or kernels, by path


@has_fast_form
def lora_linear(
    x: Float[Array, "*batch D"], kernel: Float[Kernel, "D F"], a: Float[Array, "D r"], b: Float[Array, "r F"],
    scale: float, keep: Float[Array, "*batch D"] | None = None,
) -> Float[Array, "*batch F"]:  # fmt: skip
    """y = x W + scale (x A) B, in the dtype of x. Hu et al. 2021, section 4.1, where scale is alpha / r.

    `keep` is a mask of `jaxllm.layers.dropout_mask`, which x passes on its way to A.
    """
    kept = x if keep is None else dropout(x, keep)
    return x @ kernel.astype(x.dtype) + scale * (kept @ a.astype(x.dtype)) @ b.astype(x.dtype)


@has_fast_form
def int8_linear(
    x: Float[Array, "*batch D"], weights: Int8[Array, "D F"], scale: Float[Array, "F"]
) -> Float[Array, "*batch F"]:
    """y = (x weights) * scale, in the dtype of x, which is not rounded to int8."""
    return x @ weights.astype(x.dtype) * scale.astype(x.dtype)


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "scale"], meta_fields=[])
@dataclass(frozen=True)
class Int8Kernel(StoredKernel):
    """A frozen kernel [D, F] in a quarter of the memory: kernel_df = weights_df scale_f. `x @ kernel` is `int8_linear`.

    `jaxllm.fast.quantised_weights.PackedKernel` rounds x too; it is for generation and has no gradient.
    """

    weights: Any  # int8 [D, F]; an array, or its shape
    scale: Any  # [F], likewise

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, F)."""
        return tuple(self.weights.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the scale."""
        return self.scale.dtype

    def astype(self, dtype: Any) -> "Int8Kernel":
        """The kernel as it is: the product casts to the dtype of x."""
        return self

    def __rmatmul__(self, x: Array) -> Array:
        return int8_linear(x, self.weights, jax.lax.stop_gradient(self.scale))


@partial(jax.tree_util.register_dataclass, data_fields=["base", "a", "b", "key"], meta_fields=["scale", "rate"])
@dataclass(frozen=True)
class LoraKernel(StoredKernel):
    """A frozen kernel [D, F] with its adapter. `x @ kernel` is `lora_linear`; the base has no gradient.

    With a `key`, dropout of that `rate` is active on the way to A.
    """

    base: Kernel
    a: Array  # [D, r]
    b: Array  # [r, F]
    key: Array | None = None
    scale: float = 1.0
    rate: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, F)."""
        return tuple(self.base.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the base."""
        return self.base.dtype

    def astype(self, dtype: Any) -> "LoraKernel":
        """The kernel as it is: the product casts to the dtype of x, so that the backward can keep what is stored."""
        return self

    def packed(self, pack: Callable[[Array], StoredKernel]) -> "LoraKernel":
        """The kernel with its base packed."""
        base = self.base.packed(pack) if isinstance(self.base, StoredKernel) else pack(self.base)
        return replace(self, base=base)

    def __rmatmul__(self, x: Array) -> Array:
        keep = None if self.key is None or self.rate == 0 else dropout_mask(self.key, x.shape, self.rate)
        return lora_linear(x, jax.lax.stop_gradient(self.base), self.a, self.b, self.scale, keep)


def adapted_paths(shapes: Shapes, targets: str | None, rank: int) -> list[str]:
    """The paths of the kernels that an adapter of that rank is for, from the shapes of a model's parameters.

    `targets` is a regular expression that is searched in the paths of maps, as "block_0/attention/query"; None means
    all maps of blocks. Routers of experts are adapted only if `targets` says "router".

    Raises InputError if it is no regular expression, if it matches no map or one outside of the blocks, or if the rank
    is below 1 or above the smaller side of a kernel.
    """
    maps = [path.removesuffix(KERNEL) for path, shape in shapes.items() if path.endswith(KERNEL) and len(shape) == 2]
    if "router" not in (targets or ""):
        maps = [path for path in maps if not path.endswith("/router")]
    inside = [path for path in maps if path.startswith("block_")]
    found = inside
    if targets is not None:
        tables = [path.removesuffix(TABLE) for path in shapes if path.endswith(TABLE)]
        found = [path for path in (*maps, *tables) if _pattern(targets).search(path)]
    if not found:
        raise InputError(
            f"lora.targets {shown(targets)} matches none of the maps, which are {_some(inside)}"
            f"{'; a router must be named by that word' * any(path.endswith(f'/router{KERNEL}') for path in shapes)}."
        )
    if outside := [path for path in found if not path.startswith("block_")]:
        raise InputError(
            f"lora.targets {shown(targets)} matches {_some(outside)}, but only maps of blocks are adapted; use "
            "'^block_', or name the maps more narrowly."
        )
    narrow = min(found, key=lambda path: min(shapes[path + KERNEL]))
    most = min(shapes[narrow + KERNEL])
    if not 1 <= rank <= most:
        raise InputError(
            f"lora.rank is {rank}, but {narrow} is {list(shapes[narrow + KERNEL])}; choose a rank from 1 to {most}."
        )
    return [path + KERNEL for path in found]


def _pattern(targets: str) -> re.Pattern[str]:
    try:
        return re.compile(targets)
    except re.error as error:
        raise InputError(f"lora.targets {shown(targets)} is no regular expression: {error}.") from None


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:MOST_NAMED]) + (f" and {len(paths) - MOST_NAMED:,} more" if paths[MOST_NAMED:] else "")


def init_adapter(key: Key[Array, ""], shapes: Shapes, rank: int) -> dict[str, Any]:
    """An adapter for kernels of these paths and shapes (D, F): A uniform in +-1/sqrt(D), as in PEFT, and B zero."""
    paths = sorted(shapes)
    keys = jax.random.split(key, len(paths))
    flat = {f"{path}/b": jnp.zeros((rank, shapes[path][1]), jnp.float32) for path in paths}
    for width in {shapes[path][0] for path in paths}:  # those of one shape together: a generator for each compiles long
        alike = [i for i, path in enumerate(paths) if shapes[path][0] == width]
        draw = partial(jax.random.uniform, shape=(width, rank), minval=-(width**-0.5), maxval=width**-0.5)
        values = jax.vmap(lambda one, draw=draw: draw(one, dtype=jnp.float32))(keys[np.array(alike)])
        flat |= {f"{paths[i]}/a": value for i, value in zip(alike, values, strict=True)}
    return dict(unflatten_dict(flat, sep="/"))


def grown(adapter: Any, fresh: Any) -> Any:
    """The same function in the ranks of a `fresh` adapter, at least its own: what is new has the fresh A and B zero."""
    flat, larger = flatten_dict(adapter), flatten_dict(fresh)
    for path, x in flat.items():
        flat[path] = larger[path].at[: x.shape[0], : x.shape[1]].set(x)
    return unflatten_dict(larger | flat)


def attach(
    params: Any, adapter: Any, scale: float, rate: float = 0.0, key: Key[Array, ""] | None = None
) -> dict[str, Any]:
    """The parameters with a `LoraKernel` at the path of each kernel that the adapter is for.

    With a key, each leaf gets one of its own, for dropout of that rate. Raises InputError for an adapter of other
    kernels than those of the parameters.
    """
    flat, parts = flatten_dict(params), flatten_dict(adapter)
    paths = sorted({path[:-1] for path in parts})
    keys = [None] * len(paths) if key is None else list(jax.random.split(key, len(paths)))
    for one, path in zip(keys, paths, strict=True):
        a, b = parts[*path, "a"], parts[*path, "b"]
        _check_fits("/".join(path), flat.get(path), a, b)
        flat[path] = LoraKernel(flat[path], a, b, one, scale, rate)
    return dict(unflatten_dict(flat))


def _check_fits(path: str, base: Any, a: Any, b: Any) -> None:
    if base is None:
        raise InputError(f"the adapter is for {shown(path)}, which the model lacks; use the adapter's own base model.")
    if (a.shape[0], b.shape[1]) != tuple(base.shape) or a.shape[1] != b.shape[0]:
        raise InputError(
            f"the adapter of {shown(path)} is {list(a.shape)} and {list(b.shape)}, but the kernel is "
            f"{list(base.shape)}; use the adapter's own base model."
        )


def merge(params: Any) -> dict[str, Any]:
    """The parameters with an array W + scale A B at the place of each `LoraKernel`.

    It is computed in float64 by NumPy, then rounded to the dtype of the base; float32 for one in int8.
    """
    flat = flatten_dict(params)
    return dict(unflatten_dict({p: _merged(x) if isinstance(x, LoraKernel) else x for p, x in flat.items()}))


def _merged(kernel: LoraKernel) -> np.ndarray:
    a, b = (np.asarray(x, np.float64) for x in (kernel.a, kernel.b))
    if isinstance(kernel.base, Int8Kernel):
        base = np.asarray(kernel.base.weights, np.float64) * np.asarray(kernel.base.scale, np.float64)
    else:
        base = np.asarray(kernel.base, np.float64)
    return (base + kernel.scale * (a @ b)).astype(kernel.dtype)


def quantise_base(params: Any, paths: Iterable[str]) -> dict[str, Any]:
    """The parameters with an `Int8Kernel` at these paths: each column of a kernel as integers from -127 to 127."""
    flat = flatten_dict(params, sep="/")
    for path in paths:
        weights, scale = jax.jit(quantise_rows)(jnp.asarray(flat[path]).T)
        flat[path] = Int8Kernel(weights.T, scale[:, 0])
    return dict(unflatten_dict(flat, sep="/"))
