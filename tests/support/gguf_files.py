"""The tiny models of `pretrained_files` in GGUF files, as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import headers
import numpy as np
from pretrained_files import Tensors, contents, random_params

from jaxllm import GPTConfig, save_pretrained

NAMES = {  # of transformers: of llama.cpp
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "transformer.h": "blk", "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
SIZES = {
    "context_length": "context_length", "embedding_length": "d_model", "block_count": "n_layers",
    "feed_forward_length": "hidden_dim", "attention.head_count": "n_heads",
}  # fmt: skip
GPT2_KEYS = SIZES | {"attention.layer_norm_epsilon": "norm_epsilon"}
ROTARY_KEYS = SIZES | {
    "attention.head_count_kv": "kv_heads", "attention.key_length": "head_dim", "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim", "rope.freq_base": "rope_base",
    "attention.layer_norm_rms_epsilon": "norm_epsilon",
}  # fmt: skip


EXPERT_KEYS = {
    "expert_count": "n_experts", "expert_used_count": "n_experts_per_token", "expert_feed_forward_length": "hidden_dim",
}  # fmt: skip


def keys_of(config: GPTConfig) -> dict[str, Any]:
    keys = GPT2_KEYS if config.position == "learned" else ROTARY_KEYS
    keys = keys | EXPERT_KEYS if config.n_experts else keys
    return {key: getattr(config, field) for key, field in keys.items()}


def llama_cpp_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(f"{theirs}.", f"{ours}.")
    return name


def stack_experts(tensors: Tensors, config: GPTConfig) -> None:
    """One tensor for all experts in place of one for each."""
    for i in range(config.n_layers if config.n_experts else 0):
        for kind in ("gate", "up", "down"):
            parts = [tensors.pop(f"blk.{i}.mlp.experts.{e}.{kind}_proj.weight") for e in range(config.n_experts)]
            tensors[f"blk.{i}.ffn_{kind}_exps.weight"] = np.stack(parts)


def converted(folder: Path, config: GPTConfig, architecture: str) -> Tensors:
    """The tensors of a saved model, as llama.cpp's converter names and stores them."""
    tensors = {llama_cpp_name(name): x for name, x in contents(folder).items()}
    stack_experts(tensors, config)
    for name, x in tensors.items():
        if architecture == "gpt2" and x.ndim == 2 and name.startswith("blk"):
            tensors[name] = x.T
        if architecture == "gemma" and name.endswith("norm.weight"):
            tensors[name] = x + 1
        if architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            halves = x.reshape(-1, 2, config.head_dim // 2, x.shape[-1])  # row i and row i + K/2 become neighbours
            tensors[name] = np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(x.shape)
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
    return folder, keys_of(config), converted(folder, config, architecture)
