"""Adapters in PEFT's layout without PEFT: written and read again, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from adapters import shapes_of
from flax.traverse_util import flatten_dict
from models import random_like
from pretrained_files import CONFIGS, GPT2, LLAMA, QWEN3, TIED, assert_same, random_params, refusal

from jaxllm import GPTConfig, lora
from jaxllm.pretrained.families import FAMILIES
from jaxllm.pretrained.peft import family_of_adapter, read_adapter, write_adapter
from jaxllm.pretrained.peft_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraSettings, looked_up
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors
from jaxllm.pretrained.save import save_as

pytestmark = pytest.mark.newest
ATTENTION = "base_model.model.model.layers.0.self_attn."


def random_adapter(config: GPTConfig, targets: str | None = None, rank: int = 2, seed: int = 0) -> Any:
    adapter = lora.init_adapter(jax.random.key(0), shapes_of(config, targets, rank), rank)
    return jax.tree.map(np.asarray, random_like(adapter, seed))


def write(folder: Path, config: GPTConfig, adapter: Any, full: Any = None, rank: int = 2) -> Path:
    write_adapter(folder, config, adapter, rank, 3.0, 0.25, "base", "0" * 64, full or {})
    return folder


def change(
    folder: Path, settings: dict[str, Any], tensors: Callable[[dict[str, np.ndarray]], Any] | None = None
) -> None:
    """Change the settings and the tensors of a folder."""
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if tensors is not None:
        file = folder / ADAPTER_WEIGHTS
        held = {name: np.array(read_tensor(file, place)) for name, place in read_header(file).tensors.items()}
        tensors(held)
        write_tensors(file, held, {})


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("targets", [None, "query|down"])
def test_an_adapter_is_read_as_it_was_written(tmp_path: Path, name: str, targets: str | None) -> None:
    """Also where a module of transformers holds several maps: GPT-2's c_attn."""
    config = CONFIGS[name]
    adapter, params = random_adapter(config, targets), random_params(config)
    full = {"norm_final": params["norm_final"]}
    back = read_adapter(write(tmp_path / "peft", config, adapter, full), config)
    assert_same(back.adapter, adapter)
    assert_same(back.full, full)
    assert back[2:] == (2, 3.0, 0.25, "0" * 64)


def test_a_fused_map_is_written_block_by_block(tmp_path: Path) -> None:
    """The rank is that of all its parts, and alpha grows with it, so that the scale stays."""
    adapter = random_adapter(GPT2, "query|value")
    folder = write(tmp_path / "peft", GPT2, adapter)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    name = "transformer.h.1.attn.c_attn"
    assert settings["rank_pattern"][name] == 4 and settings["alpha_pattern"][name] == 6 and settings["fan_in_fan_out"]
    assert settings["target_modules"] == ["transformer.h.0.attn.c_attn", name]
    file = folder / ADAPTER_WEIGHTS
    header = read_header(file)
    a, b = (read_tensor(file, header.tensors[f"base_model.model.{name}.lora_{part}.weight"]) for part in "AB")
    ours = adapter["block_1"]["attention"]
    delta = b @ a
    want = {part: (ours[part]["kernel"]["a"] @ ours[part]["kernel"]["b"]).T for part in ("query", "value")}
    np.testing.assert_allclose(delta[:8], want["query"], rtol=0, atol=1e-6)
    assert not delta[8:16].any()
    np.testing.assert_allclose(delta[16:], want["value"], rtol=0, atol=1e-6)


def test_an_adapter_of_a_fused_map_is_split(tmp_path: Path) -> None:
    """One that has not been trained yet, whose B is zero, stays an adapter of all three."""
    adapter = random_adapter(GPT2, "query|key|value", 2)
    folder = write(tmp_path / "peft", GPT2, adapter)
    rng = np.random.default_rng(0)
    name = "base_model.model.transformer.h.{}.attn.c_attn.lora_{}.weight"

    def shared(held: dict[str, np.ndarray]) -> None:
        for i in (0, 1):
            held[name.format(i, "A")] = rng.normal(size=(2, 8)).astype(np.float32)
            held[name.format(i, "B")] = i * rng.normal(size=(24, 2)).astype(np.float32)

    change(folder, {"rank_pattern": {}, "alpha_pattern": {}}, shared)
    back = flatten_dict(read_adapter(folder, GPT2).adapter, sep="/")
    for i in (0, 1):
        paths = [f"block_{i}/attention/{part}/kernel" for part in ("query", "key", "value")]
        a, b = ([back[f"{path}/{part}"] for path in paths] for part in "ab")
        assert all(np.array_equal(one, a[0]) and one.shape == (8, 2) for one in a)
        assert np.concatenate(b, axis=1).shape == (2, 24) and all(one.any() == (i > 0) for one in b)


@pytest.mark.parametrize(
    ("settings", "scale", "factor"),
    [
        ({}, 1.5, 1.0),
        ({"use_rslora": True}, 1.5 * 2**0.5, 1.0),
        ({"alpha_pattern": {"self_attn.q_proj": 9}}, 1.5, 3.0),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 9, "q_proj": 1}}, 1.5, 3.0),
        ({"lora_alpha": 12, "alpha_pattern": {"proj": 9}}, 6.0, 1.0),
        ({"r": 8, "rank_pattern": {"q_proj$": 2}}, 3 / 8, 4.0),
        ({"r": 8, "rank_pattern": {"q_proj": 2}, "use_rslora": True}, 3 / 8**0.5, 2.0),
    ],
)
def test_scales_of_modules_are_multiplied_into_b(tmp_path: Path, settings: Any, scale: float, factor: float) -> None:
    adapter = random_adapter(LLAMA, "block_0/attention/query")
    folder = write(tmp_path / "peft", LLAMA, adapter)
    change(folder, settings)
    back = read_adapter(folder, LLAMA)
    assert back.rank == 2 and back.alpha / 2 == pytest.approx(scale, rel=1e-15)
    got, want = (x["block_0"]["attention"]["query"]["kernel"] for x in (back.adapter, adapter))
    np.testing.assert_array_equal(got["a"], want["a"])
    np.testing.assert_allclose(got["b"], want["b"] * factor, rtol=1e-6)
    if factor == 1:
        np.testing.assert_array_equal(got["b"], want["b"])


def test_a_rank_of_its_own_is_written(tmp_path: Path) -> None:
    adapter = random_adapter(LLAMA, "query", 3)
    folder = write(tmp_path / "peft", LLAMA, adapter, rank=2)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    name = "model.layers.1.self_attn.q_proj"
    assert settings["rank_pattern"][name] == 3 and settings["alpha_pattern"][name] == 4.5
    assert_same(read_adapter(folder, LLAMA).adapter, adapter)


def test_a_tied_table_is_written_for_both_ends(tmp_path: Path) -> None:
    full = {"token_embedding": random_params(TIED)["token_embedding"]}
    folder = write(tmp_path / "peft", TIED, random_adapter(TIED), full)
    assert json.loads((folder / ADAPTER_CONFIG).read_text())["modules_to_save"] == ["lm_head", "model.embed_tokens"]
    assert_same(read_adapter(folder, TIED).full, full)
    head, table = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"
    change(folder, {}, lambda held: held.pop(head))
    message = refusal(lambda: read_adapter(folder, TIED))
    assert "has trained only one of model.embed_tokens.weight and lm_head.weight, which the model ties" in message
    change(folder, {"ensure_weight_tying": True})
    assert_same(read_adapter(folder, TIED).full, full)
    change(folder, {}, lambda held: held.update({head: 2 * held[table]}))
    assert "has trained only one of" in refusal(lambda: read_adapter(folder, TIED))
    change(folder, {}, lambda held: held.pop(table))
    assert "has trained only one of" in refusal(lambda: read_adapter(folder, TIED))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "cannot compute: 'peft_type' is 'LOHA'; merge it into its base model with PEFT"),
        ({"use_dora": True, "bias": "all"}, "cannot compute: 'bias' is 'all', 'use_dora' is True; merge"),
        ({"init_lora_weights": "pissa_niter_4"}, "'init_lora_weights' is 'pissa_niter_4'"),
        ({"task_type": "SEQ_CLS"}, "'task_type' is 'SEQ_CLS'"),
        ({"use_of_2030": [1]}, "'use_of_2030' is [1]"),
        ({"r": 0}, "is no settings of LoRA: Expected `int` >= 1"),
        ({"r": "8"}, "is no settings of LoRA: Expected `int`, got `str`"),
        ({"alpha_pattern": "\ud800"}, "is no settings of LoRA: 'utf-8' codec can't encode"),
        ({"lora_alpha": 0}, "is no settings of LoRA: Expected `float` > 0"),
        (
            {"alpha_pattern": {"(a+)+b": 1}},
            "has a pattern '(a+)+b', but only names of modules are read; write them out.",
        ),
        ({"r": 3}, "lora_A.weight' of"),
    ],
)
def test_settings_that_are_not_computed_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    folder = write(tmp_path / "peft", LLAMA, random_adapter(LLAMA))
    change(folder, settings)
    assert message in refusal(lambda: read_adapter(folder, LLAMA))


def rename(old: str, new: str) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda held: held.update({new: held.pop(old)})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda held: held.update({f"{ATTENTION}q_proj.lora_A.weight": np.full((2, 16), np.nan, np.float32)}), "holds NaN or an infinite number in 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'; train the adapter again"),
        (lambda held: held.pop(f"{ATTENTION}q_proj.lora_B.weight"), "'model.layers.0.self_attn.q_proj.lora_B.weight' of"),
        (lambda held: held.update({f"{ATTENTION}q_proj.lora_magnitude_vector": np.ones(16, np.float32)}), "is neither a LoRA of a map nor a parameter"),
        (lambda held: held.update({"base_model.model.lm_head.lora_A.weight": np.ones((2, 16), np.float32)}), "adapts the module 'lm_head', but only maps of blocks can"),
        (lambda held: held.update({f"{ATTENTION}x.lora_A.weight": np.ones((2, 16), np.float32)}), "adapts the module 'model.layers.0.self_attn.x'"),
        (rename(f"{ATTENTION}q_proj.lora_A.weight", "q_proj"), "holds 'q_proj' of type F32, which is no part of a LoRA adapter"),
        (lambda held: held.clear(), "holds no tensors"),
        (lambda held: held.update({"base_model.model.model.norm.weight": np.ones(3, np.float32)}), "'model.norm.weight' of"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    folder = write(tmp_path / "peft", LLAMA, random_adapter(LLAMA))
    change(folder, {}, tensors)
    assert message in refusal(lambda: read_adapter(folder, LLAMA))


def test_modules_are_named_as_in_the_base(tmp_path: Path) -> None:
    """A Phi-3 that rotates all features could be a Mistral, which has no qkv_proj."""
    (phi3,) = [family for family in FAMILIES if family.architecture == "Phi3ForCausalLM"]
    save_as(phi3, tmp_path / "base", LLAMA, random_params(LLAMA))
    for base, module, named in (
        (str(tmp_path / "base"), "qkv_proj", "Phi3ForCausalLM"), ("a/name-of-the-hub", "q_proj", "LlamaForCausalLM"),
        (None, "q_proj", "LlamaForCausalLM"),
    ):  # fmt: skip
        folder, adapter = tmp_path / f"peft-{module}-{base is None}", random_adapter(LLAMA)
        write_adapter(folder, LLAMA, adapter, 2, 3.0, 0.25, base, "0" * 64, {})
        assert f"{ATTENTION}{module}.lora_A.weight" in read_header(folder / ADAPTER_WEIGHTS).tensors
        assert family_of_adapter(folder, LLAMA).architecture == named
        assert_same(read_adapter(folder, LLAMA).adapter, adapter)
    scaled = replace(LLAMA, rope_factor=4.0)  # which no Phi-3 computes
    write_adapter(tmp_path / "own", scaled, random_adapter(LLAMA), 2, 3.0, 0.25, str(tmp_path / "base"), "0" * 64, {})
    assert family_of_adapter(tmp_path / "own", scaled).architecture == "LlamaForCausalLM"
    assert f"{ATTENTION}q_proj.lora_A.weight" in read_header(tmp_path / "own" / ADAPTER_WEIGHTS).tensors


def test_folders_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "peft", LLAMA, random_adapter(LLAMA))
    assert "exists and is not an empty folder" in refusal(lambda: write(folder, LLAMA, random_adapter(LLAMA)))
    assert "is [16, 2], but it must be [24, 2]; use the adapter's own base" in refusal(
        lambda: read_adapter(folder, QWEN3)
    )
    rotated = replace(LLAMA, position="rotary_interleaved")
    assert "has neither rotary_interleaved positions nor" in refusal(lambda: read_adapter(folder, rotated))
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    assert "has adapter_model.bin, a pickle, which can run any code" in refusal(lambda: read_adapter(folder, LLAMA))
    (folder / ADAPTER_CONFIG).write_text("[1]")
    assert "is [1], but must be a table of settings" in refusal(lambda: read_adapter(folder, LLAMA))
    (folder / ADAPTER_CONFIG).unlink()
    assert "cannot read" in refusal(lambda: read_adapter(folder, LLAMA))


@pytest.mark.parametrize(
    ("config", "adapter", "full", "message"),
    [
        (LLAMA, {"block_0": {"mlp": {"up": {"kernel": {"a": np.full((16, 2), np.inf), "b": np.ones((2, 12))}}}}}, {}, "the adapter to write holds NaN or an infinite number in 'block_0/mlp/up/kernel/a'"),
        (LLAMA, {}, {}, "there is no adapter to write; export the model itself"),
        (LLAMA, None, {"classifier": {"kernel": np.ones(2)}}, "has no place for 'classifier/kernel'; merge the run"),
        (GPT2, None, {"norm_final": {"scale": np.ones(8)}}, "PEFT saves all of the module transformer.ln_f, but norm_final/bias was not trained in full"),
        (GPT2, None, {"norm_final": {"scale": np.full(8, np.nan), "bias": np.ones(8)}}, "the parameters to write holds NaN"),
        (replace(LLAMA, position="learned"), {"a": {"a": np.ones(1)}}, {}, "no architecture of transformers"),
    ],
)  # fmt: skip
def test_what_has_no_place_in_the_layout_is_refused(
    tmp_path: Path, config: Any, adapter: Any, full: Any, message: str
) -> None:
    """Nothing is written."""
    adapter = random_adapter(config) if adapter is None else adapter
    assert message in refusal(lambda: write(tmp_path / "peft", config, adapter, full))
    assert not (tmp_path / "peft").exists()


def test_names_of_a_model_without_its_head(tmp_path: Path) -> None:
    """An adapter that was trained on transformers' AutoModel."""
    adapter = random_adapter(LLAMA, "block_0/attention/query")
    folder = write(tmp_path / "peft", LLAMA, adapter)

    def bare(held: dict[str, np.ndarray]) -> None:
        for name in list(held):
            held[name.replace(".model.model.", ".model.")] = held.pop(name)

    change(folder, {}, bare)
    assert_same(read_adapter(folder, LLAMA).adapter, adapter)


def test_patterns_are_names_of_modules() -> None:
    pattern = {"^a.b": 1, "b": 2, "c.b$": 3}
    assert [looked_up(pattern, name, 0) for name in ("a.b", "x.a.b", "b", "xb", "c.b")] == [1, 2, 2, 0, 2]
    assert LoraSettings(r=4, lora_alpha=8, use_rslora=True).scale("x") == 4
