"""The training step of a config, compiled for devices that may not be there, and what it costs each of them.

It runs in a process of its own (`train.plan.process`), whose environment says how many virtual devices there are, or
that libtpu needs no TPU. A device's program is the same for each block, so a step of few blocks is compiled at two
depths, and each figure of the whole model lies on the line through the two. libtpu plans the memory of one program a
little differently each time, which a line to many blocks multiplies, so what blocks must keep is given beside it.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding
from jax.stages import Compiled

from jaxllm.config import GPTConfig
from jaxllm.fast.platform import compiling_for
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.parameter_map import nested
from jaxllm.utils.errors import InputError, printable

from ..config import RunConfig, row_length
from ..config_file import load_config
from ..ideas import load_code, resolve
from ..inputs import model_without_text
from ..optimizer import learning_rate_schedule, make_optimizer
from ..parallel.layout import MeshLayout, layout, make_mesh
from ..parallel.placing import placed, row_sharding
from ..runs.arrays import named
from ..state import TrainState, state_of
from ..step import make_model, make_train_step
from ..tune.kinds import objective_of, shapes_of_kind
from ..tune.partition import partition_of
from .chips import CHIPS, Chip, shared
from .costs import costs
from .hlo import parse
from .process import serve
from .roofline import Figures, extended, spent
from .this_machine import this_machine

BLOCKS = (3, 4)  # depths that are compiled: with fewer, the first and the last block share buffers as no others do
WITHOUT_MACHINE_CODE = {"xla_backend_optimization_level": 0}  # for a CPU; it changes no operation, and nothing is run


class PlannedStep(NamedTuple):
    """What a job is planned with."""

    config: RunConfig
    model: GPTConfig
    layout: MeshLayout
    devices: list[jax.Device]

    @property
    def mesh(self) -> Mesh | None:
        """The mesh of the layout."""
        return make_mesh(self.layout, self.devices)

    def lower(self, n_layers: int) -> Any:
        """The step with so many blocks, ready to be compiled."""
        return lower(self.config, replace(self.model, n_layers=n_layers), self.mesh, self.devices[0])


def plan(job: dict[str, Any]) -> Figures:
    """The figures of a job: `config`, `overrides`, `code`, `kind`, `n_devices`, and `topology` where libtpu compiles.

    Raises InputError for a wrong config, and where libtpu cannot make the topology or compile for it.
    """
    subject = read(job)
    config, model, chosen, _ = subject
    chip = CHIPS.get(job["kind"]) or shared(this_machine(config.train.dtype), chosen.n_devices)
    few = BLOCKS if blocks_are_alike(config, model) and model.n_layers > BLOCKS[-1] else (model.n_layers,)
    with compiling_for("tpu" if job["topology"] else "cpu"), ThreadPoolExecutor() as pool:
        lowered = [subject.lower(n) for n in few]
        steps = [*pool.map(partial(compile_step, on_tpu=bool(job["topology"])), lowered)]
    measured = [figures(step, chip, config.train.dtype, chosen.n_devices) for step in steps]
    whole = extended(measured[0], measured[1], BLOCKS, model.n_layers) if len(few) == 2 else measured[0]
    if len(few) == 2 and job["topology"] and config.train.remat:
        least = measured[1]["memory"] + (model.n_layers - BLOCKS[1]) * kept_by_a_block(subject)
        whole |= {"memory": max(whole["memory"], least), "memory_least": least}
    return whole | held(config, model, subject.mesh) | {
        "layout": chosen._asdict(), "compiled_blocks": few, "peak_flops_per_s": chip.peak(config.train.dtype),
        "memory_per_s": chip.memory_per_s, "links_per_s": chip.links_per_s, "memory_of_device": chip.memory,
        "source": chip.source,
    }  # fmt: skip


def read(job: dict[str, Any]) -> PlannedStep:
    """What a job says; products are XLA's. Raises InputError as `plan`."""
    config = resolve(load_config(job["config"], job["overrides"]), load_code(job["code"]))
    config = replace(config, train=replace(config.train, products="xla"))
    model = model_without_text(config)
    if not config.data.attend_across:
        model = replace(model, separator=model.separator or 0)
    devices = topology_devices(job["kind"], job["topology"]) if job["topology"] else jax.devices()
    return PlannedStep(config, model, layout(config.parallel, job["n_devices"], model, config.train), devices)


def lower(config: RunConfig, model: GPTConfig, mesh: Mesh | None, device: jax.Device) -> Any:
    """The step of a model, ready to be compiled for the devices of a mesh, or for one."""
    trained = make_model(model, config.train, mesh)
    optimizer = make_optimizer(config.optimizer, config.train.steps, model.width_ratio)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    step = make_train_step(
        trained, optimizer, config.train, schedule, mesh, objective_of(config), partition_of(config)
    )  # fmt: skip
    state, batch = abstract(config, model, mesh), shapes_of_kind(config, row_length(model, config.train))
    if mesh is None:
        state, batch = jax.tree.map(partial(_on, SingleDeviceSharding(device)), (state, batch))
    else:
        batch = jax.tree.map(lambda leaf: _on(row_sharding(mesh, leaf.ndim), leaf), batch)
    return step.lower(state, *batch)  # type: ignore[attr-defined]


def blocks_are_alike(config: RunConfig, model: GPTConfig) -> bool:
    """Whether each block is the textbook's, with the same parameters that change."""
    parts = partition_of(config)
    if parts is None:
        return model.block is None
    changing: list[set[str]] = [set() for _ in range(model.n_layers)]
    for path, _ in named(abstract(config, model, None).params):
        block, _, rest = path.partition("/")
        if block.startswith("block_"):
            changing[int(block.removeprefix("block_"))].add(rest)
    return model.block is None and all(block == changing[0] for block in changing)


def compile_step(lowered: Any, on_tpu: bool) -> Compiled:
    """The step, compiled quickly. Raises InputError with libtpu's reason if it cannot."""
    try:
        return cast(Compiled, lowered.compile(None if on_tpu else WITHOUT_MACHINE_CODE))
    except jax.errors.JaxRuntimeError as error:
        if not on_tpu:
            raise
        raise InputError(f"libtpu cannot compile the step: {_sentence(error)}.") from None


def _on(sharding: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def abstract(config: RunConfig, model: GPTConfig, mesh: Mesh | None) -> TrainState:
    """Shapes, dtypes and places of the TrainState of a model; no block is traced but one."""
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in parameter_shapes(model).items()}
    optimizer = make_optimizer(config.optimizer, config.train.steps, model.width_ratio)
    begin = partial(state_of, optimizer=optimizer, parts=partition_of(config))
    return placed(mesh, jax.eval_shape(begin, nested(shapes), key=jax.eval_shape(jax.random.key, 0)))


def figures(step: Compiled, chip: Chip, dtype: str, n_devices: int) -> Figures:
    """What a compiled step costs and holds, for each device."""
    found = spent(costs(parse(step.as_text() or ""), n_devices), chip, dtype)
    return found | {"memory": float(memory_of(step))}


def memory_of(step: Compiled) -> int:
    """The bytes that each device holds during a compiled step, by the compiler's plan."""
    memory = step.memory_analysis()
    assert memory is not None  # XLA for CPUs and libtpu plan it
    held: int = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return held + memory.output_size_in_bytes - memory.alias_size_in_bytes


def held(config: RunConfig, model: GPTConfig, mesh: Mesh | None) -> Figures:
    """The bytes of parameters, optimizer and gradients on each device, by their shapes."""
    state = abstract(config, model, mesh)
    parameters, frozen = (sum(map(_bytes, jax.tree.leaves(part))) for part in (state.params, state.frozen))
    copies = min(config.train.grad_accumulation, 2)  # the sum over microbatches, and those of one
    return {
        "parameters": parameters, "optimizer": sum(map(_bytes, jax.tree.leaves(state.opt_state))),
        "gradients": copies * parameters, "frozen": frozen,
    }  # fmt: skip


def kept_by_a_block(subject: PlannedStep) -> int:
    """The bytes on a device that each further block keeps with remat: state, gradients, and its input [B, T, D]."""
    config, model, sizes, _ = subject
    one, two = (sum(held(config, replace(model, n_layers=n), subject.mesh).values()) for n in (1, 2))
    rows = config.train.batch_size // config.train.grad_accumulation // sizes.n_rows
    length = row_length(model, config.train) // sizes.context
    return two - one + rows * length * model.d_model * jnp.dtype(config.train.dtype).itemsize


def _bytes(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return leaf.dtype.itemsize * math.prod(shape)


def topology_devices(kind: str, shape: str) -> list[jax.Device]:
    """The chips of a slice, for libtpu to compile for. Raises InputError with its reason if it cannot."""
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(f"{kind}:{shape}", "tpu").devices)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"libtpu cannot make the topology {kind}:{shape}: {_sentence(error)}.") from None


def _sentence(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0]).rstrip(".")


if __name__ == "__main__":
    serve(plan)
