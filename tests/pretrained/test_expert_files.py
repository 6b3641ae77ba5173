"""The tensors of experts in files: one for each expert, as transformers writes them, or one for all, as it holds them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrained_files import CONFIGS, QWEN3, Tensors, assert_same, contents, random_params, refusal, saved

from jaxllm import load_pretrained, save_pretrained
from jaxllm.pretrained.hf_config import family_for, numeric_fields, read_hf_config, write_hf_config

MIXED = CONFIGS["Qwen3MoeForCausalLM"]
pytestmark = pytest.mark.newest


def stack(tensors: Tensors) -> None:
    """Put the experts of each block into the two tensors that transformers 5 has in memory."""
    for i in range(MIXED.n_layers):
        place = f"model.layers.{i}.mlp.experts"
        gate, up, down = (
            np.stack([tensors.pop(f"{place}.{e}.{kind}_proj.weight") for e in range(MIXED.n_experts)])
            for kind in ("gate", "up", "down")
        )
        tensors[f"{place}.gate_up_proj"], tensors[f"{place}.down_proj"] = np.concatenate([gate, up], axis=1), down


def without_prefix(tensors: Tensors) -> None:
    for name in [*tensors]:
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def test_experts_are_written_one_by_one(tmp_path: Path) -> None:
    params = random_params(MIXED)
    save_pretrained(tmp_path, MIXED, params)
    tensors = contents(tmp_path)
    up = tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    np.testing.assert_array_equal(up, params["block_1"]["mlp"]["up"]["kernels"][2].T)
    np.testing.assert_array_equal(
        tensors["model.layers.0.mlp.gate.weight"], params["block_0"]["mlp"]["router"]["kernel"].T
    )


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_both_layouts_are_read(stacked: bool, bare: bool, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        if stacked:
            stack(tensors)
        if bare:
            without_prefix(tensors)

    params = saved(tmp_path, MIXED, change)
    assert_same(load_pretrained(tmp_path)[1], params)


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    saved(tmp_path, MIXED, lambda tensors: tensors.pop("model.layers.1.mlp.experts.2.up_proj.weight"))
    assert "'model.layers.1.mlp.experts.2.up_proj.weight' is missing" in refusal(lambda: load_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers is [0]"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"num_experts_per_tok": 4}, "model.n_experts_per_token is 4, but there are only model.n_experts = 3"),
    ],
    ids=str,
)
def test_settings_of_experts_that_are_refused(change: dict[str, Any], words: str) -> None:
    content = write_hf_config(family_for(MIXED), MIXED, "float32") | change
    assert words in refusal(lambda: read_hf_config(content, "config.json"))


def test_the_number_of_experts_under_either_name() -> None:
    content = write_hf_config(family_for(MIXED), MIXED, "float32")
    content["num_local_experts"] = content.pop("num_experts")
    assert numeric_fields(read_hf_config(content, "config.json")[1]) == numeric_fields(MIXED)


def test_without_experts_it_is_the_other_qwen(tmp_path: Path) -> None:
    """transformers builds MLPs of intermediate_size where there are no experts."""
    content = write_hf_config(family_for(MIXED), MIXED, "float32") | {"num_experts": 0, "intermediate_size": 12}
    assert numeric_fields(read_hf_config(content, "config.json")[1]) == numeric_fields(QWEN3)
    assert family_for(QWEN3).architecture == "Qwen3ForCausalLM"
    words = "Qwen3MoeForCausalLM is nearest, but has no model.scale_embeddings = True"
    assert words in refusal(lambda: family_for(replace(MIXED, scale_embeddings=True)))
