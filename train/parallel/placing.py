"""Where the state and the batches of a run lie on its mesh, and which rows of a batch a process reads.

`jaxllm.parallel` says which mesh axis cuts each parameter, `jaxllm.fast.on_mesh` what a step does about it.
"""

import math
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxllm.data.windows import Ids
from jaxllm.fast import on_mesh
from jaxllm.parallel import CONTEXT, ROWS, TOKENS, parameter_spec

State = TypeVar("State", bound=Any)


def state_shardings(mesh: Mesh | AbstractMesh, state: Any) -> Any:
    """Where each leaf of a TrainState lies; the leaves may be shapes.

    What the optimizer keeps for a parameter, in its shape, lies where that lies. The rest is on each device.
    """
    specs = {}
    for tree in (state.params, state.frozen):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            specs[_name(path)] = leaf.shape, parameter_spec(_name(path), leaf.shape, mesh.shape)

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = _name(path)
        while name not in specs and "/" in name:
            name = name.partition("/")[2]
        shape, spec = specs.get(name, (None, PartitionSpec()))
        return NamedSharding(mesh, spec if shape == leaf.shape else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, state)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def kept_in_place(state: State) -> State:
    """The state of a traced step, whose leaves lie on the mesh that it is traced for as `state_shardings` says."""
    mesh = on_mesh.active()
    return state if mesh is None else jax.lax.with_sharding_constraint(state, state_shardings(mesh, state))


def placed(mesh: Mesh | None, state: Any) -> Any:
    """The shapes of a TrainState, with where they lie on the mesh."""
    if mesh is None:
        return state
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state, state_shardings(mesh, state),
    )  # fmt: skip


def row_sharding(mesh: Mesh, n_dims: int = 2) -> NamedSharding:
    """Where the tokens of a batch [B, T] lie; of an array with other dimensions behind B only that is cut."""
    return NamedSharding(mesh, PartitionSpec(*(TOKENS if n_dims == 2 else TOKENS[:1])))


def parts_of_rows(mesh: Mesh | None) -> tuple[list[int], int]:
    """Which parts of a batch's rows this process reads, in order, and of how many; ([0], 1) is all of it.

    On TPUs neighbours in a mesh are neighbours by wire, so a process need not hold neighbouring parts.
    """
    if mesh is None:
        return [0], 1
    here, n_parts = jax.process_index(), math.prod(mesh.shape[axis] for axis in ROWS)
    devices = mesh.devices.reshape(n_parts, -1)
    return [i for i, part in enumerate(devices) if any(device.process_index == here for device in part)], n_parts


def divisible_length(mesh: Mesh | None, length: int) -> int:
    """The least number of positions from `length` on that the devices of a mesh cut evenly."""
    return length if mesh is None else length + -length % mesh.shape[CONTEXT]


def put_whole(mesh: Mesh | None, *arrays: Ids) -> tuple[Array, ...]:
    """As `put_batch`, for arrays of which every process has all rows."""
    if mesh is None:
        return cast(tuple[Array, ...], jax.device_put(arrays))
    sharding = row_sharding(mesh)
    return tuple(jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in arrays)


def put_batch(mesh: Mesh | None, *batch: Any) -> tuple[Any, ...]:
    """This process's `parts_of_rows` of a batch, on the devices of all processes.

    A batch is inputs and targets: arrays or trees of arrays, with the batch as the first axis of each, as [B, T].
    """
    if mesh is None:
        return cast(tuple[Any, ...], jax.device_put(batch))
    here, _ = parts_of_rows(mesh)

    def put(mine: Ids, whole: jax.ShapeDtypeStruct) -> Array:
        of_part, n = dict(zip(here, np.split(mine, len(here)), strict=True)), len(mine) // len(here)

        def of_device(index: Any) -> Ids:
            return of_part[(index[0].start or 0) // n][:, *index[1:]]

        return jax.make_array_from_callback(whole.shape, whole.sharding, of_device)

    return jax.tree.map(put, batch, shapes_of_batch(mesh, *batch))


def shapes_of_batch(mesh: Mesh | None, *batch: Any) -> tuple[Any, ...]:
    """The shapes and places of what `put_batch` returns, as `jax.ShapeDtypeStruct`s."""
    here, n_parts = parts_of_rows(mesh)

    def shape_of(mine: Ids) -> jax.ShapeDtypeStruct:
        sharding = None if mesh is None else row_sharding(mesh, mine.ndim)
        return jax.ShapeDtypeStruct((len(mine) // len(here) * n_parts, *mine.shape[1:]), mine.dtype, sharding=sharding)

    return jax.tree.map(shape_of, batch)


def on_one_device(tree: Any) -> Any:
    """A tree of arrays as it is computed with on one device of this process. All processes call it alike."""
    if jax.process_count() > 1:
        mesh = jax.tree.leaves(tree)[0].sharding.mesh
        whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
        tree = jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)
    return jax.device_put(tree, jax.local_devices()[0])
