"""How a run is laid out over devices: the sizes of the mesh's axes, checked against the model and the batch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh

from jaxllm.config import GPTConfig
from jaxllm.parallel import AXES
from jaxllm.utils.errors import InputError

from ..config import RunConfig, TrainConfig
from .config import ParallelConfig


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
