"""The memory estimate against JAX's and XLA's figures, free memory by the kernel's figures, and the messages."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.stages import Compiled

import train.memory_estimate as memory
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, parameter_shapes
from jaxllm.parallel import parameter_specs
from train.config import OptimizerConfig, RunConfig, TrainConfig
from train.memory_estimate import (
    GIB,
    Need,
    activation_bytes,
    estimate,
    fitting,
    gathered_bytes,
    memory_line,
    needed,
    state_bytes,
    warning,
)
from train.optimizer import learning_rate_schedule, make_optimizer
from train.parallel.config import ParallelConfig
from train.parallel.layout import MeshLayout
from train.runtime.memory import KNOBS, available_bytes, describe_out_of_memory, step_bytes
from train.state import first_state
from train.step import make_model, make_train_step

pytestmark = pytest.mark.newest

SMALL = GPTConfig(vocab_size=300, context_length=64, d_model=64, n_layers=2, n_heads=2)
OPTIMIZER = OptimizerConfig()


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def shapes_of_state(model: GPTConfig) -> Any:
    make = partial(first_state, GPT(model), make_optimizer(OPTIMIZER, 200))
    return jax.eval_shape(make, jax.random.key(0))


@pytest.mark.parametrize("model", [SMALL, replace(SMALL, n_layers=3, tie_embeddings=False, n_kv_heads=1)])
@pytest.mark.parametrize(("accumulation", "gradients"), [(1, 1), (2, 2), (4, 2)])
def test_the_state_is_counted_exactly(model: GPTConfig, accumulation: int, gradients: int) -> None:
    state = shapes_of_state(model)
    want = bytes_of(state) + gradients * bytes_of(state.params)
    train = TrainConfig(batch_size=4, grad_accumulation=accumulation)
    need = estimate(model, train, OPTIMIZER)
    assert state_bytes(model, train, OPTIMIZER) == need.state == want
    assert need.checkpoint == pytest.approx(2 * bytes_of(state), abs=8)  # apart from the step number
    assert need.total == need.state + need.activations + need.checkpoint


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (SMALL, TrainConfig(batch_size=32)),
        pytest.param(
            replace(SMALL, dropout=0.1), TrainConfig(batch_size=32, grad_accumulation=2), marks=pytest.mark.newest
        ),
        pytest.param(
            replace(SMALL, context_length=1024),
            TrainConfig(batch_size=4, dtype="bfloat16", remat=True),
            marks=[
                pytest.mark.newest,
                pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA kept two to four times as much"),
            ],
        ),
    ],
    ids=["plain", "dropout", "long-bfloat16-remat"],
)
def test_the_estimate_is_near_what_xla_plans(model: GPTConfig, train: TrainConfig) -> None:
    schedule, optimizer = learning_rate_schedule(OPTIMIZER, 200), make_optimizer(OPTIMIZER, 200)
    step = cast(Any, make_train_step(make_model(model, train), optimizer, train, schedule))
    tokens = jax.ShapeDtypeStruct((train.batch_size, model.context_length), jnp.int32)
    state = shapes_of_state(model)
    planned = step_bytes(step.lower(state, tokens, tokens).compile())
    assert planned is not None
    gradients = state_bytes(model, train, OPTIMIZER) - bytes_of(state)
    assert planned - gradients == pytest.approx(activation_bytes(model, train), rel=0.35)


def test_an_optimizer_may_look_at_names_and_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factored moments for matrices, none for embeddings: the state depends on the tree of parameters."""

    def labels(params: Any) -> Any:
        return {name: "frozen" if "embedding" in name else "trained" for name in params}

    optimizer = optax.partition(
        {"frozen": optax.set_to_zero(), "trained": optax.scale_by_factored_rms(min_dim_size_to_factor=8)}, labels
    )
    monkeypatch.setattr(memory, "make_optimizer", lambda *_, **__: optimizer)
    monkeypatch.setattr(memory, "_parameters_and_moments", memory._parameters_and_moments.__wrapped__)
    model = replace(SMALL, n_layers=3)
    state = jax.eval_shape(partial(first_state, GPT(model), optimizer), jax.random.key(0))
    moments = bytes_of(state.opt_state)
    assert 0 < moments < bytes_of(state.params) // 5
    train = TrainConfig(batch_size=4)
    assert state_bytes(model, train, OPTIMIZER) == bytes_of(state) + bytes_of(state.params)
    assert estimate(model, train, OPTIMIZER).checkpoint == 2 * (bytes_of(state.params) + moments)


def test_a_steps_bytes_are_what_lies_beside_its_arguments() -> None:
    plan = SimpleNamespace(temp_size_in_bytes=100, output_size_in_bytes=30, alias_size_in_bytes=20)
    for known, want in [(plan, 110), (None, None)]:
        assert step_bytes(cast(Compiled, SimpleNamespace(memory_analysis=lambda known=known: known))) == want


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


MACHINE = {"proc/meminfo": "MemTotal:       900 kB\nMemAvailable:   500 kB\n"}
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
IN_V2 = {"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/b/memory.current": "7\n"}


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({}, None),
        (MACHINE, 512_000),
        (MACHINE | IN_V2, 512_000),
        (MACHINE | IN_V2 | {f"{V2}/a/memory.max": "9000", f"{V2}/a/memory.current": "8000"}, 1000),
        (
            MACHINE
            | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "9000", f"{V2}/memory.current": "8000"}
            | {f"{V2}/memory.stat": "anon 1\nactive_file 60\ninactive_file 700\n"},
            1700,
        ),
        (
            {"proc/self/cgroup": "5:devices:/x\n4:cpu,memory:/m n\n0::/\n", f"{V1}/m n/memory.limit_in_bytes": "800\n"}
            | {f"{V1}/m n/memory.usage_in_bytes": "500\n", f"{V1}/m n/memory.stat": "total_inactive_file 50\n"},
            350,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                f"{V1}/memory.limit_in_bytes": "5",
                f"{V1}/memory.usage_in_bytes": "8",
            },
            0,
        ),
    ],
    ids=["nothing", "machine", "no-limit", "limit-above", "file-pages", "version-1", "over-the-limit"],
)
def test_what_is_free_on_a_cpu(files: dict[str, str], want: int | None, tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, files)) == want


@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="an accelerator has memory of its own")
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="this system does not report it")
def test_this_machine_has_memory() -> None:
    """At most the machine's total memory, and enough for this test."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    free = available_bytes()
    assert free is not None and 2**20 < free <= 1024 * int(total.split()[1])


@pytest.mark.parametrize(
    ("stats", "want"), [({"bytes_limit": 100, "bytes_in_use": 30}, 70), ({"bytes_in_use": 30}, None), (None, None)]
)
def test_what_is_free_on_an_accelerator(
    stats: dict[str, int] | None, want: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert available_bytes() == want


def test_the_line() -> None:
    need = Need(GIB // 100, GIB // 8)
    line = "memory: 0.01 GiB parameters, gradients and optimizer, about 0.12 GiB activations of a step"
    assert memory_line(need, None) == line
    assert memory_line(need, 213 * GIB // 10) == f"{line}; 21.3 GiB are free"
    assert memory_line(need._replace(checkpoint=GIB), None) == f"{line}, 1.00 GiB to write a checkpoint"


def test_no_warning_where_it_fits_or_nothing_is_known() -> None:
    need = Need(4, 6)
    assert warning(need, 10, RunConfig(), SMALL) == warning(need, None, RunConfig(), SMALL) == ""
    assert warning(need, 9, RunConfig(), SMALL) != ""


def test_a_state_that_does_not_fit_asks_for_a_smaller_model() -> None:
    said = warning(Need(3 * GIB, GIB), 2 * GIB, RunConfig(), SMALL)
    assert said.startswith("the run needs about 4.00 GiB of memory, but 2.00 GiB are free; make model.d_model or")
    assert "16 bytes for each parameter" in said and "grad_accumulation" not in said
    assert warning(Need(GIB, GIB, 3 * GIB // 2), 2 * GIB, RunConfig(), SMALL).split("; ")[1] == said.split("; ")[1]


def test_on_an_accelerator_the_copies_for_a_checkpoint_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert estimate(SMALL, TrainConfig(), OPTIMIZER).checkpoint > 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert estimate(SMALL, TrainConfig(), OPTIMIZER).checkpoint == 0


def test_a_device_of_a_mesh_holds_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    train, shapes, mesh = (
        TrainConfig(batch_size=32, grad_accumulation=2),
        parameter_shapes(SMALL),
        MeshLayout(data=2, fsdp=2, tensor=2),
    )
    specs = parameter_specs(shapes, mesh._asdict())
    held = sum(4 * math.prod(shapes[path]) // 2 ** sum(axis is not None for axis in specs[path]) for path in shapes)
    on_cpu, one = estimate(SMALL, train, OPTIMIZER, mesh), estimate(SMALL, train, OPTIMIZER)
    assert on_cpu.state == 8 * state_bytes(SMALL, train, OPTIMIZER, mesh) and on_cpu.checkpoint == one.checkpoint
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    need = estimate(SMALL, train, OPTIMIZER, mesh)
    assert need.state == pytest.approx(5 * held, abs=16)  # parameters, two moments, gradients twice; counts
    kept = activation_bytes(SMALL, replace(train, batch_size=8))
    assert estimate(SMALL, train, OPTIMIZER, MeshLayout(data=4, tensor=2)).activations == kept
    positions = estimate(SMALL, train, OPTIMIZER, MeshLayout(context=4)).activations
    assert one.activations / 4 < positions < one.activations / 2
    gathered = need.activations - kept
    assert held < gathered < 2 * held  # vectors of D features are whole in both
    assert gathered_bytes(SMALL, replace(train, remat=True), OPTIMIZER, mesh) < gathered
    assert on_cpu.activations == 8 * need.activations


def test_a_setting_that_the_devices_do_not_divide_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    config = RunConfig(train=TrainConfig(batch_size=24), parallel=ParallelConfig(fsdp=4))
    divided = {n: replace(config, train=replace(config.train, grad_accumulation=n)) for n in (3, 6)}
    needs = {n: needed(one, SMALL).total for n, one in divided.items()}
    assert fitting(needs[3] - 1, config, SMALL) == "train.grad_accumulation=6"  # 4 would leave 6 rows
    assert "train.remat" in fitting(needs[6] - 1, config, SMALL)


def test_activations_that_do_not_fit_ask_for_a_setting_that_would() -> None:
    config = RunConfig(train=TrainConfig(batch_size=24, grad_accumulation=2))

    def need(**settings: Any) -> int:
        return estimate(SMALL, replace(config.train, **settings), OPTIMIZER).total

    def said(free: int) -> str:
        return warning(estimate(SMALL, config.train, OPTIMIZER), free, config, SMALL)

    assert need(grad_accumulation=4) < need(grad_accumulation=3) < need()
    assert "(train.grad_accumulation=3 would fit)" in said(need() - 1)
    assert "(train.grad_accumulation=4 would fit)" in said(need(grad_accumulation=3) - 1)
    assert "(train.grad_accumulation=24 with train.remat=true would fit)" in said(
        need(grad_accumulation=24, remat=True)
    )
    hopeless = said(need(grad_accumulation=24, remat=True) - 1)
    assert hopeless.endswith("set train.remat=true, or make model.context_length smaller.")


def test_only_what_is_off_is_named() -> None:
    one = RunConfig(train=TrainConfig(batch_size=1))
    with_remat = estimate(SMALL, replace(one.train, remat=True), OPTIMIZER).total
    assert fitting(with_remat, one, SMALL) == "train.remat=true"
    short, two = replace(SMALL, context_length=1), RunConfig(train=TrainConfig(batch_size=2, grad_accumulation=2))
    undivided = estimate(short, replace(two.train, grad_accumulation=1), OPTIMIZER).total
    assert fitting(undivided, two, short) == ""  # grad_accumulation is never lowered


def test_out_of_memory_is_distinguished_from_other_errors() -> None:
    with pytest.raises(MemoryError) as from_numpy:
        np.ones(2**46)
    with pytest.raises(jax.errors.JaxRuntimeError) as from_xla:
        jax.jit(lambda: jnp.zeros(2**44))()
    for caught, cause in [(from_numpy, "Unable to allocate 512. TiB"), (from_xla, "RESOURCE_EXHAUSTED: Out of memory")]:
        said = describe_out_of_memory(caught.value)
        assert said is not None and "\n" not in said
        assert said.startswith(f"there is not enough memory ({cause}") and "raise train.grad_accumulation" in said
    for text in ("INTERNAL: CUDA error: out of memory", "INTERNAL: Out of memory"):
        assert f"({text}); " in str(describe_out_of_memory(jax.errors.JaxRuntimeError(f"{text}\nmore")))
    assert str(describe_out_of_memory(MemoryError())).startswith("there is not enough memory; raise")
    for other in (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no"), RuntimeError("out of memory"), OSError(12, "x")):
        assert describe_out_of_memory(other) is None
    assert KNOBS in str(describe_out_of_memory(MemoryError()))
