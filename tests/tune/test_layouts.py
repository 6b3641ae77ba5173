"""Tuning on many devices: what each kind computes, where adapters and frozen maps lie, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxllm import InputError
from jaxllm.parallel import AXES, parameter_axes, parameter_spec
from train.config import RunConfig
from train.parallel.config import ParallelConfig
from train.parallel.placing import put_batch, shapes_of_batch, state_shardings
from train.state import TrainState
from train.tune.config import TuneConfig

PROGRAM = Path(__file__).parents[1] / "support" / "tuned_layouts.py"
CASES = ("instruct", "classify", "prefer", "int8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests/support/tuned_layouts.py` prints: a program, because it has eight devices."""
    words = [sys.executable, PROGRAM, tmp_path_factory.mktemp("layouts")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *cases, commanded = map(json.loads, done.stdout.splitlines())
    return {case["case"]: case for case in cases} | {"commanded": commanded}


@pytest.mark.newest
@pytest.mark.parametrize("case", CASES)
def test_each_kind_agrees_with_one_device(case: str, answers: dict[str, Any]) -> None:
    """With data, fsdp and tensor of 2; with packing, accumulation, remat and dropout of the adapters."""
    found = answers[case]
    assert found["finite"] and found["losses"] < 2e-6 and found["params"] < 2e-6


@pytest.mark.newest
@pytest.mark.parametrize("case", CASES)
def test_frozen_maps_are_cut(case: str, answers: dict[str, Any]) -> None:
    """Halves of tables by fsdp and quarters of maps; inputs are larger than either beside a model of this size."""
    assert answers[case]["share"] < 0.45


@pytest.mark.newest
def test_a_command_on_eight_devices_tunes_as_on_one(answers: dict[str, Any]) -> None:
    found = answers["commanded"]
    assert "on 8 devices: data = 2, fsdp = 2, tensor = 2" in found["many printed"]
    assert "on 8 devices" not in found["one printed"]
    assert found["many"] == pytest.approx(found["one"], rel=1e-5, abs=1e-5)
    assert found["one"]["tokens"] == 2 * 8 * 2 * 32  # steps, pairs, two rows of each


def test_parts_of_a_kernel_lie_as_it_does() -> None:
    sizes = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    for path, shape, wanted in (
        ("block_0/attention/query/kernel/a", (8, 2), PartitionSpec("fsdp", None)),
        ("block_0/attention/query/kernel/b", (2, 8), PartitionSpec(None, "tensor")),
        ("block_0/mlp/down/kernel/a", (32, 2), PartitionSpec("tensor", None)),
        ("block_0/mlp/down/kernel/b", (2, 8), PartitionSpec(None, "fsdp")),
        ("block_0/mlp/up/kernel/base", (8, 32), PartitionSpec("fsdp", "tensor")),
        ("block_0/mlp/up/kernel/base/weights", (8, 32), PartitionSpec("fsdp", "tensor")),
        ("block_0/mlp/up/kernel/base/scale", (32,), PartitionSpec("tensor")),
        ("block_0/mlp/up/kernel/key", (), PartitionSpec()),
        ("block_0/mlp/down/kernel/scale", (9,), PartitionSpec(None)),
    ):
        assert parameter_spec(path, shape, sizes) == wanted, path
    assert parameter_axes("block_0/own/kernel/a", (8, 2)) == ("vector", "vector")


def test_a_frozen_parameter_lies_as_one_that_changes() -> None:
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        {"block_0": {"mlp": {"up": {"kernel": shape}}}},
        None,
        {"block_1": {"mlp": {"up": {"kernel": shape}}}},
    )
    places = state_shardings(jax.sharding.AbstractMesh((1, 2, 1, 2), AXES), state)
    assert places.frozen["block_1"] == places.params["block_0"]
    assert places.frozen["block_1"]["mlp"]["up"]["kernel"].spec == PartitionSpec("fsdp", "tensor")


def test_a_batch_may_be_a_tree() -> None:
    """On a mesh of one device, which JAX needs no others for."""
    mesh = jax.make_mesh((1, 1, 1, 1), AXES, (jax.sharding.AxisType.Auto,) * 4)
    batch = (jnp.arange(24).reshape(4, 2, 3), {"ids": jnp.ones((4, 2)), "none": None})
    put, shapes = put_batch(mesh, *batch), shapes_of_batch(mesh, *batch)
    for x, like, of in zip(*map(jax.tree.leaves, (put, shapes, batch)), strict=True):
        assert (x == of).all() and (x.shape, x.dtype, x.sharding) == (like.shape, like.dtype, like.sharding)
    assert put[0].sharding.spec == PartitionSpec(("data", "fsdp"))
    assert [leaf.sharding for leaf in jax.tree.leaves(shapes_of_batch(None, *batch))] == [None, None]


def test_examples_are_not_cut_by_position() -> None:
    RunConfig(parallel=ParallelConfig(context=2))
    with pytest.raises(InputError, match=r'context is 2, but the rows of tune\.kind = "instruct" are not cut'):
        RunConfig(parallel=ParallelConfig(context=2), tune=TuneConfig("instruct"))
