"""How a run is laid out over devices: the sizes of the mesh's axes, checked against the model and the batch."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh

from jaxllm.config import GPTConfig
from jaxllm.parallel import AXES, CONTEXT
from jaxllm.utils.errors import InputError

from ..config import RunConfig, TrainConfig, row_length
from .config import ParallelConfig


class MeshLayout(NamedTuple):
    """The sizes of the mesh's axes."""

    data: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

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
    rows = train.batch_size // train.grad_accumulation
    _check_axes(config, n_devices)
    _check_model(config, model, train)
    if config.data is not None:
        data = config.data
    else:
        copies = range(n_devices // laid_out_for(config), 1, -1)
        data = next((data for data in copies if rows % (data * config.fsdp) == 0), 1)
    chosen = MeshLayout(data, config.fsdp, config.context, config.tensor)
    if rows % chosen.n_rows:
        parts = f" * train.grad_accumulation = {train.grad_accumulation}" if train.grad_accumulation > 1 else ""
        raise InputError(
            f"train.batch_size is {train.batch_size}, which parallel.data = {data} * parallel.fsdp = {config.fsdp}"
            f"{parts} does not divide; make it a multiple of {chosen.n_rows * train.grad_accumulation}, "
            "or use fewer parts."
        )
    return chosen


def laid_out_for(config: ParallelConfig) -> int:
    """The number of devices that the sizes of [parallel] make up; of one copy where `data` is left out."""
    return (config.data or 1) * config.fsdp * config.context * config.tensor


def layout_of(config: RunConfig, model: GPTConfig) -> MeshLayout:
    """How a run is laid out over all devices that JAX has. Raises InputError as `layout`."""
    return layout(config.parallel, jax.device_count(), model, config.train)


def _check_axes(config: ParallelConfig, n_devices: int) -> None:
    """Raises InputError unless the axes that are given make up the devices."""
    given = {f"parallel.{name}": size for name in AXES if (size := getattr(config, name)) is not None}
    product = laid_out_for(config)
    if n_devices % product or (config.data is not None and product != n_devices):
        remedy = (
            "leave parallel.data out" if config.data is not None and n_devices % (product // config.data) == 0
            else "choose sizes whose product is the number of devices"
        )  # fmt: skip
        said = f"{sizes_in_words(given, ' * ')} are {product:,} devices"
        raise InputError(f"{said}, but there {_are(n_devices)}; {remedy}.")


def _are(n: int) -> str:
    return f"is {n}" if n == 1 else f"are {n:,}"


def _check_model(config: ParallelConfig, model: GPTConfig, train: TrainConfig) -> None:
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
    length, name = row_length(model, train), "train.window" if train.window else "model.context_length"
    parts = config.context * config.tensor  # the loss cuts a row along both
    if config.context > 1 and length % parts:
        raise InputError(
            f"{name} is {length:,}, which parallel.context = {config.context} * "
            f"parallel.tensor = {config.tensor} does not divide; make it a multiple of {parts}, or use fewer parts."
        )


def sizes_in_words(sizes: Mapping[str, int], between: str = ", ") -> str:
    """`data = 2, fsdp = 4, tensor = 1`: the sizes of axes by their names; "context" is named where it cuts."""
    return between.join(f"{name} = {size}" for name, size in sizes.items() if size > 1 or not name.endswith(CONTEXT))


def describe_layout(chosen: MeshLayout) -> list[str]:
    """A line on the devices that a run uses; none for one device."""
    if chosen.n_devices == 1:
        return []
    return [f"on {chosen.n_devices} devices: {sizes_in_words(chosen._asdict())}"]


def describe_idle(chosen: MeshLayout, n_devices: int, train: TrainConfig) -> list[str]:
    """A line on the devices that stay idle, and on how a run would use them; none where there is none."""
    idle = n_devices - chosen.n_devices
    if not idle:
        return []
    multiple = n_devices // (chosen.context * chosen.tensor) * train.grad_accumulation
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
