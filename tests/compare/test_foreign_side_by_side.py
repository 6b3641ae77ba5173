"""A recorded step beside ours: all agrees where nothing is wrong, and each fault shows in its own module alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_traces import (
    GPT2_LIKE,
    LLAMA_LIKE,
    SUBJECTS,
    Arrays,
    adamw_of,
    matched_arrays,
    numpy_arrays,
    random_params,
)

from jaxllm import GPTConfig, InputError
from jaxllm.compare.foreign.side_by_side import ForeignReport, compare_foreign

pytestmark = pytest.mark.newest

GPT2_LAYOUT, LLAMA_LAYOUT = (SUBJECTS[f"{name} of transformers"][1] for name in ("GPT2LMHeadModel", "LlamaForCausalLM"))
BLOCKS = range(GPT2_LIKE.n_layers)


@pytest.fixture(scope="module")
def gpt2() -> Arrays:
    """A recording of a GPT-2 with a step of AdamW."""
    return numpy_arrays(GPT2_LIKE, GPT2_LAYOUT, adamw_of(numpy_arrays(GPT2_LIKE, GPT2_LAYOUT)))


def beside(config: GPTConfig, arrays: Arrays, folder: Path, dtype: str = "float64", ours: Any = None) -> ForeignReport:
    return compare_foreign(matched_arrays(config, arrays, folder), dtype, ours)


def failed(found: ForeignReport, stage: str) -> list[str]:
    return [row.name for row in found.report.rows if row.stage == stage and row.failed]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("title", SUBJECTS)
def test_what_agrees_is_within_tolerance(title: str, dtype: str, tmp_path: Path) -> None:
    """Every module is replayed, and every parameter has a gradient by itself and a step."""
    config, layout = SUBJECTS[title]
    arrays = numpy_arrays(config, layout)
    arrays = numpy_arrays(config, layout, adamw_of(arrays))
    arrays = {key: x.astype(dtype) if x.dtype == np.float64 else x for key, x in arrays.items()}
    found = beside(config, arrays, tmp_path, dtype)
    assert found.report.passed and not found.faults and not found.notes, str(found.report)
    rows = {stage: [row for row in found.report.rows if row.stage == stage] for stage in
            ("forward", "backward", "gradient", "replay", "replayed gradient", "optimizer step")}  # fmt: skip
    n = len(random_params(config)["block_0"]) and sum(1 for key in arrays if key.startswith("out/"))
    assert len(rows["replay"]) >= n
    assert len(rows["gradient"]) == len(rows["replayed gradient"]) == len(rows["optimizer step"]) > 10
    assert {"token_embedding", "block_1/attention", "logits", "loss"} <= {row.name for row in rows["forward"]}
    assert len(rows["backward"]) == len(rows["forward"]) - 1 - config.n_layers  # no loss and no residual_1


def names(part: str) -> list[str]:
    return [f"block_{i}/{part}" for i in BLOCKS]


@pytest.mark.parametrize(("change", "faults"), [
    ({"norm_epsilon": 1e-4}, [*names("norm_1"), *names("norm_2"), "norm_final"]),
    ({"activation": "gelu"}, names("mlp/activation")),
    ({"n_heads": 3}, names("attention/heads")),
    ({"sliding_window": 3}, names("attention/heads")),
    ({"n_heads": 3, "norm_epsilon": 1e-4},
     [*names("norm_1"), *names("attention/heads"), *names("norm_2"), "norm_final"]),
], ids=str)  # fmt: skip
def test_each_fault_shows_in_its_own_module(
    change: dict[str, Any], faults: list[str], gpt2: Arrays, tmp_path: Path
) -> None:
    """Theirs is GPT-2, ours has other settings: as many faults as modules that the settings concern."""
    found = beside(replace(GPT2_LIKE, **change), gpt2, tmp_path)
    assert sorted(fault.name for fault in found.faults) == sorted(faults)
    jumps = [row.name for row in found.report.rows if row.jump]
    assert len(jumps) == 1 and jumps == failed(found, "forward")[:1]
    assert failed(found, "forward")[-1] == "loss" and not found.report.passed


@pytest.mark.parametrize("change", [{"rope_base": 500.0}, {"position": "rotary_interleaved"}])
def test_rotary_positions_are_of_the_heads(change: dict[str, Any], tmp_path: Path) -> None:
    found = beside(replace(LLAMA_LIKE, **change), numpy_arrays(LLAMA_LIKE, LLAMA_LAYOUT), tmp_path)
    assert [fault.name for fault in found.faults] == names("attention/heads")


def test_layers_that_differ(tmp_path: Path) -> None:
    """A local layer with rotary positions of its own base, and a global one without positions."""
    theirs = replace(LLAMA_LIKE, layer_pattern="LG", rotary_pattern="RN", sliding_window=3, rope_local_base=100.0)
    arrays = numpy_arrays(theirs, LLAMA_LAYOUT)
    assert not beside(theirs, arrays, tmp_path).faults
    found = beside(replace(theirs, rope_local_base=500.0), arrays, tmp_path)
    assert [fault.name for fault in found.faults] == ["block_0/attention/heads"]
    assert "fits a rotary base of 100 to" in found.faults[0].explanation
    found = beside(replace(theirs, rotary_pattern=None), arrays, tmp_path)
    assert [fault.name for fault in found.faults] == ["block_1/attention/heads"]
    assert "without rotary positions" in found.faults[0].explanation


@pytest.mark.parametrize(("key", "fault"), [
    ("out/transformer.h.1.ln_2", ["block_1/norm_2"]),
    ("out/transformer.wte", ["token_embedding", "position_embedding"]),
    ("out/transformer.wpe", ["position_embedding/vectors"]),
    ("out/lm_head", ["logits", "loss"]),
    ("loss", ["loss"]),
])  # fmt: skip
def test_a_number_that_is_off_by_one_per_million(key: str, fault: list[str], gpt2: Arrays, tmp_path: Path) -> None:
    found = beside(GPT2_LIKE, gpt2 | {key: gpt2[key] * (1 + 1e-6)}, tmp_path)
    assert [one.name for one in found.faults] == fault
    assert all(1e-8 < one.departure < 1e-5 for one in found.faults)


def test_a_block_that_adds_something_else(gpt2: Arrays, tmp_path: Path) -> None:
    """All its parts are right, so the block itself is named."""
    found = beside(GPT2_LIKE, gpt2 | {"out/transformer.h.1": 2 * gpt2["out/transformer.h.1"]}, tmp_path)
    assert [fault.name for fault in found.faults] == ["block_1"]


def test_gradients_of_a_sum_and_not_of_a_mean(gpt2: Arrays, tmp_path: Path) -> None:
    """All gradients are scaled alike, so each module's backward is right and their scale is not."""
    scaled = {key: 12 * x for key, x in gpt2.items() if key.startswith(("grad/", "grad_out/"))}
    found = beside(GPT2_LIKE, {k: x for k, x in (gpt2 | scaled).items() if not k.startswith("after/")}, tmp_path)
    assert [fault.name for fault in found.faults] == ["gradients"]
    assert not failed(found, "forward") and not failed(found, "replayed gradient")
    assert len(failed(found, "backward")) > 10
    assert found.notes == (
        "the optimizer step is left out: no step of an optimizer was recorded: give record() an optimizer",
    )


@pytest.mark.parametrize(
    "name", ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight", "transformer.wpe.weight"]
)
def test_a_gradient_that_is_not_that_of_its_module(name: str, gpt2: Arrays, tmp_path: Path) -> None:
    found = beside(GPT2_LIKE, gpt2 | {f"grad/{name}": 1.01 * gpt2[f"grad/{name}"]}, tmp_path)
    assert [fault.name for fault in found.faults if fault.name != "optimizer step"] == ["gradients"]
    assert len(failed(found, "gradient")) == len(failed(found, "replayed gradient")) == 1
    assert not failed(found, "backward")


def test_a_wrong_forward_does_not_blame_the_gradients(gpt2: Arrays, tmp_path: Path) -> None:
    """The gradients depart because the norms do; a gradient that departs by itself is named all the same."""
    ours, key = replace(GPT2_LIKE, norm_epsilon=1e-4), "grad/transformer.h.0.mlp.c_fc.weight"
    assert "gradients" not in [fault.name for fault in beside(ours, gpt2, tmp_path).faults]
    found = beside(ours, gpt2 | {key: 2 * gpt2[key]}, tmp_path)
    assert "gradients" in [fault.name for fault in found.faults]


@pytest.mark.parametrize("key", ["after/transformer.h.0.ln_1.bias", "after/transformer.wte.weight"])
def test_a_step_that_is_off(key: str, gpt2: Arrays, tmp_path: Path) -> None:
    """A step of 1e-3 that is 1 % too long changes a parameter by 1e-5 alone."""
    before = gpt2[key.replace("after/", "param/")]
    found = beside(GPT2_LIKE, gpt2 | {key: before + 1.01 * (gpt2[key] - before)}, tmp_path)
    assert [fault.name for fault in found.faults] == ["optimizer step"]
    assert len(failed(found, "optimizer step")) == 1 and found.faults[0].departure == pytest.approx(0.01, rel=1e-3)


def with_optimizer(arrays: Arrays, **changes: Any) -> Arrays:
    about = json.loads(str(arrays["about"]))
    about["optimizer"] |= changes
    return arrays | {"about": np.array(json.dumps(about))}


def test_what_was_not_recorded_is_said(gpt2: Arrays, tmp_path: Path) -> None:
    lost = ("grad/transformer.h.0.mlp", "after/", "out/transformer.h.1.ln_2", "in/transformer.h.1.ln_2")
    found = beside(GPT2_LIKE, {key: x for key, x in gpt2.items() if not key.startswith(lost)}, tmp_path)
    still, modules, _ = found.notes
    assert still.startswith("no gradient was recorded of 'block_0/mlp/")
    assert modules == "their modules for 'block_1/norm_2', 'block_1/residual_1' were not recorded"


def test_a_table_whose_first_name_is_the_heads(gpt2: Arrays, tmp_path: Path) -> None:
    about = json.loads(str(gpt2["about"])) | {"tied": {"transformer.wte.weight": "lm_head.weight"}}
    about["optimizer"]["groups"][0]["parameters"] = [
        name.replace("transformer.wte.weight", "lm_head.weight")
        for name in about["optimizer"]["groups"][0]["parameters"]
    ]
    renamed = {key.replace("/transformer.wte.weight", "/lm_head.weight"): x for key, x in gpt2.items()}
    found = beside(GPT2_LIKE, renamed | {"about": np.array(json.dumps(about))}, tmp_path)
    assert found.report.passed and not found.faults and not found.notes


@pytest.mark.parametrize(("changes", "note"), [
    ({"class": "Muon"}, "the reference has no Muon; it has AdamW, Adam, SGD"),
    ({"new": False}, "the optimizer had made steps before; record with a new one"),
    ({"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9, "nesterov": True, "parameters": []}]}, "has no nesterov"),
    ({"groups": [{"lr": 0.1, "maximize": True, "parameters": []}]}, "the reference has no maximize"),
    ({"groups": [{"lr": None, "parameters": []}]}, "its settings are not those that record.py writes"),
    ({"groups": [{"weight_decay": "x", "parameters": []}]}, "its settings are not those that record.py writes"),
    ({"groups": []}, "the groups of parameters have different settings"),
    ({"groups": [{"lr": 1.0, "parameters": []}, {"lr": 2.0, "parameters": []}]}, "have different settings"),
])  # fmt: skip
def test_steps_that_are_left_out(changes: dict[str, Any], note: str, gpt2: Arrays, tmp_path: Path) -> None:
    found = beside(GPT2_LIKE, with_optimizer(gpt2, **changes), tmp_path)
    assert found.report.passed and len(found.notes) == 1 and note in found.notes[0]
    assert not [row for row in found.report.rows if row.stage == "optimizer step"]


def test_the_decay_is_that_of_their_groups(gpt2: Arrays, tmp_path: Path) -> None:
    """A group that is said to decay, and does not, is off in its own parameters."""
    group = adamw_of(gpt2)["groups"][0]
    every = [key.removeprefix("param/") for key in gpt2 if key.startswith("param/")]
    found = beside(GPT2_LIKE, with_optimizer(gpt2, groups=[group | {"parameters": every}]), tmp_path)
    vectors = {row.name for row in found.report.rows if row.name.endswith(("/scale", "/bias"))}
    assert set(failed(found, "optimizer step")) == vectors


def test_parameters_of_a_run_beside_theirs(gpt2: Arrays, tmp_path: Path) -> None:
    ours = random_params(GPT2_LIKE)
    assert beside(GPT2_LIKE, gpt2, tmp_path, ours=ours).report.passed
    ours["block_1"]["mlp"]["up"]["kernel"] = ours["block_1"]["mlp"]["up"]["kernel"][::-1]
    found = beside(GPT2_LIKE, gpt2, tmp_path, ours=ours)
    assert failed(found, "parameters") == ["block_1/mlp/up/kernel"]
    assert not failed(found, "forward")  # which is computed with theirs


@pytest.mark.parametrize(("change", "message"), [
    ({"vocab_size": 13, "separator": 1}, "model.separator is 1, but --against compares models without it"),
    ({"context_length": 5}, "context_length"),
])  # fmt: skip
def test_configs_that_cannot_be_compared(change: dict[str, Any], message: str, gpt2: Arrays, tmp_path: Path) -> None:
    if "context_length" in change:
        gpt2 = gpt2 | {"param/transformer.wpe.weight": gpt2["param/transformer.wpe.weight"][:5]}
        gpt2 = {k: x for k, x in gpt2.items() if "wpe" not in k or k.startswith("param/")}
    with pytest.raises(InputError, match=message):
        beside(replace(GPT2_LIKE, **change), gpt2, tmp_path)


def test_targets_outside_the_vocabulary(gpt2: Arrays, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="targets of .* are -100 to .*, but the ids of the config are 0 to 12; record a"
    ):
        beside(GPT2_LIKE, gpt2 | {"targets": np.where(gpt2["targets"] > 5, -100, gpt2["targets"])}, tmp_path)
