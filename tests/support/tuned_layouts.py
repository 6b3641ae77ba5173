"""Tunes on eight virtual devices and on one, for `tests/tune/test_layouts.py`, and prints what they differ in as JSON.

    python tests/support/tuned_layouts.py FOLDER

A program, because the number of devices is fixed when JAX starts. It prints a line for each of `CASES`, then one for
`commanded`.
"""

import contextlib
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # pytest, which looks for doctests, imports this too, and keeps its own devices
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from imported_runs import imported
from models import TINY

from jaxllm import GPTConfig
from jaxllm.compare import random_parameters
from jaxllm.gpt import GPT
from train.cli import main as program
from train.config import OptimizerConfig, RunConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.parallel.layout import MeshLayout, make_mesh
from train.parallel.placing import put_batch, shapes_of_batch
from train.runs.metrics import read_metrics
from train.state import init_and_compile, state_of
from train.step import make_model, make_train_step
from train.tune.batches import Answers, Preferences
from train.tune.config import LoraConfig, TuneConfig
from train.tune.kinds import objective_of
from train.tune.partition import partition_of

ONE, MIXED = MeshLayout(), MeshLayout(data=2, fsdp=2, tensor=2)
STEPS, ROWS, LENGTH = 3, 8, 8
MODEL = replace(
    TINY, vocab_size=13, d_model=16, n_heads=4, n_layers=1, context_length=LENGTH, norm="rms_norm", position="rotary",
    activation="swiglu", use_bias=False,
)  # fmt: skip
LORA = LoraConfig(2)
CASES: dict[str, dict[str, Any]] = {
    "instruct": {"tune": TuneConfig("instruct", packing=True, train="norm"), "lora": LORA},
    "classify": {"tune": TuneConfig("classify"), "lora": replace(LORA, targets="mlp")},
    "prefer": {"tune": TuneConfig("prefer"), "lora": LORA, "train": {"grad_accumulation": 2}},
    "int8": {
        "tune": TuneConfig("instruct"), "lora": replace(LORA, base="int8", dropout=0.3),
        "train": {"remat": True, "grad_accumulation": 2},
    },
}  # fmt: skip


def config_of(tune: TuneConfig, lora: LoraConfig | None = None, train: Any = None) -> RunConfig:
    trained = TrainConfig(steps=STEPS, batch_size=ROWS, **train or {})
    return RunConfig(train=trained, optimizer=OptimizerConfig(warmup_steps=1), tune=tune, lora=lora or LoraConfig())


def batch(config: RunConfig, model: GPTConfig, step: int) -> tuple[Any, Any]:
    """Random inputs and targets of the kind, of which about half are learned."""
    rng = np.random.default_rng(step)
    pairs = (2,) if config.tune.kind == "prefer" else ()
    inputs = rng.integers(0, model.vocab_size, (ROWS, *pairs, LENGTH), np.int32)
    ids = rng.integers(0, model.n_classes or model.vocab_size, inputs.shape, np.int32)
    if config.tune.kind == "pretrain":
        return inputs, ids
    ids = np.where(rng.random(ids.shape) < 0.5, ids, np.int32(-1))
    if config.tune.kind == "prefer":
        return inputs, Preferences(ids, rng.normal(-9, 1, (ROWS, 2)).astype(np.float32))
    if not config.tune.packing:
        return inputs, Answers(ids)
    second = (np.arange(LENGTH) >= rng.integers(1, LENGTH, (ROWS, 1))).astype(np.int32)
    positions = np.where(second, np.arange(LENGTH) - (1 - second).sum(-1, keepdims=True), np.arange(LENGTH))
    return inputs, Answers(ids, second, positions.astype(np.int32))


def trained(config: RunConfig, layout: MeshLayout) -> tuple[list[float], Any, int]:
    """The losses, the parameters that change after the last step, and the bytes of a step's arguments on a device."""
    shape = replace(MODEL, n_classes=2 if config.tune.kind == "classify" else 0)
    parts, mesh = partition_of(config), make_mesh(layout)
    optimizer = make_optimizer(config.optimizer, STEPS)
    model = make_model(shape, config.train, mesh)
    began = state_of(random_parameters(GPT(shape)), optimizer, jax.random.key(0), parts)
    schedule = learning_rate_schedule(config.optimizer, STEPS)
    step = make_train_step(model, optimizer, config.train, schedule, mesh, objective_of(config), parts)

    def begin(like: Any) -> Any:
        return jax.tree.map(lambda x, of: jax.device_put(x, of.sharding), began, like)

    shapes = shapes_of_batch(mesh, *batch(config, shape, 0))
    state, compiled = init_and_compile(model, optimizer, step, config.train, begin, mesh, parts, shapes)
    losses = []
    for i in range(STEPS):
        state, metrics = compiled(state, *put_batch(mesh, *batch(config, shape, i)))
        losses.append(float(metrics["train_loss"]))
    return losses, jax.device_get(state.params), compiled.memory_analysis().argument_size_in_bytes


def difference(case: str) -> dict[str, Any]:
    """The largest differences of eight devices from one, and the share of the arguments that a device holds."""
    config = config_of(**CASES[case])
    (losses, params, size), (many_losses, many_params, many_size) = (trained(config, x) for x in (ONE, MIXED))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, many_params)
    return {
        "case": case, "losses": float(np.abs(np.subtract(losses, many_losses)).max()),
        "params": max(jax.tree.leaves(moved)), "share": many_size / size, "finite": bool(np.isfinite(losses).all()),
    }  # fmt: skip


def commanded(folder: Path) -> dict[str, Any]:
    """The records of `jaxllm tune` on eight devices and on one, of pairs, and what it printed."""
    base = imported(folder / "base", replace(MODEL, vocab_size=260, context_length=32))
    lines = [{"prompt": "a" * (1 + i % 3), "chosen": "b" * (1 + i % 4), "rejected": "c"} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ["train.steps=2", f"train.batch_size={ROWS}", "lora.rank=2", "eval.sample_tokens=1"]
    words = ["tune", str(base), str(folder / "pairs.jsonl"), "--kind", "prefer"]
    found: dict[str, Any] = {}
    for name, axes in (("many", ["parallel.fsdp=2", "parallel.tensor=2"]), ("one", [])):
        count = jax.device_count
        jax.device_count = lambda: 1 if not axes else count()  # noqa: B023
        sets = [word for setting in [*settings, *axes] for word in ("--set", setting)]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert not program([*words, "--out", str(folder / name), *sets])
        jax.device_count = count
        last = read_metrics(folder / name / "metrics.jsonl")[-1]
        found[name] = {key: last[key] for key in ("train_loss", "val_loss", "val_accuracy", "val_margin", "tokens")}
        found[f"{name} printed"] = out.getvalue()
    return found


def main() -> None:
    sys.stdin = io.StringIO()
    for case in CASES:
        print(json.dumps(difference(case)), flush=True)
    print(json.dumps(commanded(Path(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
