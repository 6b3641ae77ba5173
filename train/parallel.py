"""A run on many devices of one mesh: how it is laid out, and where its state and its batches lie.

`jaxllm.parallel` says which mesh axis cuts each parameter, `jaxllm.fast.on_mesh` what a step does about it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.config import GPTConfig
from jaxllm.data.windows import Ids
from jaxllm.fast import on_mesh
from jaxllm.parallel import AXES, ROWS, parameter_spec
from jaxllm.utils.errors import InputError

from .config import RunConfig, TrainConfig
from .parallel_config import ParallelConfig

State = TypeVar("State", bound=Any)


class MeshLayout(NamedTuple):
    """The sizes of the mesh's axes."""

    data: int
    fsdp: int
    tensor: int

    @property
    def n_devices(self) -> int:
        """The number of devices."""
        return math.prod(self)

    @property
    def n_rows(self) -> int:
        """The number of parts that a batch's rows are cut into."""
        return self.data * self.fsdp


def layout(config: ParallelConfig, n_devices: int, model: GPTConfig, train: TrainConfig) -> MeshLayout:
    """How a run is laid out over `n_devices`. Without `parallel.data`, as many copies as fit them and the batch.

    Raises InputError where the axes do not make up the devices, or do not divide the model or the batch.
    """
    fsdp, tensor, rows = config.fsdp, config.tensor, train.batch_size // train.grad_accumulation
    _check_axes(config, n_devices)
    _check_model(config, model)
    if config.data is not None:
        chosen = MeshLayout(config.data, fsdp, tensor)
    else:
        copies = range(n_devices // (fsdp * tensor), 1, -1)
        chosen = MeshLayout(next((data for data in copies if rows % (data * fsdp) == 0), 1), fsdp, tensor)
    if rows % chosen.n_rows:
        parts = f" * train.grad_accumulation = {train.grad_accumulation}" if train.grad_accumulation > 1 else ""
        raise InputError(
            f"train.batch_size is {train.batch_size}, which parallel.data = {chosen.data} * parallel.fsdp = {fsdp}"
            f"{parts} does not divide; make it a multiple of {chosen.n_rows * train.grad_accumulation}, "
            "or use fewer parts."
        )
    return chosen


def layout_of(config: RunConfig, model: GPTConfig) -> MeshLayout:
    """How a run is laid out over all devices that JAX has. Raises InputError as `layout`."""
    return layout(config.parallel, jax.device_count(), model, config.train)


def _check_axes(config: ParallelConfig, n_devices: int) -> None:
    """Raises InputError unless the axes that are given make up the devices."""
    given = {name: size for name in AXES if (size := getattr(config, name)) is not None}
    product = math.prod(given.values())
    if n_devices % product or (config.data is not None and product != n_devices):
        said = " * ".join(f"parallel.{name} = {size}" for name, size in given.items())
        remedy = (
            "leave parallel.data out" if config.data is not None and n_devices % (config.fsdp * config.tensor) == 0
            else "choose sizes whose product is the number of devices"
        )  # fmt: skip
        raise InputError(f"{said} are {product:,} devices, but there {_are(n_devices)}; {remedy}.")


def _are(n: int) -> str:
    return f"is {n}" if n == 1 else f"are {n:,}"


def _check_model(config: ParallelConfig, model: GPTConfig) -> None:
    """Raises InputError for sizes of the model that the axes do not divide."""
    sizes = [("fsdp", "model.d_model", model.d_model)]
    if model.block is None:
        sizes += [
            ("tensor", "model.n_heads", model.n_heads),
            ("tensor", "model.n_kv_heads", model.kv_heads),
            ("tensor", "model.d_ff", model.hidden_dim),
        ]
    for axis, name, size in sizes:
        parts = getattr(config, axis)
        if size % parts:
            raise InputError(
                f"{name} is {size}, which parallel.{axis} = {parts} does not divide; choose a divisor of {size}."
            )


def describe_layout(chosen: MeshLayout) -> list[str]:
    """A line on the devices that a run uses; none for one device."""
    if chosen.n_devices == 1:
        return []
    sizes = ", ".join(f"{axis} = {size}" for axis, size in zip(AXES, chosen, strict=True))
    return [f"on {chosen.n_devices} devices: {sizes}"]


def describe_idle(chosen: MeshLayout, n_devices: int, train: TrainConfig) -> list[str]:
    """A line on the devices that stay idle, and on how a run would use them; none where there is none."""
    idle = n_devices - chosen.n_devices
    if not idle:
        return []
    multiple = n_devices // chosen.tensor * train.grad_accumulation
    return [
        f"{idle} of {n_devices} devices stay idle, because train.batch_size = {train.batch_size} does not divide "
        f"by more; to use them, make it a multiple of {multiple}, or set parallel.tensor"
    ]


def make_mesh(layout: MeshLayout, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The mesh of the first devices of those given (default: all); None for one device, which needs none."""
    if layout.n_devices == 1:
        return None
    devices = jax.devices() if devices is None else list(devices)
    if layout.n_devices < len(devices):  # some of a TPU's chips need not be a block, whose wires could be followed
        placed = np.array(devices[: layout.n_devices]).reshape(layout)
    else:
        placed = create_device_mesh(tuple(layout), devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def state_shardings(mesh: Mesh | AbstractMesh, state: Any) -> Any:
    """Where each leaf of a TrainState lies; the leaves may be shapes.

    What the optimizer keeps for a parameter, in its shape, lies where that lies. The rest is on each device.
    """
    specs = {
        path: (leaf.shape, parameter_spec(path, leaf.shape, mesh.shape))
        for path, leaf in flatten_dict(state.params, sep="/").items()
    }

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        while name not in specs and "/" in name:
            name = name.partition("/")[2]
        shape, spec = specs.get(name, (None, PartitionSpec()))
        return NamedSharding(mesh, spec if shape == leaf.shape else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, state)


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


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Where the rows of a batch [B, T] lie."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def parts_of_rows(mesh: Mesh | None) -> tuple[list[int], int]:
    """Which parts of a batch's rows this process reads, in order, and of how many; ([0], 1) is all of it.

    On TPUs neighbours in a mesh are neighbours by wire, so a process need not hold neighbouring parts.
    """
    if mesh is None:
        return [0], 1
    here, n_parts = jax.process_index(), math.prod(mesh.shape[axis] for axis in ROWS)
    devices = mesh.devices.reshape(n_parts, -1)
    return [i for i, part in enumerate(devices) if any(device.process_index == here for device in part)], n_parts


def put_whole(mesh: Mesh | None, *arrays: Ids) -> tuple[Array, ...]:
    """As `put_batch`, for arrays of which every process has all rows."""
    if mesh is None:
        return cast(tuple[Array, ...], jax.device_put(arrays))
    sharding = row_sharding(mesh)
    return tuple(jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in arrays)


def put_batch(mesh: Mesh | None, *arrays: Ids) -> tuple[Array, ...]:
    """This process's `parts_of_rows` of arrays such as inputs and targets [B, T], on the devices of all processes."""
    if mesh is None:
        return cast(tuple[Array, ...], jax.device_put(arrays))
    sharding, (here, n_parts) = row_sharding(mesh), parts_of_rows(mesh)

    def put(mine: Ids) -> Array:
        of_part, n = dict(zip(here, np.split(mine, len(here)), strict=True)), len(mine) // len(here)

        def of_device(index: Any) -> Ids:
            return of_part[(index[0].start or 0) // n]

        return jax.make_array_from_callback((n * n_parts, *mine.shape[1:]), sharding, of_device)

    return tuple(map(put, arrays))


def on_one_device(tree: Any) -> Any:
    """A tree of arrays as it is computed with on one device of this process. All processes call it alike."""
    if jax.process_count() > 1:
        mesh = jax.tree.leaves(tree)[0].sharding.mesh
        whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
        tree = jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)
    return jax.device_put(tree, jax.local_devices()[0])
