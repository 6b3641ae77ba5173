"""Pretrained weights in and out, without PyTorch: settings, names, shapes, shards, GGUF, and what is wrong with them.

That the numbers are those of transformers is in test_pretrained_peers.py.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import headers
import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from models import random_tokens

import jaxllm.reference as reference
from jaxllm import GPT, GPTConfig, InputError, load_pretrained, save_pretrained
from jaxllm.compare import random_parameters
from jaxllm.pretrained.families import FAMILIES
from jaxllm.pretrained.safetensors import read_header, write_tensors
from jaxllm.pretrained.settings import family_for, read_settings, resolved

SIZES = {
    "vocab_size": 11, "max_position_embeddings": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-4, "tie_word_embeddings": True,
}  # fmt: skip
OF_SIZES = {
    "vocab_size": 11, "context_length": 16, "d_model": 8, "d_ff": 12, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
    "norm_epsilon": 1e-4, "norm": "rms_norm", "position": "rotary", "activation": "swiglu", "use_bias": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0,
    "original_max_position_embeddings": 5,
}  # fmt: skip
OF_LLAMA3 = {"rope_factor": 32.0, "rope_low_frequency": 1.5, "rope_high_frequency": 3.0, "rope_original_context": 5}
GPT2_SIZES = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 3, "n_head": 4, "layer_norm_epsilon": 1e-4}
OF_GPT2 = {"vocab_size": 11, "context_length": 16, "d_model": 8, "n_layers": 3, "n_heads": 4, "norm_epsilon": 1e-4}


def named(architecture: str, **settings: Any) -> dict[str, Any]:
    sizes = GPT2_SIZES if architecture == "GPT2LMHeadModel" else SIZES
    return {"architectures": [architecture], **sizes, **settings}


READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": (named("GPT2LMHeadModel"), OF_GPT2),
    "gpt2, exact": (
        named("GPT2LMHeadModel", activation_function="gelu", n_inner=9, tie_word_embeddings=False, resid_pdrop=0.1),
        {**OF_GPT2, "activation": "gelu", "d_ff": 9, "tie_embeddings": False},
    ),
    "by its type": ({**SIZES, "model_type": "llama"}, OF_SIZES),
    "llama of 4": (named("LlamaForCausalLM", rope_theta=5e5, rope_scaling=None), {**OF_SIZES, "rope_base": 5e5}),
    "llama of 5": (
        named("LlamaForCausalLM", rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        {**OF_SIZES, "rope_base": 5e5},
    ),
    "llama 3 of 4": (
        named("LlamaForCausalLM", rope_theta=5e5, rope_scaling=LLAMA3), {**OF_SIZES, **OF_LLAMA3, "rope_base": 5e5},
    ),
    "llama 3 of 5": (
        named("LlamaForCausalLM", rope_parameters={**LLAMA3, "rope_theta": 5e5}),
        {**OF_SIZES, **OF_LLAMA3, "rope_base": 5e5},
    ),
    "llama, what is left out": (
        {k: v for k, v in named("LlamaForCausalLM").items() if k not in ("tie_word_embeddings", "num_key_value_heads")},
        {**OF_SIZES, "tie_embeddings": False, "n_kv_heads": 4},
    ),
    "mistral": (
        named("MistralForCausalLM", sliding_window=7, head_dim=6), {**OF_SIZES, "sliding_window": 7, "d_head": 6},
    ),
    "mistral, what is left out": (named("MistralForCausalLM"), {**OF_SIZES, "sliding_window": 4096}),
    "mistral without a window": (named("MistralForCausalLM", sliding_window=None), OF_SIZES),
    "qwen 3": (
        named("Qwen3ForCausalLM", use_sliding_window=False, sliding_window=7, max_window_layers=2),
        {**OF_SIZES, "qk_norm": True, "d_head": 128},
    ),
    "qwen 3, every layer slides": (
        named("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=7, max_window_layers=0, head_dim=6),
        {**OF_SIZES, "qk_norm": True, "d_head": 6, "sliding_window": 7},
    ),
    "qwen 3, none slides": (
        named("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=7, max_window_layers=3, head_dim=6),
        {**OF_SIZES, "qk_norm": True, "d_head": 6},
    ),
    "qwen 3, types of layers": (
        named("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=7, layer_types=["sliding_attention"] * 3),
        {**OF_SIZES, "qk_norm": True, "d_head": 128, "sliding_window": 7},
    ),
    "gemma": (
        named("GemmaForCausalLM", hidden_act="gelu", hidden_activation=None, head_dim=6),
        {**OF_SIZES, "activation": "geglu", "scale_embeddings": True, "d_head": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_settings_are_read(name: str) -> None:
    content, fields = READ[name]
    _, config = read_settings(content, "config.json")
    assert resolved(config) == resolved(GPTConfig(**fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (named("LlamaForCausalLM", attention_bias=True, mlp_bias=True), "attention_bias is True, mlp_bias is True"),
        (named("LlamaForCausalLM", hidden_act="relu2"), "hidden_act is 'relu2'"),
        (named("LlamaForCausalLM", hidden_act=["silu"]), r"hidden_act is \['silu'\]"),
        (named("LlamaForCausalLM", rope_scaling={"type": "yarn", "factor": 4.0}), "rope_type is 'yarn'"),
        (named("LlamaForCausalLM", rope_parameters={"rope_type": "linear"}), "rope_type is 'linear'"),
        (named("LlamaForCausalLM", rope_scaling={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is missing"),
        (named("LlamaForCausalLM", rope_scaling=[1]), r"the rope parameters are \[1\]"),
        (named("Qwen3ForCausalLM", rope_parameters={"full_attention": {}}), "the rope parameters are"),
        (named("LlamaForCausalLM", partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
        (named("LlamaForCausalLM", quantization_config={"bits": 4}), "quantization_config is {'bits': 4}"),
        (named("MistralForCausalLM", layer_types=["full_attention"] * 3), "layer_types is"),
        (named("Qwen3ForCausalLM", use_sliding_window=True, max_window_layers=2), "only some layers have a sliding"),
        (
            named("Qwen3ForCausalLM", use_sliding_window=True, layer_types=["full_attention", "sliding_attention"]),
            "only some layers have a sliding",
        ),
        (named("GemmaForCausalLM", use_bidirectional_attention=True), "use_bidirectional_attention is True"),
        (named("GPT2LMHeadModel", scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
        (named("GPT2LMHeadModel", scale_attn_weights=False), "scale_attn_weights is False"),
        (named("GPT2LMHeadModel", activation_function="silu"), "activation_function is 'silu'"),
        ({"architectures": ["GPT2LMHeadModel"]}, "vocab_size is missing, n_positions is missing"),
        (named("LlamaForCausalLM", hidden_size="8"), "model.d_model is '8', but it must be an integer"),
        (named("LlamaForCausalLM", num_hidden_layers=10**9), "model.n_layers is 1000000000"),
        (named("LlamaForCausalLM", num_key_value_heads=3), "model.n_heads is 4, which is not divisible by"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "is of the architecture 'Qwen2ForCausalLM', but this jaxllm reads GPT2"),
        ({"architectures": "LlamaForCausalLM"}, "is of the architecture"),
        ({"model_type": "mamba"}, "is of the architecture 'mamba'"),
        ({"model_type": ["llama"]}, r"is of the architecture \['llama'\]"),
        ({}, "is of the architecture None"),
        ([1], r"config.json is \[1\], but must be a table"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_settings(content, "config.json")


ROTARY = GPTConfig(**OF_SIZES)
SAVED = {
    "GPT2LMHeadModel": GPTConfig(**OF_GPT2, activation="relu", tie_embeddings=False),
    "LlamaForCausalLM": replace(ROTARY, rope_factor=8.0, rope_original_context=4, tie_embeddings=False, d_head=6),
    "MistralForCausalLM": replace(ROTARY, sliding_window=3, activation="geglu", d_model=10, d_head=6),
    "Qwen3ForCausalLM": replace(ROTARY, qk_norm=True, sliding_window=5, rope_base=77.0),
    "GemmaForCausalLM": replace(ROTARY, scale_embeddings=True, activation="geglu", n_kv_heads=1),
}


def parameters(config: GPTConfig) -> Any:
    return jax.device_get(random_parameters(GPT(config)))


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


@pytest.mark.parametrize("architecture", SAVED)
def test_what_goes_out_comes_in(architecture: str, tmp_path: Path) -> None:
    config = SAVED[architecture]
    params = parameters(config)
    if config.scale_embeddings:  # whose scales are stored less one, so that the last bit may go
        params = jax.tree.map(lambda x: np.float32(np.round(x * 64) / 64), params)
    save_pretrained(tmp_path, config, params)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    back, again = load_pretrained(tmp_path)
    assert resolved(back) == resolved(config)
    assert_same(again, params)
    assert all(x.flags.owndata and x.flags.writeable for x in jax.tree.leaves(again))


def test_every_family_is_tried() -> None:
    assert set(SAVED) == {family.architecture for family in FAMILIES}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_narrow_parameters_are_widened(dtype: Any, tmp_path: Path) -> None:
    params = jax.tree.map(lambda x: x.astype(dtype), parameters(ROTARY))
    save_pretrained(tmp_path, ROTARY, params)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == np.dtype(dtype).name
    wide = np.float64 if dtype is np.float64 else np.float32
    assert_same(load_pretrained(tmp_path)[1], jax.tree.map(lambda x: x.astype(wide), params))


def test_interleaved_positions_go_out_half_split(tmp_path: Path) -> None:
    """The same logits by the other order, by the NumPy reference; also of queries and keys that are normed."""
    config = replace(ROTARY, position="rotary_interleaved", qk_norm=True)
    params = parameters(config)
    save_pretrained(tmp_path, config, params)
    back, again = load_pretrained(tmp_path)
    assert back.position == "rotary"
    assert_same_logits(back, again, config, params)


def assert_same_logits(a: GPTConfig, a_params: Any, b: GPTConfig, b_params: Any) -> None:
    tokens = random_tokens(b, 2)
    got, want = (reference.gpt.forward(*model, tokens) for model in ((a, a_params), (b, b_params)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "sinusoidal"}, "GPT2LMHeadModel is nearest, but has no model.position = 'sinusoidal'"),
        ({"use_bias": False}, "has no model.use_bias = False"),
        ({"d_head": 6}, "has no model.d_head = 6"),
        ({"norm": "rms_norm", "qk_norm": True}, "has no model.norm = 'rms_norm' and model.qk_norm = True"),
        ({"position": "rotary", "use_bias": False}, "has no model.norm = 'layer_norm' and model.activation = 'gelu_tanh'"),
    ],
)  # fmt: skip
def test_what_no_family_is(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = GPTConfig(**{**OF_GPT2, **changes})
    with pytest.raises(InputError, match=message):
        save_pretrained(tmp_path / "out", config, {})
    assert not (tmp_path / "out").exists()


def test_dropout_and_documents_are_no_obstacle() -> None:
    assert family_for(GPTConfig(**OF_GPT2, dropout=0.1, separator=3)).architecture == "GPT2LMHeadModel"


def test_parameters_of_another_model_do_not_go_out(tmp_path: Path) -> None:
    params = parameters(ROTARY)
    del params["block_1"]["mlp"]["up"]
    params["norm_final"]["bias"] = np.zeros(8, np.float32)
    message = "'block_1/mlp/up/kernel' is missing, 'norm_final/bias' is not known"
    with pytest.raises(InputError, match=message):
        save_pretrained(tmp_path / "out", ROTARY, params)
    whole = jax.tree.map(lambda x: x.astype(np.int8), parameters(ROTARY))
    with pytest.raises(InputError, match="is of type int8, but weights are float32, bfloat16"):
        save_pretrained(tmp_path / "out", ROTARY, whole)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for place in ("full", "full/a"):
        with pytest.raises(InputError, match="is there and not empty"):
            save_pretrained(tmp_path / place, ROTARY, parameters(ROTARY))


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder in float32."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    return {
        name: np.frombuffer(content[one.start : one.stop], "<f4").reshape(one.shape)
        for name, one in read_header(file).tensors.items()
    }


def folder_of(path: Path, config: GPTConfig, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Path:
    """A folder of random weights, its tensors changed."""
    save_pretrained(path, config, parameters(config))
    write_tensors(path / "model.safetensors", change(tensors_of(path)), {})
    return path


def test_gpt2_as_it_was_published(tmp_path: Path) -> None:
    """Names without the model's, masks among the weights."""
    config = GPTConfig(**OF_GPT2)

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
        return bare | {f"h.{i}.attn.bias": np.ones((1, 1, 16, 16), np.float32) for i in range(3)}

    assert_same(load_pretrained(folder_of(tmp_path, config, change))[1], parameters(config))


def test_a_tied_table_may_be_there_twice_or_as_the_head(tmp_path: Path) -> None:
    table, head = "model.embed_tokens.weight", "lm_head.weight"
    twice = folder_of(tmp_path / "twice", ROTARY, lambda tensors: tensors | {head: tensors[table]})
    other = folder_of(
        tmp_path / "head", ROTARY, lambda tensors: {head if name == table else name: x for name, x in tensors.items()}
    )
    for folder in (twice, other):
        assert_same(load_pretrained(folder)[1], parameters(ROTARY))
    differ = folder_of(tmp_path / "differ", ROTARY, lambda tensors: tensors | {head: 2 * tensors[table]})
    with pytest.raises(InputError, match="has another lm_head.weight; if the head is right, set tie_word_embeddings"):
        load_pretrained(differ)


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        extra = {
            "model.layers.0.self_attn.q_proj.bias": np.zeros(8, np.float32),
            "model.norm.weight": np.zeros(7, np.float32),
        }
        return tensors | extra

    with pytest.raises(InputError) as error:
        load_pretrained(folder_of(tmp_path / "a", ROTARY, change))
    assert (
        "'model.layers.1.mlp.up_proj.weight' is missing, 'model.norm.weight' is [7], not [8], "
        "'model.layers.0.self_attn.q_proj.bias' is not known; download it again"
    ) in str(error.value)
    with pytest.raises(InputError, match=r"'model.layers.1.*' is missing and 2 more; download"):
        load_pretrained(
            folder_of(
                tmp_path / "b",
                ROTARY,
                lambda t: {
                    n: x
                    for n, x in t.items()
                    if "layers.1" not in n and "norm" not in n and "embed" in n or "layers.0" in n or "layers.2" in n
                },
            )
        )


def sharded(path: Path) -> Path:
    """The folder in two files and an index."""
    save_pretrained(path, ROTARY, parameters(ROTARY))
    tensors = tensors_of(path)
    (path / "model.safetensors").unlink()
    names = [*tensors]
    shards = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for shard, held in shards.items():
        write_tensors(path / shard, {name: tensors[name] for name in held}, {})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_shards(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "a")
    assert_same(load_pretrained(folder)[1], parameters(ROTARY))
    (folder / "model-2.safetensors").rename(tmp_path / "blob")
    with pytest.raises(
        InputError, match="lacks the shard 'model-2.safetensors' that model.safetensors.index.json names"
    ):
        load_pretrained(folder)
    (folder / "model-2.safetensors").symlink_to(tmp_path / "blob")  # as the hub's cache has it
    assert_same(load_pretrained(folder)[1], parameters(ROTARY))
    index = folder / "model.safetensors.index.json"
    right = json.loads(index.read_text())
    for shard in ("../blob", f"{tmp_path}/blob", "..", "", "a/../model-2.safetensors", "a\0"):
        index.write_text(json.dumps({"weight_map": right["weight_map"] | {"lm_head.weight": shard}}))
        with pytest.raises(InputError, match="names the shard .* which is no file of that folder"):
            load_pretrained(folder)
    index.write_text(json.dumps({"weight_map": right["weight_map"] | {"lm_head.weight": "model-1.safetensors"}}))
    with pytest.raises(InputError, match="puts 1 tensors, among them 'lm_head.weight', into shards that do not hold"):
        load_pretrained(folder)
    for content in ([], {}, {"weight_map": [1]}, {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(content))
        with pytest.raises(InputError, match="has no weight_map from tensors to files"):
            load_pretrained(folder)


def test_folders_that_are_none(tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"

    def refused(path: str | Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_pretrained(path)

    refused(tmp_path / "nowhere", "nowhere does not exist; give a Hugging Face folder or a GGUF file")
    refused("a\0b", "does not exist")
    refused(tmp_path, "has no config.json; give the folder of a Hugging Face model")
    (tmp_path / "a.gguf").touch()
    refused(tmp_path, "has no config.json; give the GGUF file in it")
    config.write_text("{")
    refused(tmp_path, "config.json")
    config.write_text("{}")
    refused(tmp_path, "has neither model.safetensors nor model.safetensors.index.json; download it again")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "in pytorch_model.bin only, a pickle, which could run any code")
    write_tensors(weights, {"a": np.zeros(2, np.int8)}, {})
    refused(tmp_path, "tensor 'a' of .* is of type I8, but weights are read as F32, BF16, F16, F64")
    refused(weights, "holds weights alone; give the folder with it and its config.json")
    refused(tmp_path / "a.gguf", "is no GGUF file, or damaged")
