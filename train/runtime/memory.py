"""What a run needs of memory and what is free, said before anything is allocated, with the setting that helps.

JAX plans a step's memory only while it compiles the step, half a minute for GPT-2 124M. So parameters, gradients and
optimizer are counted from the shapes alone, and a step's activations by a formula that was fitted to XLA's plans; once
the step is compiled the plan itself is at hand (`step_bytes`). One device is meant, which holds all.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import GROUPS, KEPT, LONGEST
from jaxllm.fast.loss import MOST_LOGITS
from jaxllm.pretrained.parameter_map import nested, parameter_shapes

from ..config import OptimizerConfig, RunConfig, TrainConfig
from ..step import make_optimizer

GIB = 2**30
KNOBS = "raise train.grad_accumulation, set train.remat=true, or make model.context_length smaller"
SMALLER = (
    "make model.d_model or model.n_layers smaller: parameters, gradients and AdamW take 16 bytes for each parameter"
)


class Need(NamedTuple):
    """Bytes."""

    state: int  # parameters, gradients and optimizer
    activations: int  # what else a step holds at its fullest
    checkpoint: int = 0  # what writing one in the background takes beside it: two copies of parameters and optimizer

    @property
    def total(self) -> int:
        """All."""
        return self.state + self.activations + self.checkpoint


def estimate(model: GPTConfig, train: TrainConfig, optimizer: OptimizerConfig) -> Need:
    """What a run will need of the device's memory at its fullest, before anything is compiled."""
    parameters, moments = _parameters_and_moments(model, optimizer)
    copies = 2 * (parameters + moments) if jax.default_backend() == "cpu" else 0  # elsewhere the host has them
    return Need(state_bytes(model, train, optimizer), activation_bytes(model, train), copies)


def state_bytes(model: GPTConfig, train: TrainConfig, optimizer: OptimizerConfig) -> int:
    """Bytes of the TrainState, exactly, and of the gradients: two of each where micro-batches are summed."""
    parameters, moments = _parameters_and_moments(model, optimizer)
    step = jnp.dtype(jnp.int32).itemsize
    return step + parameters + moments + min(train.grad_accumulation, 2) * parameters


@cache  # the loop of `fitting` asks again and again
def _parameters_and_moments(model: GPTConfig, optimizer: OptimizerConfig) -> tuple[int, int]:
    """Bytes, by the whole tree of parameters: an optimizer may look at their names and dimensions."""
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in parameter_shapes(model).items()}
    state = jax.eval_shape(make_optimizer(optimizer, steps=1).init, nested(params))
    return _bytes(params), _bytes(state)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def activation_bytes(model: GPTConfig, train: TrainConfig) -> int:
    """Bytes of what a step keeps for its backward and of the logits, about.

    For each token a block keeps the inputs of its norms and linear maps, what attention and activation return, and
    attention's weights where they are short or dropped. Beside what all blocks keep there are at the fullest either
    the logits of a chunk with their gradients, or a few copies of one chunk's attention scores: in bfloat16 more, since
    scores are in float32. Of 77 plans of JAX 0.12 on a CPU (1 to 124 million parameters, T from 32 to 2048, both
    dtypes, remat, dropout) it is off by 9 % in the median, 37 % at the most.
    JAX 0.10.1 plans up to 3.5 times as much for contexts beyond KEPT, where remat saved nothing: `step_bytes` tells.
    """
    size, length = 2 if train.dtype == "bfloat16" else 4, model.context_length
    tokens = train.batch_size // train.grad_accumulation * length
    weights, scores = model.n_heads * length, model.n_heads * min(LONGEST, length // GROUPS)  # of a token
    heads = (model.n_heads + model.kv_heads) * model.head_dim
    block = size * (6 * model.d_model + 2 * heads + (4 if model.gated else 2) * model.hidden_dim)
    if model.dropout:
        block += 4 * (3 * weights + 2 * model.d_model)
    elif length <= KEPT:
        block += 4 * weights * 5 // 8
    backward = 0 if model.dropout else 4 * scores * (7 if size == 2 else 4)
    kept = size * model.d_model if train.remat else block
    again = block + backward if train.remat else backward
    head = 10 * min(tokens * model.vocab_size, MOST_LOGITS)
    return tokens * model.n_layers * kept + max(tokens * again, head)


def step_bytes(step: Compiled) -> int | None:
    """Bytes that a compiled step takes besides its arguments, gradients included, as XLA planned them; None: not known.

    On a CPU, XLA asks for all of them in one piece.
    """
    plan = step.memory_analysis()
    if plan is None:
        return None
    return int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: of the device's memory, on a CPU of the machine's and of its cgroups'.

    None where nobody tells, as on macOS. `root` is where proc and sys are.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        return known["bytes_limit"] - known["bytes_in_use"] if {"bytes_limit", "bytes_in_use"} <= set(known) else None
    found = _lines(root / "proc/meminfo").get("MemAvailable:", "").removesuffix(" kB")
    left = [int(found) * 1024] if found else []
    return min([*left, *_left_in_cgroups(root)], default=None)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Of each cgroup with a limit that holds this process, in version 1 or 2, what is left, as `docker stats` counts:
    file pages that were not used of late are free, because the kernel takes them back."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = "sys/fs/cgroup/memory"
        else:
            continue
        group = root / top / path.strip("/")
        for folder in (group, *group.parents):  # a limit of any one above holds too
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])
            except (OSError, ValueError):  # absent; "max"
                continue
            yield max(limit - used + int(_lines(folder / "memory.stat").get(names[2], 0)), 0)


def _lines(path: Path) -> dict[str, str]:
    """The lines of a file of names and values; none if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in lines)}


def memory_line(need: Need, available: int | None) -> str:
    """One line for the start of a run."""
    checkpoint = f", {_gib(need.checkpoint)} to write a checkpoint" if need.checkpoint else ""
    free = "" if available is None else f"; {_gib(available)} are free"
    return (
        f"memory: {_gib(need.state)} parameters, gradients and optimizer, "
        f"about {_gib(need.activations)} activations of a step{checkpoint}{free}"
    )


def warning(need: Need, available: int | None, config: RunConfig, model: GPTConfig) -> str:
    """One sentence where a run will not fit: how much is needed, what is free, what helps most. "" where it fits."""
    if available is None or need.total <= available:
        return ""
    said = f"the run needs about {_gib(need.total)} of memory, but {_gib(available)} are free"
    if need.state + need.checkpoint > available:
        return f"{said}; {SMALLER}."
    found = fitting(available, config, model)
    return f"{said}; {KNOBS}{f' ({found} would fit)' if found else ''}."


def fitting(available: int, config: RunConfig, model: GPTConfig) -> str:
    """The smallest train.grad_accumulation with which the run fits, if need be with train.remat too; "" if none is."""
    now = config.train
    more = [n for n in range(now.grad_accumulation, now.batch_size + 1) if now.batch_size % n == 0]
    for remat in sorted({now.remat, True}):
        for n in more:
            tried = replace(now, grad_accumulation=n, remat=remat)
            if estimate(model, tried, config.optimizer).total <= available:
                changed = [f"train.grad_accumulation={n}"] if n != now.grad_accumulation else []
                return " with ".join(changed + (["train.remat=true"] if remat != now.remat else []))
    return ""


def describe_out_of_memory(error: BaseException) -> str | None:
    """One sentence for an error that says that memory ran out, from Python, NumPy or XLA; None for any other."""
    text = str(error).partition("\n")[0]
    from_xla = isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    )
    if not (from_xla or isinstance(error, MemoryError)):
        return None
    said = f" ({text.rstrip('.')})" if text else ""
    return f"there is not enough memory{said}; {KNOBS}, or model.d_model and model.n_layers."


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.1f} GiB"
