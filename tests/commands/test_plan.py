"""`jaxllm plan`: costs read from compiled programs, the line through two depths, chips, and the command."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.utils.errors import InputError
from train.cli import main
from train.commands.plan_report import memory_rows
from train.config_file import build_config
from train.inputs import model_without_text
from train.parallel.layout import MeshLayout
from train.plan.chips import CHIPS, Chip, Curve, shared, topology_of
from train.plan.compiled import PlannedStep, compile_step, figures, kept_by_a_block, lower
from train.plan.costs import Cost, costs
from train.plan.hlo import parse
from train.plan.process import environment, last_words
from train.plan.rings import Ring, ring_of
from train.plan.roofline import extended, spent

pytestmark = pytest.mark.newest

SMALL = """
data.source = "not-there.txt"
model = {vocab_size = 61, context_length = 16, d_model = 16, n_layers = 1, n_heads = 2}
train = {steps = 10, batch_size = 8}
optimizer = {name = "sgd", warmup_steps = 1}
"""
# As a TPU's compiler writes it: products as convolutions, an axis of batches with a window, memory of the core, a
# reduce-scatter as a fusion, and an all-reduce in a fusion.
OF_A_TPU = """\
HloModule jit_step, is_scheduled=true

%product (a: bf16[8,4,16], b: bf16[8,32,16]) -> f32[8,4,32] {
  %a = bf16[8,4,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,32,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.1 = f32[8,4,32]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf
}

%below (arg: (s32[], f32[8,4,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  %arg = (s32[], f32[8,4,32]) parameter(0)
  %count = s32[] get-tuple-element(%arg), index=0
  ROOT %lt = pred[] compare(%count, %limit), direction=LT
}

%body (arg.1: (s32[], f32[8,4,32])) -> (s32[], f32[8,4,32]) {
  %arg.1 = (s32[], f32[8,4,32]) parameter(0)
  %value = f32[8,4,32] get-tuple-element(%arg.1), index=1
  %sum = f32[8,4,32] all-reduce(%value), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add
  %next = s32[] get-tuple-element(%arg.1), index=0
  ROOT %both = (s32[], f32[8,4,32]) tuple(%next, %sum)
}

%all-reduce-scatter.1 (input: f32[8,4,32]) -> f32[2,4,32] {
  %input = f32[8,4,32]{2,1,0} parameter(0)
  %whole = f32[8,4,32]{2,1,0} all-reduce(%input), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add
  %id = u32[] partition-id()
  %none = u32[] constant(0)
  ROOT %part = f32[2,4,32]{2,1,0} dynamic-slice(%whole, %id, %none, %none), dynamic_slice_sizes={2,4,32}
}

%reduced (own: f32[2,4,32]) -> f32[2,4,32] {
  %own = f32[2,4,32]{2,1,0} parameter(0)
  ROOT %over_data = f32[2,4,32]{2,1,0} all-reduce(%own), replica_groups=mesh['data'=2,'fsdp'=4] {'data'}, to_apply=%add
}

ENTRY %main (x: bf16[8,4,16], y: bf16[8,32,16]) -> (s32[], f32[8,4,32]) {
  %x = bf16[8,4,16]{2,1,0} parameter(0)
  %y = bf16[8,32,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %zero = s32[] constant(0)
  %fused = f32[8,4,32]{2,1,0} fusion(%x, %y), kind=kOutput, calls=%product
  %scattered = f32[2,4,32]{2,1,0} fusion(%fused), kind=kCustom, calls=%all-reduce-scatter.1
  %sums = f32[2,4,32]{2,1,0} fusion(%scattered), kind=kCustom, calls=%reduced
  %start = (s32[], f32[8,4,32]) tuple(%zero, %fused)
  ROOT %loop = (s32[], f32[8,4,32]) while(%start), condition=%below, body=%body
}
"""


def test_a_program_of_a_tpu() -> None:
    found = [*costs(parse(OF_A_TPU), 8)]
    fused, *_, summed = found
    assert (fused.times, fused.flops) == (1, 2 * 8 * 4 * 32 * 16)
    assert fused.memory == 2 * 8 * 4 * 16 + 4 * 8 * 4 * 32  # y is in the core's memory
    assert (summed.times, summed.group, summed.dtype) == (6, Ring((0, 1, 2, 3)), "f32")
    assert summed.moved == 2 * 3 / 4 * 4 * 8 * 4 * 32
    assert [(one.opcode, one.group, one.moved) for one in found[:-1] if one.moved] == [
        ("reduce-scatter", Ring((0, 1, 2, 3)), 3 / 4 * 4 * 8 * 4 * 32),
        ("all-reduce", Ring((0, 4)), 2 * 1 / 2 * 4 * 2 * 4 * 32),
    ]


def test_products_and_traffic_of_a_loop() -> None:
    """Each round of a scan multiplies a slice of its own, and writes a slice of the results in place."""

    def rounds(xs: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, x: (c, jnp.tanh(x @ w)), 0, xs)[1]

    shapes = (jax.ShapeDtypeStruct((20, 64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 48), jnp.float32))
    text = jax.jit(rounds).lower(*shapes).compile().as_text()
    assert text is not None
    found = [*costs(parse(text), 1)]
    assert sum(one.times * one.flops for one in found) == 20 * 2 * 64 * 32 * 48
    assert sum(one.times * one.elements for one in found) == 20 * (64 * 32 + 32 * 48 + 64 * 48)
    slices = 4 * 20 * (64 * 32 + 32 * 48 + 64 * 48)
    assert slices <= sum(one.times * one.memory for one in found) < 4 * slices  # and not 20 times whole arrays


@pytest.mark.parametrize(("attributes", "ids"), [
    ("replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
    ("replica_groups=[4,2]<=[8]", (0, 1)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}", tuple(range(8))),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp':(2)2}", (0, 1)),
    ("source_target_pairs={{0,1},{1,0}}", (0, 1)),
    ("replica_groups={}", tuple(range(8))),
])  # fmt: skip
def test_the_first_ring_of_a_collective(attributes: str, ids: tuple[int, ...]) -> None:
    assert ring_of(attributes, 8).ids == ids


def test_time_by_the_model() -> None:
    """The longer of products and traffic; over the network what leaves a node, by all adapters of the node."""
    chip = Chip("test", "gpu", 100.0, 50.0, 1e9, 10.0, 4.0, 2, 1.0, "")
    products, traffic = Cost("dot", 3, 1000, 10, elements=100), Cost("fusion", 2, 0, 100)
    found = spent([products, traffic], chip, "bfloat16")
    assert (found["products_s"], found["local_s"], found["links_s"]) == (30, 30 + 20, 0)
    assert spent([products], chip, "float32")["products_s"] == 60
    halved = replace(chip, reached=Curve((1, 100, 1000), (0.25, 0.75, 1.0)))
    assert spent([products], halved, "bfloat16")["products_s"] == pytest.approx(30 / 0.5)
    near, far, apart = Ring((0, 1)), Ring((0, 1, 2, 3)), Ring((0, 2))
    assert chip.links_s(8, near) == 2
    assert chip.links_s(12, far) == 12 * (1 / 2) / (3 / 4) / 2
    assert chip.links_s(8, apart) == 8
    sent = spent([Cost("all-gather", 5, 0, 0, 8, "f32", near)], chip, "bfloat16")
    assert (sent["sent_bytes"], sent["links_s"]) == ({"all-gather of f32 among 2": 40}, 10)
    assert shared(chip, 4).peak("bfloat16") == 25


@pytest.mark.usefixtures("quick_compilation")
def test_two_depths_give_the_whole_step() -> None:
    """Operations, traffic and memory of a deeper model lie on the line, whether or not blocks are computed again."""
    sets = {"d_model": 16, "n_heads": 2, "context_length": 16, "vocab_size": 61}
    config = build_config(
        {"model": sets}, ["train.batch_size=4", "train.products=xla", "train.remat=true", "optimizer.name=sgd"]
    )
    model = model_without_text(config)
    device, chip = jax.devices()[0], CHIPS["h100"]
    few, more, whole = (
        figures(compile_step(lower(config, replace(model, n_layers=n), None, device), False), chip, "float32", 1)
        for n in (1, 2, 3)
    )
    line = extended(few, more, (1, 2), 3)
    assert line["flops"] == whole["flops"] and line["memory_bytes"] == pytest.approx(whole["memory_bytes"], rel=0.02)
    assert line["memory"] == pytest.approx(whole["memory"], rel=0.1)
    assert extended({"a": 3.0, "b": {"x": 1.0}}, {"a": 2.0, "b": {"y": 2.0}}, (1, 2), 4) == {
        "a": 0.0, "b": {"x": 0.0, "y": 6.0}
    }  # fmt: skip


def test_what_a_further_block_must_keep() -> None:
    """With remat: parameters, two moments and gradients (of a microbatch, and their sum), and the rows' input."""
    sets = {"vocab_size": 61, "context_length": 16, "d_model": 8, "n_layers": 5, "n_heads": 2}
    config = build_config({"model": sets}, ["train.batch_size=8", "train.grad_accumulation=2", "optimizer.name=adamw"])
    subject = PlannedStep(config, model_without_text(config), MeshLayout(), jax.devices())
    block = sum(math.prod(shape) for path, shape in parameter_shapes(subject.model).items() if "block_0" in path)
    assert kept_by_a_block(subject) == 4 * (5 * block) + 4 * 4 * 16 * 8


def test_the_least_stands_below_all_memory() -> None:
    uses = dict.fromkeys(("parameters", "optimizer", "gradients"), 2.0**30) | {"memory": 2.0**33, "frozen": 0.0}
    assert memory_rows(uses)[0] == ["parameters", "1 GiB"]
    assert memory_rows(uses | {"frozen": 2.0**31})[:2] == [
        ["parameters that change", "1 GiB"], ["frozen parameters", "2 GiB"]
    ]  # fmt: skip
    assert memory_rows(uses)[-1] == ["all, by the compiler's plan", "8 GiB"]
    assert memory_rows(uses | {"memory_least": 2.0**32})[-1] == [
        "least, if blocks keep no more than they must",
        "4 GiB",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No text is read. As many virtual devices as [parallel] makes up, four, hold a quarter of the parameters each."""
    (tmp_path / "small.toml").write_text(SMALL)
    out = tmp_path / "plan.json"
    words = ["--kind", "a100", "--set", "parallel.fsdp=4", "--json", str(out)]
    assert main(["plan", str(tmp_path / "small.toml"), *words]) == 0
    content, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert content["layout"] == {"data": 1, "fsdp": 4, "context": 1, "tensor": 1} and content["compiled_blocks"] == [1]
    assert {"all-gather", "all-reduce"} & {name.split()[0] for name in content["sent_bytes"]}
    shapes = parameter_shapes(GPTConfig(vocab_size=61, context_length=16, d_model=16, n_layers=1, n_heads=2)).values()
    assert content["parameters"] == sum(4 * math.prod(shape) / (4 if len(shape) == 2 else 1) for shape in shapes)
    assert content["step_s"] == pytest.approx(content["local_s"] + content["links_s"])
    assert content["fits"] and 0 < content["mfu"] < 1
    assert (
        "4 virtual CPU devices; the step with 1 block, float32" in printed
        and "left out:" in printed
        and "fits into the 74.5 GiB" in printed
    )
    assert "on a100 memory, traffic and bytes over the links may be more or less than these" in printed


def test_idle_devices_are_named_where_one_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    names = "frozen parameters optimizer gradients memory memory_of_device peak_flops_per_s memory_per_s links_per_s".split()
    one = {"layout": {"data": 1, "fsdp": 1, "tensor": 1}, "compiled_blocks": [1], "source": ""}
    compiled = (
        spent([Cost("dot", 1, 1000, 10, elements=300)], CHIPS["h100"], "float32") | dict.fromkeys(names, 1.0) | one
    )
    monkeypatch.setattr("train.commands.plan.planned", lambda job: compiled)
    words = ["--devices", "4", "--kind", "h100", "--set", "train.batch_size=1"]
    assert main(["plan", str(tmp_path / "small.toml"), *words]) == 0
    assert "\n3 of 4 devices stay idle, because train.batch_size = 1" in capsys.readouterr().out


def test_libtpu_compiles_for_a_slice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    (tmp_path / "small.toml").write_text(SMALL)
    assert main(["plan", str(tmp_path / "small.toml"), "--devices", "4", "--kind", "v5e", "--set=parallel.fsdp=4"]) == 0
    assert "by libtpu for that slice" in capsys.readouterr().out


def test_a_process_that_died_is_quoted_without_its_devices() -> None:
    devices = [f"TpuDevice(id={i}, process_index=0, coords=({i},0,0), core_on_chip=0)" for i in range(12)]
    assert last_words(f"Traceback:\nAssertionError: jax_devices={devices}\n") == "AssertionError"
    assert last_words("Traceback\nMemoryError: 5 GiB.\n\n") == "MemoryError: 5 GiB" and last_words("") == ""


def test_libtpu_compiles_for_several_plans_at_once() -> None:
    found = environment({"kind": "v5p", "n_devices": 8, "topology": "2x2x2"})
    assert found["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1" and found["TPU_ACCELERATOR_TYPE"] == "v5p-16"


def test_chips_are_as_their_makers_state() -> None:
    """Of TPUs the bandwidth of all links, in both directions, and their number; of DGX B200 all GPUs."""
    for kind, both_ways, links in [("v5e", 400, 4), ("v5p", 1200, 6), ("v6e", 800, 4)]:
        assert CHIPS[kind].links_per_s == both_ways / links * 10**9
    assert (CHIPS["v4"].memory, CHIPS["v6e"].memory_per_s) == (pytest.approx(32 * 2**30, rel=1e-4), 1638 * 10**9)
    assert (8 * CHIPS["b200"].memory, 8 * CHIPS["b200"].links_per_s) == (1440 * 10**9, 14.4 * 10**12 / 2)
    assert all("cloud.google.com/" in chip.source or "NVIDIA" in chip.source for chip in CHIPS.values())


def test_shapes_of_slices() -> None:
    for chip in CHIPS.values():
        for n, shape in chip.topologies:
            assert math.prod(map(int, shape.split("x"))) == n and topology_of(chip, shape, n) == shape
    assert topology_of(CHIPS["v5p"], "", 512) == "8x8x8"
    with pytest.raises(InputError, match="has 64 chips"):
        topology_of(CHIPS["v5e"], "8x8", 32)


@pytest.mark.parametrize(("words", "message"), [
    ("--kind v5x", "--kind 'v5x' is not known; did you mean v5p or v5e?"),
    ("--kind v5e:3x3 --devices 9", "v5e has no topology '3x3'"),
    ("--kind v5e --devices 60", "the nearest are 32 and 64"),
    ("--kind h100:8 --devices 8", "only a TPU's slice has a shape"),
    ("--devices 0", "must be from 1 to 4,096"),
    ("--devices 8 --set parallel.fsdp=3", "but there are 8"),
    ("--devices 16 --set parallel.fsdp=16", "make it a multiple of 16"),
])  # fmt: skip
def test_wrong_input_is_one_sentence(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    assert main(["plan", str(tmp_path / "small.toml"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("jaxllm plan: ")
