"""Choices for speed or memory change no number (remat, compiler options, allocator); and how cost scales."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from models import TINY, random_like, random_tokens

from jaxllm import GPT
from jaxllm.fast.init import init_params
from jaxllm.fast.platform import compiling_for
from jaxllm.gpt import Block, summed_loss
from train.bench import scaling as growth
from train.cli import main
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.runtime import allocator as startup
from train.state import init_and_compile, init_state
from train.step import make_model, make_train_step

CONFIG = (
    "[model]\nvocab_size = 7\ncontext_length = 4\nd_model = 4\nn_layers = 2\nn_heads = 2\n[train]\nbatch_size = 2\n"
)


@pytest.mark.newest
def test_remat_changes_memory_and_nothing_else() -> None:
    """A model of three layers: the gradients agree, and less is held between forward and backward."""
    config = replace(TINY, n_layers=3, context_length=64)
    inputs, targets = random_tokens(config, 8, seed=1), random_tokens(config, 8, seed=2)
    params = GPT(config).init(jax.random.key(0), inputs)["params"]

    def gradients(remat: bool) -> tuple[Any, int]:
        model = GPT(config, block=nn.remat(Block) if remat else Block)
        loss = jax.value_and_grad(lambda params: summed_loss(model, params, inputs, targets))
        compiled: Any = jax.jit(loss).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (kept, kept_bytes), (anew, anew_bytes) = gradients(False), gradients(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), kept, anew)
    if jax.__version_info__ >= (0, 11):  # JAX 0.10's XLA merges both computations and keeps the values
        assert anew_bytes < 0.6 * kept_bytes


@pytest.mark.newest  # JAX 0.10 copies them in either order
def test_the_moments_are_not_copied() -> None:
    """The compiled step overwrites the optimizer's state where it lies."""
    config = TrainConfig(steps=20, batch_size=4)
    model, optimizer = make_model(TINY, config), make_optimizer(OptimizerConfig(), config.steps)
    step = make_train_step(model, optimizer, config, learning_rate_schedule(OptimizerConfig(), config.steps))
    compiled = init_and_compile(model, optimizer, step, config)[1].as_text()
    assert "%state_opt_state" in compiled
    assert not [line for line in compiled.splitlines() if "copy(%state_opt_state" in line and "f32[" in line]


@pytest.mark.newest
def test_blocks_traced_once_compute_the_same() -> None:
    """Four blocks with other parameters each: the loss and its gradients agree, the traced program is shorter."""
    config = replace(TINY, n_layers=4)
    inputs, targets = random_tokens(config, 2, seed=1), random_tokens(config, 2, seed=2)
    params = random_like(GPT(config).init(jax.random.key(0), inputs)["params"])

    def gradients(trace_once: bool) -> tuple[Any, int]:
        model = GPT(config, block=nn.jit(Block) if trace_once else Block)
        lowered = jax.jit(jax.value_and_grad(lambda p: summed_loss(model, p, inputs, targets))).lower(params)
        return lowered.compile()(params), len(lowered.as_text())

    (plain, plain_length), (once, once_length) = gradients(False), gradients(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, once)
    assert once_length < 0.5 * plain_length


@pytest.mark.newest
@pytest.mark.parametrize(
    ("change", "x64"),
    [
        ({}, False),
        (
            {"tie_embeddings": False, "n_kv_heads": 1, "use_bias": False, "activation": "swiglu", "mup_base_width": 3},
            True,
        ),
        ({"tie_embeddings": False, "zero_init": True, "ngrams": 3, "ngram_rows": 5}, False),
    ],
)
def test_the_first_parameters_are_those_of_flax(change: dict[str, Any], x64: bool) -> None:
    """Bit for bit, from a program with one random generator for each shape and standard deviation."""
    model, inputs = GPT(replace(TINY, **change)), np.zeros((1, 1), np.int32)
    with jax.enable_x64(x64):
        want = jax.jit(model.init)(jax.random.key(3), inputs)["params"]
        got = init_state(model, optax.sgd(0.0), 3).params
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), got, want)
    apart = model.config.width_ratio != 1  # maps of the blocks have another deviation than tables and head
    kinds = {
        (p.shape, "output" in path or "down" in path, apart and path[0].startswith("block_"))
        for path, p in flatten_dict(want).items()
        if p.ndim == 2
    }
    lowered = jax.jit(partial(init_params, model)).lower(jax.random.key(3), inputs).as_text()
    of_one = jax.jit(lambda key: jax.random.normal(key, (2, 3))).lower(jax.random.key(3)).as_text().count("erf_inv")
    assert of_one > 0 and lowered.count("erf_inv") == of_one * len(kinds)
    program = str(jax.make_jaxpr(partial(init_params, model))(jax.random.key(3), inputs))
    assert program.count("random_fold_in") == 1  # of all keys


def test_the_allocator_is_asked_for_once_and_never_against_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    asked = startup.with_allocator({"A": "b", "GLIBC_TUNABLES": "glibc.cpu.x=1"})
    assert asked == {"A": "b", "GLIBC_TUNABLES": f"glibc.cpu.x=1:{startup.TUNABLES}"}
    assert startup.with_allocator(asked) == asked
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}
    assert startup.with_allocator(theirs) == theirs
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert startup.with_allocator({"A": "b"}) == {"A": "b"}


@pytest.mark.newest
def test_the_program_restarts_itself_and_says_what_it_would_have_said(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    code = (
        "import os, sys; from train.cli import main; c = main(); print(os.environ.get('GLIBC_TUNABLES')); sys.exit(c)"
    )
    program = [sys.executable, "-c", code, "train", "none.toml", "--out", "run"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "cannot read the config none.toml" in done.stderr
    assert done.stdout.strip() == startup.with_allocator(environment).get("GLIBC_TUNABLES", "None")


# A product of 144 MB between arrays of a few kB. A page has at most 2 MiB, so mapping it again takes 69 faults or more.
LARGE_BETWEEN = """
import resource, sys, jax, jax.numpy as jnp
from train.runtime.allocator import compute_in_this_thread
if "inline" in sys.argv:
    compute_in_this_thread()
step, x, faults = jax.jit(lambda x: (x @ x.T) @ x), jnp.ones((6000, 4)), []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[2:])[5])
"""


@pytest.mark.newest
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is of glibc")
@pytest.mark.parametrize("how", ["inline", "in a thread of JAX"])
def test_the_memory_of_a_step_stays_in_the_process(how: str) -> None:
    environment = startup.with_allocator({k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"})
    program = [sys.executable, "-c", LARGE_BETWEEN, how]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    assert (int(done.stdout) < 20) is (how == "inline")


@pytest.mark.newest
def test_growth_of_attention_and_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per size with its growth; the textbook form is left out if it needs more than the limit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(growth, "LENGTHS", (8, 16))
    monkeypatch.setattr(growth, "VOCABULARIES", (16, 4096))
    monkeypatch.setattr(growth, "TOKENS", 32)
    monkeypatch.setattr(growth, "WIDTH", 4)
    monkeypatch.setattr(growth, "MOST_BYTES", 10**6)
    assert main(["bench", "attention", "--dtype", "bfloat16", "--json", "attention.json"]) == 0
    assert main(["bench", "loss", "--json", "loss.json"]) == 0
    attention, loss = (json.loads((tmp_path / f"{n}.json").read_text())["rows"] for n in ("attention", "loss"))
    assert [row["size"] for row in attention] == [8, 16]
    assert all(row["chunked"]["ms"] > 0 and row["plain"]["memory_bytes"] > 0 for row in attention)
    assert [row.keys() for row in loss] == [{"size", "head_loss", "plain"}, {"size", "head_loss"}]
    grown = loss[1]["head_loss"]["memory_bytes"] / loss[0]["head_loss"]["memory_bytes"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 and f"(x {grown:.1f})" in printed[-1]


def test_growth_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Half and twice each size where the config allows it; one layer has no half."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(growth, "step_cost", lambda config: {**cost, "memory_bytes": config.model.d_model})
    cost = {"ms": 1.0, "compile_s": 0.5, "tokens_per_s": 7.0}
    (tmp_path / "tiny.toml").write_text(CONFIG)
    assert main(["bench", "sizes", "tiny.toml", "--set", "model.n_layers=1", "--json", "sizes.json"]) == 0
    rows = json.loads((tmp_path / "sizes.json").read_text())["rows"]
    assert [row["size"] for row in rows] == [
        "as it is", "n_layers = 2", "d_model = 2", "d_model = 8", "batch_size = 1", "batch_size = 4",
    ]  # fmt: skip
    assert [row["step"]["memory_bytes"] for row in rows] == [4, 4, 2, 8, 4, 4]
    assert "7 tokens/s, compiled in 0.5 s" in capsys.readouterr().out
    assert main(["bench", "sizes", "tiny.toml", "--set", "model.dropout=0.1"]) == 2
    assert main(["bench", "loss", "--json", "loss.toml"]) == 2


@pytest.mark.newest
def test_memory_by_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each context, without times; rematerialised blocks need less."""
    (tmp_path / "tiny.toml").write_text(CONFIG)
    monkeypatch.setattr(growth, "CONTEXTS", (64, 128))
    assert main(["bench", "contexts", str(tmp_path / "tiny.toml"), "--json", str(tmp_path / "rows.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "memory by XLA's plan" in lines[0] and "(x " in lines[2] and " ms " not in lines[1]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["size"] for row in rows] == [64, 128]
    assert all(0 < row["remat"]["memory_bytes"] < row["kept"]["memory_bytes"] for row in rows)


def test_memory_of_each_device_by_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Columns for one device, and for the devices of [parallel]; the plans themselves are those of the steps."""
    (tmp_path / "tiny.toml").write_text(CONFIG)
    words = ["bench", "contexts", str(tmp_path / "tiny.toml"), "--set", "parallel.context=4"]
    assert len(jax.devices()) == 1  # and no others once JAX has started
    assert main(words) == 2 and "parallel.context = 4 * parallel.tensor = 1 are 4 devices" in capsys.readouterr().err
    monkeypatch.setattr(growth, "CONTEXTS", (64,))
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(growth, "make_mesh", lambda chosen: chosen)
    monkeypatch.setattr(growth, "_planned_bytes", lambda _, __, mesh: (mesh.n_devices if mesh else 9) * 2**20)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == "64 kept 1.0 MiB remat 1.0 MiB".split() + (
        "kept, each of 4 4.0 MiB remat, each of 4 4.0 MiB".split()
    )


@pytest.mark.newest
def test_a_real_step_is_costed(tmp_path: Path) -> None:
    from train.config_file import load_config

    (tmp_path / "tiny.toml").write_text(CONFIG)
    cost = growth.step_cost(load_config(tmp_path / "tiny.toml", ["model.n_layers=1"]))
    assert cost["tokens_per_s"] == pytest.approx(1e3 * 8 / cost["ms"]) and cost["memory_bytes"] > 0 < cost["compile_s"]


def test_what_a_step_is_compiled_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide vectors on a CPU, in float32 Eigen's products too; a version of JAX that does not know an option gets none."""
    from train.step import _cpu_options, compiler_options

    _cpu_options.cache_clear()
    if jax.default_backend() == "cpu":
        assert compiler_options("float32") == compiler_options(None)
        assert set(compiler_options("float32")) > set(compiler_options("bfloat16")) == {"xla_cpu_prefer_vector_width"}

    def unknown(*_: Any, **__: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    _cpu_options.cache_clear()
    monkeypatch.setattr(jax, "jit", unknown)
    assert compiler_options("float32") == {}
    _cpu_options.cache_clear()
    with compiling_for("tpu"):
        assert compiler_options("float32") == {}


@pytest.mark.newest
def test_deterministic_operations_are_asked_for_before_jax_begins(tmp_path: Path) -> None:
    """In a new process, because XLA exits at a flag that it does not know."""
    program = """
import os, sys
import jax
from jax._src import xla_bridge
import train.commands.train
from train.cli import main
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
def check_jax():
    print(os.environ["XLA_FLAGS"], xla_bridge.backends_are_initialized())
    check()
check, train.commands.train.check_jax = train.commands.train.check_jax, check_jax
sys.exit(main(sys.argv[1:]))
"""
    (tmp_path / "text.txt").write_text("some words, and again some words. " * 9)
    (tmp_path / "small.toml").write_text(
        f'[data]\nsource = "{tmp_path}/text.txt"\n{CONFIG}steps = 1\ndeterministic = true\n'
    )
    settings = ["--set", "optimizer.warmup_steps=0", "--set", "model.vocab_size=20"]
    command = ["train", "small.toml", "--out", "run", *settings]
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--xla_cpu_multi_thread_eigen=true --xla_gpu_deterministic_ops=true False\n")
