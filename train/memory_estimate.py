"""What a run needs of memory, reported before anything is allocated, with the setting that helps.

JAX plans a step's memory only while it compiles the step. So the bytes of parameters, gradients and optimizer are
counted from their shapes, and those of a step's activations by a formula that was fitted to XLA's plans. Once the
step is compiled, `train.runtime.memory.step_bytes` reads the plan. On a mesh the bytes are those of one device, or on a
CPU those of all devices of the process, which share its memory.
"""

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.stages import Compiled

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import GROUPS, KEPT, LONGEST, chunking
from jaxllm.fast.loss import MOST_LOGITS
from jaxllm.fast.platform import platform
from jaxllm.gpt import count_parameters, parameter_shapes
from jaxllm.parallel import AXES
from jaxllm.pretrained.parameter_map import nested
from jaxllm.utils.errors import InputError

from .config import OptimizerConfig, RunConfig, TrainConfig, row_length
from .optimizer import make_optimizer
from .parallel.layout import MeshLayout, layout_of
from .parallel.placing import state_shardings
from .runtime.memory import KNOBS, available_bytes, step_bytes
from .state import state_of
from .tune.partition import Partition, partition_of

GIB = 2**30
ONE = MeshLayout()
SMALLER = "make model.d_model or model.n_layers smaller: parameters, gradients and optimizer take"


class Need(NamedTuple):
    """Bytes that a run needs at its peak, by their use."""

    state: int  # parameters, gradients and optimizer
    activations: int  # what else a step holds at its peak
    checkpoint: int = 0  # while one is written in the background: two copies of parameters and optimizer

    @property
    def total(self) -> int:
        """The sum."""
        return self.state + self.activations + self.checkpoint


def needed(config: RunConfig, model: GPTConfig) -> Need:
    """`estimate` for all devices that JAX has. Raises InputError where the run cannot be laid out over them."""
    return of_one_device(config, model, layout_of(config, model))


def of_one_device(config: RunConfig, model: GPTConfig, chosen: MeshLayout = ONE) -> Need:
    """`estimate` of a run; a row of preferences is two."""
    train = config.train
    if config.tune.kind == "prefer":
        train = replace(train, batch_size=2 * train.batch_size)
    return estimate(model, train, config.optimizer, chosen, partition_of(config))


def estimate(
    model: GPTConfig, train: TrainConfig, optimizer: OptimizerConfig, chosen: MeshLayout = ONE,
    parts: Partition | None = None,
) -> Need:  # fmt: skip
    """The device memory that a run will need at its peak, before anything is compiled."""
    parameters, moments, _ = _parameters_and_moments(model, optimizer, ONE, parts)
    copies = 2 * (parameters + moments) if platform() == "cpu" else 0  # elsewhere they are in the host's memory
    state = state_bytes(model, train, optimizer, chosen, parts)
    activations = activation_bytes(model, train, chosen) + gathered_bytes(model, train, optimizer, chosen)
    return Need(_sharing(chosen) * state, _sharing(chosen) * activations, copies)


def _sharing(chosen: MeshLayout) -> int:
    """How many devices of a run take from the memory of `available_bytes`."""
    return chosen.n_devices // jax.process_count() if platform() == "cpu" else 1


def state_bytes(
    model: GPTConfig, train: TrainConfig, optimizer: OptimizerConfig, chosen: MeshLayout = ONE,
    parts: Partition | None = None,
) -> int:  # fmt: skip
    """The exact bytes of the TrainState and of the gradients, which are held twice where microbatches are summed."""
    parameters, moments, frozen = _parameters_and_moments(model, optimizer, chosen, parts)
    step = jnp.dtype(jnp.int32).itemsize
    return step + parameters + moments + frozen + min(train.grad_accumulation, 2) * parameters


def gathered_bytes(model: GPTConfig, train: TrainConfig, optimizer: OptimizerConfig, chosen: MeshLayout) -> int:
    """Bytes of the parameters that a device gathers for a step: all, or with remat one block's and the rest."""
    if chosen.fsdp == 1:
        return 0
    at_once = replace(model, n_layers=1) if train.remat else model
    return _parameters_and_moments(at_once, optimizer, chosen._replace(fsdp=1))[0]


@cache  # `fitting` calls it in a loop
def _parameters_and_moments(
    model: GPTConfig, optimizer: OptimizerConfig, chosen: MeshLayout, parts: Partition | None = None
) -> tuple[int, int, int]:
    """Bytes of the parameters that change, of their optimizer, and of those that do not.

    They are counted from the whole tree, because an optimizer may depend on names and dimensions.
    """
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in parameter_shapes(model).items()}
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(
        partial(state_of, optimizer=make_optimizer(optimizer, steps=1), parts=parts), nested(shapes), key=key
    )
    places = state_shardings(AbstractMesh(tuple(chosen), AXES), state)
    held = [_bytes(getattr(state, name), getattr(places, name)) for name in ("params", "opt_state", "frozen")]
    return held[0], held[1], held[2]


def _bytes(tree: Any, places: Any) -> int:
    """The bytes of a tree of shapes on a device."""
    held = jax.tree.map(lambda x, place: math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize, tree, places)
    return sum(jax.tree.leaves(held))


def activation_bytes(model: GPTConfig, train: TrainConfig, chosen: MeshLayout = ONE) -> int:
    """An estimate of the bytes that a step keeps for its backward pass, and of the logits.

    A device has its rows of a batch and its positions of each. That "tensor" cuts heads and hidden features is not
    counted. With "context" the keys and values of one block, and their gradients, are gathered from all positions.

    For each token a block keeps the inputs of its norms and linear maps, the outputs of attention and activation, and
    attention's weights for short contexts or with dropout; each of its experts as much as an MLP. In addition, the peak
    holds either the logits of a chunk with their gradients, or a few copies of one chunk's attention scores: more in
    bfloat16, since scores are in float32. The formula is fitted to JAX 0.12. JAX 0.10.1 may plan several times as much
    for contexts beyond KEPT, and there remat saves nothing.
    """
    size, length, parts = 2 if train.dtype == "bfloat16" else 4, row_length(model, train), chosen.context
    tokens = train.batch_size // (train.grad_accumulation * chosen.n_rows) * length // parts
    rows = min(LONGEST, length // GROUPS) if parts == 1 else chunking(length // parts, parts=parts).size
    weights, scores = model.n_heads * length, model.n_heads * rows * parts  # per token
    heads = (model.n_heads + model.kv_heads) * model.head_dim
    norms = 8 if model.norm_place == "both" else 6
    hidden = model.hidden_dim * (model.n_experts or 1)
    block = size * (norms * model.d_model + 2 * heads + (4 if model.gated else 2) * hidden)
    if model.dropout:
        block += 4 * (3 * weights + 2 * model.d_model)
    elif length <= KEPT:
        block += 4 * weights * 5 // 8
    of_all = 2 * model.n_heads * model.head_dim * (size + 4) * parts if parts > 1 else 0  # keys, values, gradients
    backward = 0 if model.dropout else 4 * scores * (7 if size == 2 else 4) + of_all
    kept = size * model.d_model if train.remat else block
    again = block + backward if train.remat else backward
    most = MOST_LOGITS if train.loss is None else tokens * model.vocab_size  # a user's loss is not cut into chunks
    head = 10 * min(tokens * model.vocab_size, most)
    return tokens * model.n_layers * kept + max(tokens * again, head)


def memory_line(need: Need, available: int | None) -> str:
    """The line that is printed at the start of a run."""
    checkpoint = f", {_gib(need.checkpoint)} to write a checkpoint" if need.checkpoint else ""
    free = "" if available is None else f"; {_gib(available)} are free"
    return (
        f"memory: {_gib(need.state)} parameters, gradients and optimizer, "
        f"about {_gib(need.activations)} activations of a step{checkpoint}{free}"
    )


def warning(need: Need, available: int | None, config: RunConfig, model: GPTConfig) -> str:
    """One sentence where a run will not fit: what is needed, what is free, what helps most. "" where it fits."""
    if available is None or need.total <= available:
        return ""
    said = f"the run needs about {_gib(need.total)} of memory, but {_gib(available)} are free"
    if need.state + need.checkpoint > available:
        each = state_bytes(model, config.train, config.optimizer) / count_parameters(model)
        return f"{said}; {SMALLER} {each:.0f} bytes for each parameter."
    found = fitting(available, config, model)
    return f"{said}; {KNOBS}{f' ({found} would fit)' if found else ''}."


def warning_of_plan(step: Compiled, config: RunConfig, model: GPTConfig) -> str:
    """As `warning`, by XLA's plan of the compiled step in place of the estimate."""
    planned = step_bytes(step)
    need = Need(0, (planned or 0) * _sharing(layout_of(config, model)))
    return warning(need, available_bytes(), config, model)


def fitting(available: int, config: RunConfig, model: GPTConfig) -> str:
    """The smallest train.grad_accumulation with which the run fits, with train.remat if needed; "" if there is none."""
    now = config.train
    more = [n for n in range(now.grad_accumulation, now.batch_size + 1) if now.batch_size % n == 0]
    for remat in sorted({now.remat, True}):
        for n in more:
            tried = replace(config, train=replace(now, grad_accumulation=n, remat=remat))
            if _can_be_laid_out(tried, model) and needed(tried, model).total <= available:
                changed = [f"train.grad_accumulation={n}"] if n != now.grad_accumulation else []
                return " with ".join(changed + (["train.remat=true"] if remat != now.remat else []))
    return ""


def _can_be_laid_out(config: RunConfig, model: GPTConfig) -> bool:
    try:
        layout_of(config, model)
    except InputError:
        return False
    return True


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.1f} GiB"
