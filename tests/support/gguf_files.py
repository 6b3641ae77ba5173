"""The tiny models of `pretrained_files` in GGUF files, as llama.cpp's converter writes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as peer
import headers
import numpy as np
from pretrained_files import CONFIGS, Tensors, contents, random_params

from jaxllm import GPTConfig, save_pretrained
from jaxllm.config_rules import rotated_width

GEMMA3 = replace(
    CONFIGS["Gemma3ForCausalLM"], n_layers=7, layer_pattern="LLLLLG", rope_local_base=10000.0, attention_scale=None
)
MODELS = {  # of the families that llama.cpp has an architecture for
    "gpt2": CONFIGS["GPT2LMHeadModel"], "llama": CONFIGS["LlamaForCausalLM"], "qwen2": CONFIGS["Qwen2ForCausalLM"],
    "qwen3": CONFIGS["Qwen3ForCausalLM"], "gemma": CONFIGS["GemmaForCausalLM"],
    "smollm3": replace(CONFIGS["SmolLM3ForCausalLM"], n_layers=5, rotary_pattern="RRRN"),
    "olmo2": CONFIGS["Olmo2ForCausalLM"],
    "gemma2": replace(CONFIGS["Gemma2ForCausalLM"], attention_scale=None, score_softcap=2.0, logits_softcap=5.0),
    "gemma3": GEMMA3, "gptneox": CONFIGS["GPTNeoXForCausalLM"], "phi3": CONFIGS["Phi3ForCausalLM"],
}  # fmt: skip
SIZES = {
    "context_length": "context_length", "embedding_length": "d_model", "block_count": "n_layers",
    "feed_forward_length": "hidden_dim", "attention.head_count": "n_heads",
}  # fmt: skip
EPSILON = {"gpt2": "attention.layer_norm_epsilon", "gptneox": "attention.layer_norm_epsilon"}
WIDTHS = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
OWN = {
    "gemma2": {
        "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "score_softcap",
        "final_logit_softcapping": "logits_softcap",
    },
    "gemma3": {"attention.sliding_window": "sliding_window"}, "gptneox": {"use_parallel_residual": "parallel_residual"},
}  # fmt: skip


def keys_of(config: GPTConfig, architecture: str = "llama") -> dict[str, Any]:
    """The keys of the settings, after the architecture."""
    keys = SIZES | {EPSILON.get(architecture, "attention.layer_norm_rms_epsilon"): "norm_epsilon"}
    keys |= OWN.get(architecture, {})
    if architecture not in ("gpt2", "gptneox"):
        keys |= {"attention.head_count_kv": "kv_heads"} | (WIDTHS if architecture != "phi3" else {})
    rotary = {}
    if config.rotary:
        rotated = rotated_width(config.head_dim, config.rotary_fraction)
        rotary = {"rope.freq_base": config.rope_base, "rope.dimension_count": rotated}
    return {key: getattr(config, field) for key, field in keys.items()} | rotary


def converted(folder: Path, config: GPTConfig, architecture: str) -> Tensors:
    """The tensors of a saved model, as llama.cpp's converter names and stores them. The names are gguf-py's."""
    names = peer.get_tensor_name_map(
        next(arch for arch, name in peer.MODEL_ARCH_NAMES.items() if name == architecture), config.n_layers
    )
    tensors = {}
    for theirs, x in contents(folder).items():
        name = names.get_name(theirs, (".weight", ".bias"))
        assert name is not None, theirs
        tensors[name] = x
        if architecture == "gpt2" and x.ndim == 2 and name.startswith("blk"):
            tensors[name] = x.T
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            tensors[name] = x + 1
        if architecture in ("llama", "smollm3") and name.endswith(("attn_q.weight", "attn_k.weight")):
            halves = x.reshape(-1, 2, config.head_dim // 2, x.shape[-1])  # row i and row i + K/2 become neighbours
            tensors[name] = np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(x.shape)
        if architecture == "gptneox" and "attn_qkv" in name:  # q, k and v of a head, then of the next: all q first
            tensors[name] = np.moveaxis(x.reshape(config.n_heads, 3, config.head_dim, -1), 1, 0).reshape(x.shape)
    return tensors


def write_gguf(path: Path, architecture: str, keys: dict[str, Any], tensors: Tensors) -> Path:
    pairs = [headers.pair("general.architecture", headers.STRING, headers.string(architecture))]
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        if isinstance(value, list):
            content = headers.array(headers.TYPES["u4"], [np.uint32(one).tobytes() for one in value])
            pairs.append(headers.pair(name, headers.ARRAY, content))
        elif isinstance(value, str):
            pairs.append(headers.pair(name, headers.STRING, headers.string(value)))
        elif value is not None:
            kind = {bool: "bool", int: "u4", float: "f4"}[type(value)]
            pairs.append(headers.scalar(name, kind, value))
    described, data = [], b""
    for name, x in tensors.items():
        kind = {"float32": 0, "float16": 1, "int8": 24}[x.dtype.name]
        described.append(headers.tensor(name, x.shape[::-1], kind, len(data)))
        data += x.tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(headers.gguf(pairs, described, data))
    return path


def both(tmp_path: Path, config: GPTConfig, architecture: str) -> tuple[Path, dict[str, Any], Tensors]:
    """A folder, and the keys and tensors of a GGUF file of the same model."""
    folder = tmp_path / "folder"
    save_pretrained(folder, config, random_params(config))
    return folder, keys_of(config, architecture), converted(folder, config, architecture)
