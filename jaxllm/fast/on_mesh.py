"""Training on a mesh of devices: what is cut where, in the places where XLA would not find it by itself.

Within `with on(mesh): ...` a traced step computes on all devices of a mesh with the axes of `jaxllm.parallel`. XLA
spreads each operation from the places of its operands. These helpers fix three things: a block's parameters are
gathered before it computes and its gradients go back into parts; the rows of a batch stay on their devices; and
functions that loop over merged axes compute on each device's own part. As `jaxllm.fast.off`, the mesh is part of the
key under which `jax.jit` keeps a trace. Outside of the context all are the identity.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt32

from jaxllm.array import Array
from jaxllm.parallel import ROWS, parameter_spec, without_fsdp

P = ParamSpec("P")
R = TypeVar("R")
Axes = str | tuple[str, ...]  # of a mesh, for one dimension
_active: Any = jax.make_user_context(None)


def on(mesh: Mesh | None) -> AbstractContextManager[None]:
    """A context in which functions are traced for the mesh; None: for one device."""
    return cast(AbstractContextManager[None], _active(mesh))


def active() -> Mesh | None:
    """The mesh of the context."""
    return cast(Mesh | None, _active.value)


def traced_on(mesh: Mesh | None, function: Callable[P, R]) -> Callable[P, R]:
    """The function, to be traced within `on(mesh)`; without a mesh the function itself."""
    if mesh is None:
        return function

    _lower_mulhi()

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        with on(mesh):
            return function(*args, **kwargs)

    return traced


@cache
def _lower_mulhi() -> None:
    """Have JAX write `jax.lax.mulhi`, by which philox4x32 draws dropout masks, as products of 64 bits.

    XLA's partitioner cannot read the operation that JAX 0.12 writes for it. The bits are the same.
    """
    if hasattr(jax.lax, "mulhi_p"):  # JAX 0.10 has no philox4x32
        mlir.register_lowering(jax.lax.mulhi_p, mlir.lower_fun(mulhi, multiple_results=False))


def mulhi(a: UInt32[Array, "*shape"], b: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The upper 32 bits of the products of integers of 32 bits."""
    with jax.enable_x64(True):
        product = a.astype(jnp.uint64) * b.astype(jnp.uint64)
        return (product >> 32).astype(jnp.uint32)


def cut(x: Array, *axes: Any) -> Array:
    """x, whose dimensions lie along these mesh axes, the rest whole."""
    mesh = active()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))


def size(axes: Axes) -> int:
    """The number of parts that these axes of the mesh of the context make."""
    shape = cast(Mesh, active()).shape
    return math.prod(shape[name] for name in ((axes,) if isinstance(axes, str) else axes))


def that_divide(length: int, axes: Axes) -> Axes | None:
    """The axes, for a dimension of this length; None, so that it is whole, where they do not divide it."""
    return axes if length % size(axes) == 0 else None


def on_each_device(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """The function, called on each device with its parts of the arguments."""
    return jax.shard_map(function, mesh=active(), in_specs=in_specs, out_specs=out_specs, check_vma=False)


def summed(x: Array, spec: PartitionSpec) -> Array:
    """Within `on_each_device`: the sum of x over the devices whose arguments, cut as `spec` says, are others."""
    axes = [axis for axes in spec if axes for axis in ((axes,) if isinstance(axes, str) else axes)]
    return cast(Array, jax.lax.psum(x, axes))


def gathered(block: type[nn.Module]) -> type[nn.Module]:
    """The class of a block that gathers its parameters before use, and keeps the rows of x on their devices.

    Within `nn.remat` it gathers them again in the backward, so that only one block's are whole at a time.
    """

    class Gathered(block):  # type: ignore[valid-type, misc]
        @nn.nowrap  # interceptors see one call, the block's own
        def __call__(self, x: Array, *rest: Any, **others: Any) -> Any:
            whole = jax.named_scope(cast(str, self.name))(gather)
            call: Any = nn.map_variables(block.__call__, "params", trans_in_fn=whole, init=False, mutable=False)
            out = call(self, cut(x, ROWS), *rest, **others)
            # The last block's result too, or XLA would compute its MLP where the loss wants the positions.
            return (cut(out[0], ROWS), *out[1:]) if isinstance(out, tuple) else cut(out, ROWS)

    return Gathered


def gather(params: Any) -> Any:
    """Parameters as they are computed with: whole, but for the part that "tensor" gives a device.

    The gradient is summed into the parts in which the parameters are stored.
    """
    return _placed(params, lambda x, mesh, spec: _gather(x, spec, NamedSharding(mesh, without_fsdp(spec.spec))))


def stored(tree: Any) -> Any:
    """A tree like the parameters, such as their gradients, in the parts in which parameters are stored.

    The barrier keeps XLA from summing gradients over the devices after a loop over microbatches, whole.
    """
    return _placed(tree, lambda x, _, spec: jax.lax.optimization_barrier(jax.lax.with_sharding_constraint(x, spec)))


def read_in_loop(params: Any, carry: Any) -> tuple[Any, Any]:
    """Both, in the body of a loop with this carry, so that XLA does not gather the parameters before the loop."""
    return (params, carry) if active() is None else jax.lax.optimization_barrier((params, carry))


def _placed(tree: Any, place: Callable[[Array, Mesh, NamedSharding], Array]) -> Any:
    """Each leaf as `place(leaf, mesh, where the parameter of its path is stored)`; the tree itself without a mesh."""
    mesh = active()
    if mesh is None:
        return tree

    def place_one(path: Any, x: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return place(x, mesh, NamedSharding(mesh, parameter_spec(name, x.shape, mesh.shape)))

    return jax.tree_util.tree_map_with_path(place_one, tree)


def gathered_ends(params: dict[str, Any]) -> dict[str, Any]:
    """A GPT's parameters in which those outside of the blocks, which gather their own, are gathered.

    Each device sums the gradient of its rows into a whole table before that is cut. Otherwise XLA would cut the
    gradients of all rows as the table is stored, and with "tensor" gather them whole for that.
    """
    ends = jax.tree.map(cut, gather({name: part for name, part in params.items() if not name.startswith("block_")}))
    return {name: ends.get(name, part) for name, part in params.items()}


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: Array, at_rest: NamedSharding, in_use: NamedSharding) -> Array:
    # Without the first, x would lie as `in_use` says where `nn.remat` keeps it, gathered once for both passes.
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, at_rest), in_use)


def _gather_forward(x: Array, at_rest: NamedSharding, in_use: NamedSharding) -> tuple[Array, None]:
    return _gather(x, at_rest, in_use), None


def _gather_backward(at_rest: NamedSharding, in_use: NamedSharding, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, at_rest),)


_gather.defvjp(_gather_forward, _gather_backward)
