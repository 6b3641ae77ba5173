"""Trains on layouts of eight virtual devices, for `tests/training/test_parallel.py`, and prints what came of it.

    echo agreement llama mixed | python tests/support/eight_devices.py FOLDER

A program, because the number of devices is fixed when JAX starts. Each line that it reads is a function of `ANSWERS` with
its arguments, and each line that it prints is what the function returns, as JSON. A run that several need is trained once.
"""

import contextlib
import copy
import dataclasses
import io
import json
import os
import re
import shlex
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

if __name__ == "__main__":  # pytest, which looks for doctests, imports this too, and keeps its own devices
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
import optax
from flax import linen as nn
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.config import GPTConfig
from jaxllm.fast import attention
from jaxllm.fast import loss as fast_loss
from jaxllm.fast.generate import why_not_cached
from jaxllm.fast.on_mesh import on, traced_on
from jaxllm.fast.platform import compiling_for
from jaxllm.gpt import Block
from jaxllm.loss import answer_log_probs
from jaxllm.parallel import AXES, ROWS, TENSOR
from train import loop
from train.cli import main as program
from train.config import OptimizerConfig, TrainConfig
from train.evaluate import sample_text
from train.optimizer import learning_rate_schedule, make_optimizer
from train.parallel.layout import MeshLayout, make_mesh
from train.parallel.placing import put_batch
from train.runs.arrays import named
from train.runs.checkpoint import Checkpoints
from train.state import TrainState, init_and_compile
from train.step import make_eval_step, make_model, make_train_step

STEPS, SAVED = 50, 45
FOLDER = Path(sys.argv[-1])
LAYOUTS = {
    "one": MeshLayout(), "data": MeshLayout(data=8), "fsdp": MeshLayout(fsdp=8), "tensor": MeshLayout(data=2, tensor=4),
    "mixed": MeshLayout(data=2, fsdp=2, tensor=2), "one copy": MeshLayout(fsdp=4, tensor=2),
    "context": MeshLayout(context=8), "places": MeshLayout(data=2, context=2, tensor=2),
    "every": MeshLayout(fsdp=2, context=2, tensor=2),
}  # fmt: skip
BEGIN_AS_ONE = ("data", "fsdp", "tensor", "context", "places")  # what the others compute of a seed says enough of these


class GatedBlock(nn.Module):
    """A user's block: `Block` and a map of its own, whose parameter no table names."""

    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array, documents: jax.Array | None = None) -> jax.Array:
        mixing = self.param("mixing", nn.initializers.normal(0.1), (x.shape[-1], x.shape[-1]))
        return Block(self.config, name="inner")(x, documents=documents) + x @ mixing.astype(x.dtype)


def alibi(score: Any, head: Any, t: Any, s: Any) -> Any:
    return score - 2.0 ** (-head - 1.0) * (t - s)


def smoothed(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(logits, 0.9 * jax.nn.one_hot(targets, logits.shape[-1]) + 0.1 / logits.shape[-1])


SIZES = {"vocab_size": 61, "context_length": 16, "n_layers": 1, "d_model": 32}
GPT2 = GPTConfig(**SIZES, n_heads=4, ngrams=2, ngram_rows=32)
LLAMA = GPTConfig(
    **SIZES, n_heads=8, n_kv_heads=4, d_ff=64, position="rotary", norm="rms_norm", activation="swiglu", use_bias=False,
    tie_embeddings=False, separator=3, sliding_window=9, score=alibi,
)  # fmt: skip
EXPERTS = dataclasses.replace(LLAMA, score=None, n_experts=4, qk_norm=True)
OWN = GPTConfig(**SIZES, n_heads=4, dropout=0.1, block=GatedBlock)


class Training:
    """A compiled step on a layout, in the dtype of the parameters, and the state that it has come to."""

    def __init__(
        self, config: GPTConfig, layout: MeshLayout, began: TrainState | None, rule: str = "adamw", **train: Any
    ) -> None:
        self.layout, self.mesh = layout, make_mesh(layout)
        self.train = TrainConfig(steps=STEPS, batch_size=16, **train)
        optimizer = OptimizerConfig(name=rule, warmup_steps=5, learning_rate=3e-3)
        self.rule, schedule = make_optimizer(optimizer, STEPS), learning_rate_schedule(optimizer, STEPS)
        self.model = make_model(config, self.train, self.mesh).clone(dtype=None)
        step = make_train_step(self.model, self.rule, self.train, schedule, self.mesh)
        begin = began and partial(put_as, began)
        self.state, self.step = init_and_compile(self.model, self.rule, step, self.train, begin, self.mesh)
        self.began, self.losses = jax.device_get(self.state), list[float]()

    def go_on(self, steps: int) -> "Training":
        for i in range(int(self.state.step), int(self.state.step) + steps):
            ids = np.random.default_rng(i).integers(0, SIZES["vocab_size"], (16, SIZES["context_length"] + 1), np.int32)
            self.state, metrics = self.step(self.state, *put_batch(self.mesh, ids[:, :-1], ids[:, 1:]))
            self.losses.append(float(metrics["train_loss"]))
        return self

    def restarted(self, state: TrainState | None = None) -> "Training":
        """The same compiled step, with another state; by default the first one."""
        again = copy.copy(self)
        again.state, again.losses = self.first() if state is None else state, []
        return again

    def first(self) -> TrainState:
        """The state before the first step, in place."""
        return put_as(self.began, self.state)

    def shapes(self) -> TrainState:
        """What a checkpoint is read into: the shapes of the state and where they lie."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state)

    def evaluated(self) -> float:
        ids = np.arange(16 * 16, dtype=np.int32).reshape(16, 16) % 7
        batch = put_batch(self.mesh, ids, ids, np.linspace(0, 1, ids.size, dtype=np.float32).reshape(ids.shape))
        return float(make_eval_step(self.model, self.mesh)(self.state.params, *batch))


def put_as(state: TrainState, like: TrainState) -> TrainState:
    """The numbers of a state where another's lie."""
    return cast(TrainState, jax.device_put(state, jax.tree.map(lambda x: x.sharding, like)))


def difference(a: Training, b: Training) -> dict[str, float]:
    """The largest differences of losses, of parameters, and of the biases of keys, whose gradient is rounding only."""
    worst = {"losses": float(np.abs(np.subtract(a.losses, b.losses)).max()), "parameters": 0.0, "key biases": 0.0}
    for (name, x), (_, y) in zip(*(named(jax.device_get(one.state.params)) for one in (a, b)), strict=True):
        kind = "key biases" if name.endswith("key/bias") else "parameters"
        worst[kind] = max(worst[kind], float(np.abs(x - y).max()))
    return worst


def equal_bits(a: TrainState, b: TrainState) -> bool:
    """Whether two states hold the same numbers, wherever they lie."""
    return all(map(np.array_equal, *(jax.tree.leaves(jax.device_get(state)) for state in (a, b))))


@cache
def compiled(model: str, place: str) -> Training:
    """A run on a layout, before its first step."""
    config, how = MODELS[model]
    return Training(config, LAYOUTS[place], compiled(model, "one").began if place in BEGIN_AS_ONE else None, **how)


@cache
def trained(model: str, place: str) -> Training:
    """The run after its last step."""
    return compiled(model, place).go_on(STEPS)


def agreement(model: str, place: str) -> dict[str, float]:
    """What the layout differs in from one device."""
    return difference(trained(model, "one"), trained(model, place))


@cache
def saved(model: str, place: str) -> Checkpoints:
    """A checkpoint of the run, some steps before the last."""
    early = trained(model, place).restarted().go_on(SAVED)
    with Checkpoints(FOLDER / f"{model} {place}") as checkpoints:
        checkpoints.save(early.state, {}, "")
    return checkpoints


def resumed(model: str, written_by: str, place: str) -> dict[str, Any]:
    """What comes of the checkpoint of a layout, read into another and trained to the end, against no interruption."""
    first, run = trained(model, written_by), trained(model, place)
    again = run.restarted(saved(model, written_by).restore(run.shapes()))
    lies = [leaf.sharding for leaf in jax.tree.leaves(again.state)]
    in_place = lies == [leaf.sharding for leaf in jax.tree.leaves(run.state)]
    again.go_on(STEPS - SAVED)
    again.losses = first.losses
    return difference(first, again) | {"bits": equal_bits(first.state, again.state), "in_place": in_place}


def arguments(model: str, place: str) -> int:
    """Bytes of the step's arguments on a device."""
    return compiled(model, place).step.memory_analysis().argument_size_in_bytes


def gathers(model: str, place: str, *of: str) -> list[list[str]]:
    """For each text, the shapes that the program gathers where the name of an operation has it, in order."""
    program = [line for line in compiled(model, place).step.as_text().splitlines() if " all-gather(" in line]
    return [sorted(re.findall(r"= \w+\[([\d,]*)\]", line)[0] for line in program if text in line) for text in of]


def evaluated(model: str, place: str) -> float:
    return trained(model, place).evaluated()


def answered(place: str) -> float:
    """How far log-probabilities of answers and their gradients are from those of one device; chunks of three tokens."""
    rng = np.random.default_rng(0)
    table, x, targets = rng.normal(size=(7, 4)), rng.normal(size=(8, 8, 4)), rng.integers(-1, 7, size=(8, 8))

    def of(table: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = answer_log_probs(table, x, targets)
        return (found * np.arange(8) + found**2).sum(), found

    with patch.object(fast_loss, "MOST_LOGITS", 21):
        value = jax.value_and_grad(of, (0, 1), has_aux=True)
        one, many = (jax.jit(f)(table, x) for f in (value, traced_on(make_mesh(LAYOUTS[place]), value)))
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(a).max()) for a, b in leaves)


def rows_lie_in_order() -> bool:
    """Whether each device gets its rows, where the mesh has the devices in another order than JAX."""
    mesh = Mesh(np.array(jax.devices())[[5, 2, 7, 0, 1, 6, 3, 4]].reshape(2, 1, 2, 2), AXES)
    rows = np.arange(64, dtype=np.int32).reshape(16, 4)
    return all(np.array_equal(put, rows) for put in put_batch(mesh, rows, rows))


def commanded() -> dict[str, Any]:
    """What `jaxllm train` prints for a batch of 6, with `parallel.fsdp` of 2, and why its sample is not cached."""
    sizes = ["context_length=8", "n_layers=1", "n_heads=2", "d_model=8"]
    settings = [f"model.{size}" for size in sizes] + ["train.steps=2", "train.batch_size=6", "optimizer.warmup_steps=0"]
    settings += ["eval.sample_tokens=1", "parallel.fsdp=2"]
    (FOLDER / "c.toml").write_text(f"[data]\nsource = '{FOLDER / 't.txt'}'\n")
    (FOLDER / "t.txt").write_text("to be or not to be, that is the question. " * 9)
    asked: list[str] = []
    loop.sample_text = lambda model, *rest: asked.append(why_not_cached(model)) or sample_text(model, *rest)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert not program(["train", str(FOLDER / "c.toml"), "--out", str(FOLDER / "run"), *(
            part for setting in settings for part in ("--set", setting)
        )])  # fmt: skip
    return {"printed": out.getvalue(), "not_cached": asked}


def given_to_cudnn() -> list[str]:
    """The shapes [B, T, H, K] of queries in the calls of cuDNN in a program for GPUs, where 2 x 2 x 2 devices share rows and heads.

    No GPU is needed to write the program, only to compile it.
    """
    mesh = make_mesh(MeshLayout(data=2, fsdp=2, context=1, tensor=2))
    q = jax.ShapeDtypeStruct((8, 4, 128, 64), "bfloat16", sharding=NamedSharding(mesh, PartitionSpec(ROWS, TENSOR)))
    with (
        patch.object(attention, "_has_cudnn", lambda: True),
        patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000),
        compiling_for("gpu"), on(mesh),
    ):  # fmt: skip
        step = jax.jit(jax.grad(lambda *qkv: attention.causal_dot_product_attention(*qkv).astype("float32").sum()))
        program = step.trace(q, q, q).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in program.splitlines() if "@__cudnn$fmha" in line]
    return [re.findall(r": \(tensor<(\w+)>", line)[0] for line in calls]


MODELS: dict[str, tuple[GPTConfig, dict[str, Any]]] = {
    "llama": (LLAMA, {"rule": "muon", "grad_accumulation": 2}), "experts": (EXPERTS, {}), "own": (OWN, {"loss": smoothed}),
    "float32": (GPT2, {"remat": True}),
}  # fmt: skip
ANSWERS = (agreement, resumed, arguments, gathers, evaluated, answered, rows_lie_in_order, commanded, given_to_cudnn)


def main() -> None:
    named_answers: dict[str, Any] = {answer.__name__: answer for answer in ANSWERS}
    asked, sys.stdin = sys.stdin, io.StringIO()  # `jaxllm` sets the encoding of its input before it reads
    for line in asked:
        name, *rest = shlex.split(line)
        with jax.enable_x64(name == "answered" or rest[:1] in (["llama"], ["own"], ["experts"])):
            print(json.dumps(named_answers[name](*rest)), flush=True)


if __name__ == "__main__":
    main()
