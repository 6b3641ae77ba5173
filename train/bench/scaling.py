"""`jaxllm bench attention`, `loss`, `sizes` and `contexts`: how time and memory grow with length, vocabulary and model.

Memory is what the compiled program needs besides its arguments and results by XLA's plan, so it is exact and needs no
run.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxllm.attention import causal_mask, scaled_dot_product_attention
from jaxllm.config import GPTConfig
from jaxllm.embeddings import token_logits
from jaxllm.fast.attention import attention_path, causal_dot_product_attention
from jaxllm.gpt import GPT
from jaxllm.loss import head_loss, token_losses
from jaxllm.utils.files import replace_file

from ..config import RunConfig
from ..config_file import load_config
from ..inputs import model_without_text
from ..optimizer import learning_rate_schedule, make_optimizer
from ..outputs import check_output
from ..parallel.config import ParallelConfig
from ..parallel.layout import laid_out_for, layout, make_mesh
from ..parallel.placing import placed, row_sharding
from ..state import abstract_state, init_state
from ..step import compiler_options, make_model, make_train_step
from .workload import workload_for

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
VOCABULARIES = (256, 1024, 4096, 16384, 50304, 131072)
HEADS, HEAD_DIM = 12, 64  # GPT-2's
TOKENS, WIDTH = 1024, 768
MOST_BYTES = 4 * 2**30  # of the textbook's form; above, only ours is timed
TURNS = 5

Measured = dict[str, Any]  # the size, and the cost of each way


@dataclass
class Timed:
    """A compiled function, its arguments and the seconds it took so far; `memory_bytes` besides the arguments."""

    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    memory_bytes: int
    seconds: list[float]

    def take_turn(self) -> None:
        """Call it once."""
        start = time.perf_counter()
        jax.block_until_ready(self.run(*self.arguments))
        self.seconds.append(time.perf_counter() - start)

    @property
    def ms(self) -> float:
        """The median time."""
        return 1e3 * float(np.median(self.seconds[1:]))  # the first turn warms up


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...], dtype: str) -> Timed:
    """Value and gradients with respect to all floating-point arguments, compiled as the training step is."""
    varied = tuple(i for i, x in enumerate(arguments) if jnp.issubdtype(x.dtype, jnp.floating))
    step = jax.jit(jax.value_and_grad(function, varied), compiler_options=compiler_options(dtype))
    program: Any = step.lower(*arguments).compile()
    return Timed(program, arguments, program.memory_analysis().temp_size_in_bytes, [])


def by_turns(ways: dict[str, Callable[..., Any]], arguments: tuple[Any, ...], dtype: str) -> Measured:
    """Both ways by turns, A B A B; the second is left out if it needs more than MOST_BYTES."""
    timed = {name: compiled(function, arguments, dtype) for name, function in ways.items()}
    timed = {name: way for i, (name, way) in enumerate(timed.items()) if i == 0 or way.memory_bytes <= MOST_BYTES}
    for _ in range(1 + TURNS):
        for way in timed.values():
            way.take_turn()
    return {name: {"ms": way.ms, "memory_bytes": way.memory_bytes} for name, way in timed.items()}


def attention_rows(dtype: str) -> Iterator[Measured]:
    """One window of each length, all heads, forward and backward."""
    for length in LENGTHS:
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (jax.random.normal(key, (1, HEADS, length, HEAD_DIM), dtype) for key in keys)
        mask = causal_mask(length)

        def plain(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array = mask) -> jax.Array:
            return scaled_dot_product_attention(q, k, v, mask).astype(jnp.float32).sum()

        def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return causal_dot_product_attention(q, k, v).astype(jnp.float32).sum()

        yield {"size": length, **by_turns({attention_path(q, v): ours, "plain": plain}, (q, k, v), dtype)}


def loss_rows(dtype: str) -> Iterator[Measured]:
    """The head and the loss of 1,024 tokens, forward and backward."""
    for size in VOCABULARIES:
        keys = jax.random.split(jax.random.key(0), 3)
        table, x = 0.02 * jax.random.normal(keys[0], (size, WIDTH)), jax.random.normal(keys[1], (TOKENS, WIDTH), dtype)
        targets = jax.random.randint(keys[2], (TOKENS,), 0, size)

        def plain(table: jax.Array, x: jax.Array, targets: jax.Array) -> jax.Array:
            return token_losses(token_logits(table, x), targets).sum()

        yield {"size": size, **by_turns({"head_loss": head_loss, "plain": plain}, (table, x, targets), dtype)}


def size_rows(config: RunConfig) -> Iterator[Measured]:
    """The training step of a config as it is, and with half and twice its depth, width and batch."""
    workload_for(config, None)
    model, train = model_without_text(config), config.train
    yield {"size": "as it is", "step": step_cost(config)}
    for name, value in (("n_layers", model.n_layers), ("d_model", model.d_model), ("batch_size", train.batch_size)):
        for factor in (0.5, 2):
            varied = int(value * factor)
            if varied < 1 or varied % (train.grad_accumulation if name == "batch_size" else 1):
                continue
            if name == "d_model" and (varied % model.n_heads or model.d_ff):
                continue
            part = "train" if name == "batch_size" else "model"
            changed = replace(config, **{part: replace(getattr(config, part), **{name: varied})})
            yield {"size": f"{name} = {varied}", "step": step_cost(changed)}


def context_rows(config: RunConfig) -> Iterator[Measured]:
    """The memory of a config's step for one window of each length, without and with rematerialised blocks.

    On one device, and on each device of the config's [parallel], which on a CPU may be virtual.
    """
    workload_for(config, None)
    one = replace(config, train=replace(config.train, batch_size=1, grad_accumulation=1), parallel=ParallelConfig())
    for length in CONTEXTS:
        model = replace(model_without_text(config), context_length=length)
        row: Measured = {"size": length}
        layouts = [
            layout(parallel, min(laid_out_for(parallel), jax.device_count()), model, one.train)
            for parallel in dict.fromkeys((one.parallel, config.parallel))
        ]
        for chosen in layouts:
            mesh, n = make_mesh(chosen), chosen.n_devices
            for name, remat in (("kept", False), ("remat", True)):
                changed = replace(one, train=replace(one.train, remat=remat))
                of_each = f", each of {n}" if n > 1 else ""
                row[f"{name}{of_each}"] = {"memory_bytes": _planned_bytes(model, changed, mesh)}
        yield row


def _planned_bytes(model: GPTConfig, config: RunConfig, mesh: Mesh | None) -> int:
    """What a step needs on a device besides its state by XLA's plan; nothing is computed."""
    gpt, steps = make_model(model, config.train, mesh), config.train.steps
    optimizer = make_optimizer(config.optimizer, steps, model.width_ratio)
    step = make_train_step(gpt, optimizer, config.train, learning_rate_schedule(config.optimizer, steps), mesh)
    shape, rows = (config.train.batch_size, model.context_length), None if mesh is None else row_sharding(mesh)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
    state = placed(mesh, abstract_state(GPT(model), config))
    compiled = cast(Any, step).lower(state, tokens, tokens).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def step_cost(config: RunConfig) -> Measured:
    """The time of a config's step on random tokens, the memory that it needs besides its state, and its compilation."""
    model, train = model_without_text(config), config.train
    optimizer = make_optimizer(config.optimizer, train.steps, model.width_ratio)
    gpt = make_model(model, train)
    state = init_state(gpt, optimizer, train.seed)
    step = make_train_step(gpt, optimizer, train, learning_rate_schedule(config.optimizer, train.steps))
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=(train.batch_size, model.context_length + 1))
    inputs, targets = (x.astype(np.int32) for x in (tokens[:, :-1], tokens[:, 1:]))
    start = time.perf_counter()
    compiled = cast(Any, step).lower(state, inputs, targets).compile()
    compile_s = time.perf_counter() - start
    seconds = []
    for _ in range(1 + TURNS):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, inputs, targets))
        seconds.append(time.perf_counter() - start)
    ms = 1e3 * float(np.median(seconds[1:]))
    return {
        "ms": ms, "memory_bytes": compiled.memory_analysis().temp_size_in_bytes, "compile_s": compile_s,
        "tokens_per_s": 1e3 * inputs.size / ms,
    }  # fmt: skip


def growth_command(what: str, config: str | None, overrides: list[str], dtype: str, json_file: str | None) -> None:
    """Prints a row as soon as it is measured; `what` is attention, loss, or sizes or contexts of a config's step."""
    check_output("--json", json_file, (".json",))
    how = f"forward and backward, median of {TURNS}"
    if what == "sizes":
        loaded = load_config(str(config), overrides)
        rows, title = size_rows(loaded), f"step of {config}, {loaded.train.dtype}"
    elif what == "contexts":
        loaded = load_config(str(config), overrides)
        with suppress(RuntimeError):  # JAX has started, with the devices that it has
            jax.config.update("jax_num_cpu_devices", laid_out_for(loaded.parallel))
        title, how = f"step of {config}, one window, {loaded.train.dtype}; by context", "memory by XLA's plan"
        rows = context_rows(loaded)
    elif what == "loss":
        rows, title = loss_rows(dtype), f"head and loss of {TOKENS:,} tokens, {WIDTH} wide, {dtype}; by vocabulary"
    else:
        title = f"causal attention, {HEADS} heads of {HEAD_DIM}, one window, {dtype}; by length"
        rows = attention_rows(dtype)
    print(f"{title}; {how}, on {jax.devices()[0].device_kind}", flush=True)
    seen = []
    for row in rows:
        seen.append(row)
        print(line(row, seen[-2] if len(seen) > 1 and isinstance(row["size"], int) else None), flush=True)
    if json_file:
        replace_file(Path(json_file), f"{json.dumps({'what': title, 'rows': seen}, indent=1)}\n".encode())


def line(row: Measured, before: Measured | None) -> str:
    """`  512  chunked    61.1 ms (x 3.2)     14.1 MiB (x 2.0)  plain ...`: with the growth since the row before."""
    parts = [f"{row['size']:>18}"]
    for name, cost in row.items():
        if name == "size":
            continue
        old = before.get(name) if before else None
        ms = _grown(cost["ms"], old and old["ms"], 1, "ms") if "ms" in cost else ""
        memory = _grown(cost["memory_bytes"], old and old["memory_bytes"], 2**20, "MiB")
        parts.append(f"{name:>9} {ms} {memory}")
        if "compile_s" in cost:
            parts.append(f"{cost['tokens_per_s']:,.0f} tokens/s, compiled in {cost['compile_s']:.1f} s")
    return "  ".join(parts)


def _grown(value: float, before: float | None, scale: float, unit: str) -> str:
    growth = f"(x {value / before:.1f})" if before else ""
    return f"{value / scale:>9,.1f} {unit} {growth:<8}"
