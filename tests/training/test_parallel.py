"""A run on many devices: what each layout computes, where the state lies, and which layouts are refused."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec
from models import TINY

import train.evaluate
from jaxllm import GPTConfig, InputError
from jaxllm.fast.on_mesh import gathered, mulhi, on
from jaxllm.gpt import GPT, Block, apply_with_intermediates, parameter_shapes
from jaxllm.parallel import AXES, LOGICAL_AXES, parameter_axes, parameter_specs
from train.config import RunConfig, TrainConfig
from train.config_file import load_config
from train.evaluate import evaluator
from train.inputs import model_without_text, prepare
from train.loop import batch_of, rows_of
from train.parallel.config import ParallelConfig
from train.parallel.layout import MeshLayout, describe_idle, describe_layout, layout, make_mesh
from train.parallel.placing import parts_of_rows
from train.runs.load import load_run
from train.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "eight_devices.py"
LLAMA = GPTConfig(
    vocab_size=61, n_layers=2, n_heads=8, n_kv_heads=4, d_model=32, d_ff=64, ngrams=2, qk_norm=True, activation="swiglu",
    tie_embeddings=False,
)  # fmt: skip


def newest(*values: Any) -> list[Any]:
    """Cases that run on the newer Python only."""
    return [pytest.param(value, marks=pytest.mark.newest) for value in values]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(folder: Path) -> Iterator[Ask]:
    """Calls a function of `tests/support/eight_devices.py`, a program that runs as long as the tests of this module."""
    pipe, errors = subprocess.PIPE, folder / "errors.txt"
    with (
        errors.open("w") as error,
        subprocess.Popen(
            [sys.executable, PROGRAM, folder], stdin=pipe, stdout=pipe, stderr=error, text=True
        ) as running,
    ):
        assert running.stdin and running.stdout

        def asked(*words: str) -> Any:
            print(shlex.join(words), file=running.stdin, flush=True)
            answer = running.stdout.readline()
            assert answer, errors.read_text()[-3000:]
            return json.loads(answer)

        yield asked


@pytest.mark.parametrize("place", ["mixed", *newest("data", "fsdp", "tensor", "context", "places")])
def test_each_layout_agrees_with_one_device(place: str, ask: Ask) -> None:
    worst = ask("agreement", "llama", place)
    assert worst["losses"] < 1e-10 and worst["parameters"] < 1e-10


@pytest.mark.newest
@pytest.mark.parametrize("place", ["every", "tensor"])
def test_experts_agree_with_one_device(place: str, ask: Ask) -> None:
    worst = ask("agreement", "experts", place)
    assert worst["losses"] < 1e-10 and worst["parameters"] < 1e-10


@pytest.mark.newest
def test_a_users_block_loss_and_dropout_agree_with_one_device(ask: Ask) -> None:
    worst = ask("agreement", "own", "every")
    assert worst["losses"] < 1e-10 and worst["parameters"] < 1e-10


@pytest.mark.newest
def test_float32_agrees_with_one_device(ask: Ask) -> None:
    worst = ask("agreement", "float32", "one copy")
    assert worst["losses"] < 1e-5 and worst["parameters"] < 1e-5
    assert worst["key biases"] < 1e-2  # as in `tests/compare`: their gradient is zero up to rounding


@pytest.mark.parametrize("place", ["mixed", *newest("one", "data", "fsdp", "tensor", "context", "places")])
def test_a_checkpoint_goes_on_in_each_layout(place: str, ask: Ask) -> None:
    again = ask("resumed", "llama", "fsdp", place)
    assert again["in_place"] and again["parameters"] < 1e-10
    assert again["bits"] or place != "fsdp"  # the layout that wrote it


def test_cudnn_gets_the_rows_and_heads_of_a_device(ask: Ask) -> None:
    """Of 8 rows and 4 heads each device has 2 and 2, forward and backward."""
    assert ask("given_to_cudnn") == ["2x128x2x64xbf16"] * 2


@pytest.mark.newest
def test_a_block_gathers_its_parameters_in_each_pass(ask: Ask) -> None:
    """Within `nn.remat` again in the backward, and only as large as the part that "tensor" gives a device."""
    of_block = sorted(["32,16"] * 3 + ["16,32", "32,64", "64,32"])
    passes = ["jvp(jit(core_fn))/block_0", "rematted_computation/block_0"]
    assert ask("gathers", "float32", "one copy", *passes) == [of_block, of_block]


@pytest.mark.newest
@pytest.mark.parametrize(("model", "place"), [("llama", "mixed"), ("own", "every"), ("float32", "one copy")])
def test_gradients_of_embeddings_stay_on_their_rows(model: str, place: str, ask: Ask, folder: Path) -> None:
    """As far as XLA does not warn, which it does where it gathers a tensor to cut it."""
    ask("arguments", model, place)
    assert "Involuntary full rematerialization" not in (folder / "errors.txt").read_text()


def test_interceptors_see_a_block_once_on_a_mesh() -> None:
    """A mesh of one device, which JAX needs no others for."""
    model, tokens = GPT(replace(LLAMA, n_layers=1)), jax.numpy.zeros((2, 4), int)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]

    def seen(model: GPT) -> tuple[list[Any], list[str]]:
        calls: list[Any] = []

        def intercept(call: Any, arguments: Any, named: Any, context: Any) -> Any:
            if context.method_name == "__call__":  # Flax checks a lifted module by another one, whose result it drops
                calls.append(context.module.path)
            return call(*arguments, **named)

        with nn.intercept_methods(intercept):
            _, values = jax.eval_shape(partial(apply_with_intermediates, model), params, tokens)
        return calls, sorted(values)

    with on(jax.make_mesh((1, 1, 1, 1), AXES, (AxisType.Auto,) * 4)):
        assert seen(model.clone(block=gathered(Block))) == seen(model)


@pytest.mark.newest
def test_parameters_and_optimizer_fall_with_the_number_of_parts(ask: Ask) -> None:
    bytes_of = {place: ask("arguments", "llama", place) for place in ("one", "fsdp", "mixed")}
    assert bytes_of["one"] / 8 < bytes_of["fsdp"] < 1.1 * bytes_of["one"] / 8
    assert bytes_of["mixed"] < bytes_of["one"] / 2.5  # halves by fsdp; by tensor all but tables and head


@pytest.mark.newest
def test_an_evaluation_agrees_with_one_device(ask: Ask) -> None:
    one, *others = (ask("evaluated", "llama", place) for place in ("one", "mixed", "places"))
    assert others == pytest.approx([one] * 2, rel=1e-12)


@pytest.mark.newest
@pytest.mark.parametrize("place", ["data", "context", "every"])
def test_log_probabilities_of_answers_agree_with_one_device(place: str, ask: Ask) -> None:
    assert ask("answered", place) < 1e-13


@pytest.mark.newest
def test_a_run_on_many_devices_is_sampled_and_evaluated_on_one(ask: Ask, folder: Path) -> None:
    found = ask("commanded")
    assert "on 6 devices: data = 3, fsdp = 2, tensor = 1" in found["printed"]
    assert "2 of 8 devices stay idle, because train.batch_size = 6" in found["printed"]
    assert found["not_cached"] == [""]
    run = load_run(folder / "run")
    assert run.config.parallel == ParallelConfig(fsdp=2)
    ids = prepare(run.config, run.tokenizer).validation_ids
    recorded = read_metrics(folder / "run" / "metrics.jsonl")[-1]["val_loss"]
    assert evaluator(run.model, run.config)(run.params, ids) == pytest.approx(recorded, rel=1e-5)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_every_parameter_of_a_config_has_axes(path: Path) -> None:
    check_axes(model_without_text(load_config(path)))


def test_every_kind_of_parameter_has_axes() -> None:
    check_axes(LLAMA)
    check_axes(replace(LLAMA, n_experts=2, use_bias=False))


def check_axes(config: GPTConfig) -> None:
    for path, shape in parameter_shapes(config).items():
        assert len(parameter_axes(path, shape)) == len(shape)
        assert len(shape) == 1 or tuple(path.split("/")[-2:]) in LOGICAL_AXES, path


def test_where_parameters_lie() -> None:
    places = parameter_specs(parameter_shapes(LLAMA), {"data": 2, "fsdp": 2, "tensor": 2})
    assert places["block_0/attention/query/kernel"] == PartitionSpec("fsdp", "tensor")
    assert places["block_1/mlp/down/kernel"] == PartitionSpec("tensor", "fsdp")
    assert places["block_1/mlp/up/bias"] == PartitionSpec("tensor")
    assert places["norm_final/scale"] == PartitionSpec(None)
    assert places["token_embedding/table"] == PartitionSpec(None, "fsdp")
    own = parameter_specs({"block_0/mixing": (3, 8, 4), "block_0/scale": (8,)}, {"data": 1, "fsdp": 4, "tensor": 1})
    assert own == {"block_0/mixing": PartitionSpec(None, "fsdp", None), "block_0/scale": PartitionSpec(None)}


def laid_out(n_devices: int, batch_size: int = 16, grad_accumulation: int = 1, **axes: int) -> MeshLayout:
    return layout(
        ParallelConfig(**axes),
        n_devices,
        LLAMA,
        TrainConfig(batch_size=batch_size, grad_accumulation=grad_accumulation),
    )


def test_the_axes_that_are_left_out() -> None:
    assert laid_out(8) == MeshLayout(8, 1, 1, 1)
    assert laid_out(8, fsdp=2, tensor=2) == MeshLayout(2, 2, 1, 2)
    assert laid_out(16, fsdp=2, context=4) == MeshLayout(2, 2, 4, 1)
    assert laid_out(8, batch_size=12) == MeshLayout(6, 1, 1, 1)
    assert laid_out(8, batch_size=12, grad_accumulation=4) == MeshLayout(3, 1, 1, 1)
    assert laid_out(1) == MeshLayout() and make_mesh(MeshLayout()) is None
    assert describe_layout(MeshLayout()) == describe_idle(MeshLayout(), 1, TrainConfig()) == []
    assert describe_layout(MeshLayout(2, 1, 4)) == ["on 8 devices: data = 2, fsdp = 1, context = 4, tensor = 1"]


@dataclass(frozen=True)
class Chip:
    """What a mesh is made by, of a chip of a TPU."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0


def chips(kind: str, width: int, height: int) -> list[Any]:
    """The chips of a slice whose hosts have a square of four."""
    places = [(x, y) for y in range(height) for x in range(width)]
    return [Chip(i, x // 2 + width // 2 * (y // 2), (x, y, 0), kind) for i, (x, y) in enumerate(places)]


@pytest.mark.parametrize("n", range(2, 9))
def test_some_of_the_chips_of_a_tpu_make_a_mesh(n: int) -> None:
    mesh = make_mesh(MeshLayout(n), chips("TPU v5 lite", 4, 2))
    assert mesh and mesh.shape == {"data": n, "fsdp": 1, "context": 1, "tensor": 1} and len(set(mesh.devices.flat)) == n


def test_an_axis_of_a_mesh_may_cut_one_of_the_wires() -> None:
    mesh = make_mesh(MeshLayout(2, 8), chips("TPU v6 lite", 4, 4))
    assert mesh and mesh.devices.shape == (2, 8, 1, 1)


def test_a_process_reads_the_rows_of_its_devices() -> None:
    """On TPUs they need not be neighbours: the mesh goes along the wires, in and out of what a host holds."""
    ring, pairs = (make_mesh(MeshLayout(16 // n, tensor=n), chips("TPU v5 lite", 4, 4)) for n in (1, 2))
    assert parts_of_rows(ring) == ([0, 1, 6, 15], 16) and parts_of_rows(pairs) == ([0, 1], 8)
    assert parts_of_rows(None) == ([0], 1)
    config = SimpleNamespace(train=TrainConfig(batch_size=32))
    run: Any = SimpleNamespace(config=config, train_ids=np.arange(1000), model=TINY, draw=None)
    for part, whole in zip(rows_of(run, parts_of_rows(ring), 3), batch_of(run, 3), strict=True):
        np.testing.assert_array_equal(part, whole[[0, 1, 2, 3, 12, 13, 30, 31]])


def test_a_process_reads_whole_rows_whose_positions_others_have_too() -> None:
    columns = make_mesh(MeshLayout(4, context=4), chips("TPU v5 lite", 4, 4))
    assert columns and parts_of_rows(columns) == ([0, 1], 4)
    assert {device.process_index for device in columns.devices[0].flat} == {0, 1}


def test_a_short_text_is_evaluated_in_windows_that_the_devices_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def eval_step(_: Any, inputs: Any, __: Any, weights: Any) -> Any:
        shapes.append(inputs.shape)
        return weights.sum()

    monkeypatch.setattr(train.evaluate, "put_whole", lambda _, *arrays: arrays)
    monkeypatch.setattr(train.evaluate, "make_eval_step", lambda *_: eval_step)
    mesh: Any = SimpleNamespace(shape={"context": 4})
    config = RunConfig(train=TrainConfig(batch_size=2))
    assert evaluator(GPT(replace(TINY, context_length=16)), config, mesh=mesh)(None, np.arange(10)) == 1
    assert shapes == [(2, 12)]


def test_each_device_gets_its_rows_and_positions(ask: Ask) -> None:
    assert ask("rows_lie_in_order")


@pytest.mark.parametrize(("given", "error"), [
    ({"n_devices": 8, "data": 3}, "parallel.data = 3 * parallel.fsdp = 1 * parallel.tensor = 1 are 3 devices, but there are 8"),
    ({"n_devices": 8, "data": 2}, "are 2 devices, but there are 8; leave parallel.data out"),
    ({"n_devices": 8, "fsdp": 3}, "parallel.fsdp = 3 * parallel.tensor = 1 are 3 devices, but there are 8"),
    ({"n_devices": 1, "tensor": 2}, "are 2 devices, but there is 1"),
    ({"n_devices": 64, "fsdp": 64}, "model.d_model is 32, which parallel.fsdp = 64 does not divide"),
    ({"n_devices": 16, "tensor": 16}, "model.n_heads is 8, which parallel.tensor = 16 does not divide"),
    ({"n_devices": 8, "tensor": 8}, "model.n_kv_heads is 4, which parallel.tensor = 8 does not divide"),
    ({"n_devices": 8, "context": 8, "tensor": 2}, "parallel.context = 8 * parallel.tensor = 2 are 16 devices, but there are 8"),
    ({"n_devices": 12, "context": 12}, "model.context_length is 1,024, which parallel.context = 12 * parallel.tensor = 1 does"),
    ({"n_devices": 8, "fsdp": 8, "batch_size": 12}, "train.batch_size is 12, which parallel.data = 1 * parallel.fsdp = 8 does"),
    ({"n_devices": 8, "data": 8, "grad_accumulation": 4}, "train.grad_accumulation = 4 does not divide; make it a multiple of 32"),
])  # fmt: skip
def test_a_layout_that_does_not_fit_gets_its_sentence(given: dict[str, int], error: str) -> None:
    with pytest.raises(InputError) as raised:
        laid_out(**given)
    assert error in str(raised.value)


def test_a_section_with_no_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"parallel\.fsdp is 0, but it must be"):
        ParallelConfig(fsdp=0)


def test_the_upper_half_of_a_product(rng: Any) -> None:
    a, b = rng.integers(0, 2**32, (2, 1000), dtype="uint32")
    a[:2], b[:2] = 2**32 - 1, (2**32 - 1, 1)
    assert (jax.device_get(mulhi(jax.numpy.asarray(a), jax.numpy.asarray(b))) == (a.astype("uint64") * b >> 32)).all()
