"""Recordings of a step as `record.py` writes them, made with NumPy: the reference's numbers under another's names."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxllm import GPTConfig, reference
from jaxllm.compare.trees import named_leaves
from jaxllm.pretrained.families import GPT2, LLAMA, Layout
from jaxllm.pretrained.parameter_map import tensor_placements, to_tensor

SIZES: dict[str, Any] = {"vocab_size": 13, "context_length": 8, "d_model": 12, "n_layers": 2, "n_heads": 2, "d_ff": 20}
GPT2_LIKE = GPTConfig(**SIZES)
NANOGPT_LIKE = GPTConfig(**SIZES, activation="gelu", use_bias=False)
LLAMA_LIKE = GPTConfig(
    **{**SIZES, "n_heads": 4, "n_kv_heads": 2}, d_head=6, position="rotary", norm="rms_norm", activation="swiglu",
    use_bias=False, tie_embeddings=False,
)  # fmt: skip
NANOGPT = GPT2.folder._replace(out_in=True)
QWEN_LIKE = replace(LLAMA_LIKE, qk_norm=True)
SUBJECTS: dict[str, tuple[GPTConfig, Layout]] = {
    "GPT2LMHeadModel of transformers": (GPT2_LIKE, GPT2.folder),
    "nanoGPT": (NANOGPT_LIKE, NANOGPT),
    "LlamaForCausalLM of transformers": (LLAMA_LIKE, LLAMA.folder),
}
GPT2_MODULES = {
    "norm_1": "ln_1", "attention": "attn", "attention/output": "attn.c_proj", "norm_2": "ln_2", "mlp": "mlp",
    "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj",
}  # fmt: skip
LLAMA_MODULES = {
    "norm_1": "input_layernorm", "attention": "self_attn", "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj", "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.o_proj", "norm_2": "post_attention_layernorm", "mlp": "mlp",
    "mlp/gate": "mlp.gate_proj", "mlp/up": "mlp.up_proj", "mlp/down": "mlp.down_proj",
}  # fmt: skip
QWEN_MODULES = LLAMA_MODULES | {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
Arrays = dict[str, np.ndarray]


def random_params(config: GPTConfig, seed: int = 0) -> dict[str, Any]:
    """Float64 parameters, none of them 0 or 1, as nested dicts."""
    from jaxllm import GPT
    from jaxllm.compare import random_parameters
    from jaxllm.compare.trees import to_numpy

    return to_numpy(random_parameters(GPT(config), seed))


def batch(config: GPTConfig) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets [2, 6]."""
    ids = np.random.default_rng(1).integers(config.vocab_size, size=(2, 7))
    return ids[:, :-1], ids[:, 1:]


@contextmanager
def another_epsilon(norm: Any, epsilon: float) -> Iterator[None]:
    """The norm of queries or keys that has these parameters gets another epsilon than the config's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("norm", "norm_vjp"):
            right = getattr(reference.multi_head, name)

            def changed(params: Any, x: Any, kind: Any, ours: float, right: Any = right) -> Any:
                return right(params, x, kind, epsilon if params is norm else ours)

            patch.setattr(reference.multi_head, name, changed)
        yield


def numpy_arrays(
    config: GPTConfig, layout: Layout, optimizer: dict[str, Any] | None = None, params: Any = None
) -> Arrays:
    """The arrays of a recording of the reference in float64, named as the layout names them."""
    params, (tokens, targets) = params or random_params(config), batch(config)
    _, seen = reference.gpt.forward_with_intermediates(config, params, tokens)
    back: Arrays = {}
    loss, gradients = reference.step.accumulate(config, params, tokens, targets, cotangents=back)
    back = {name: dy / tokens.size for name, dy in back.items()}
    out = {"tokens": tokens, "targets": targets, "loss": np.asarray(loss)}
    out |= _parameters(config, layout, "param", params) | _parameters(config, layout, "grad", gradients)
    out |= _outside(config, layout, params, seen, back, tokens)
    for i in range(config.n_layers):
        out |= _inside(config, layout, f"block_{i}", i, params[f"block_{i}"], seen, back)
    about: dict[str, Any] = {"torch": "none", "dtype": "float64", "classes": {"": "Reference"}}
    if optimizer is not None:
        about["optimizer"] = optimizer
        out |= _after(config, layout, params, gradients, optimizer)
    return out | {"about": np.array(json.dumps(about))}


def write_trace(path: Path, arrays: Arrays) -> Path:
    """The recording as an .npz file."""
    np.savez(path, **arrays)
    return path


def _parameters(config: GPTConfig, layout: Layout, kind: str, tree: Any) -> Arrays:
    by_path = named_leaves(tree)
    placements = tensor_placements(layout, config)
    return {f"{kind}/{name}": to_tensor(layout, config, placed, by_path) for name, placed in placements.items()}


def _after(config: GPTConfig, layout: Layout, params: Any, gradients: Any, optimizer: dict[str, Any]) -> Arrays:
    """The parameters after AdamW's first step, by the reference, which decays matrices."""
    from types import SimpleNamespace

    group = optimizer["groups"][0]
    settings = SimpleNamespace(beta1=0.9, beta2=0.99, weight_decay=group["weight_decay"])
    start = reference.optimizer.start(params)
    updates, _ = reference.optimizer.adamw(settings, gradients, start, params, group["lr"], 1.0, group["eps"])
    after = reference.arrays.tree_map(np.add, params, updates)
    return _parameters(config, layout, "after", after)


def _outside(
    config: GPTConfig, layout: Layout, params: Any, seen: Arrays, back: Arrays, tokens: np.ndarray
) -> Arrays:  # fmt: skip
    """The modules that are in no block."""
    final = {"transformer.": "transformer.ln_f", "model.": "model.norm"}[layout.prefix]
    table = {"transformer.": "transformer.wte", "model.": "model.embed_tokens"}[layout.prefix]
    out = _module(table, tokens, seen["token_embedding"], back["token_embedding"])
    if config.adds_positions:
        length = tokens.shape[1]
        vectors, dy = params["position_embedding"]["table"][:length], back["position_embedding"]
        out |= _module("transformer.wpe", np.arange(length), vectors, dy.sum(0))
        out |= _module("transformer.drop", seen["position_embedding"], seen["position_embedding"], dy)
    last = seen[f"block_{config.n_layers - 1}"]
    out |= _module(final, last, seen["norm_final"], back["norm_final"])
    return out | _module("lm_head", seen["norm_final"], seen["logits"], back["logits"])


def _module(name: str, x: np.ndarray, y: np.ndarray, dy: np.ndarray) -> Arrays:
    return {f"in/{name}": x, f"out/{name}": y, f"grad_out/{name}": dy}


def _inside(config: GPTConfig, layout: Layout, block: str, i: int, params: Any, seen: Arrays, back: Arrays) -> Arrays:
    """The modules of a block and the block."""
    first = "position_embedding" if config.adds_positions else "token_embedding"
    x = seen[f"block_{i - 1}" if i else first]
    seen, back = ({k.removeprefix(f"{block}/"): y for k, y in tree.items()} for tree in (seen, back))
    merged, hidden = _merged(config, seen), _hidden(config, seen)
    inputs = {
        "norm_1": x, "norm_2": seen["residual_1"], "attention": seen["norm_1"], "mlp": seen["norm_2"],
        "attention/output": merged, "mlp/down": hidden,
        **dict.fromkeys(("attention/query", "attention/key", "attention/value"), seen["norm_1"]),
        **dict.fromkeys(("mlp/up", "mlp/gate"), seen["norm_2"]),
    }  # fmt: skip
    seen |= {"attention/output": seen["attention"], "mlp/down": seen["mlp"]}
    back |= {"attention/output": back["attention"], "mlp/down": back["mlp"]}
    where = f"{layout.prefix}{'h' if layout.prefix == 'transformer.' else 'layers'}.{i}"
    names = GPT2_MODULES if layout.prefix == "transformer." else QWEN_MODULES if config.qk_norm else LLAMA_MODULES
    for name, n in (("query", config.n_heads), ("key", config.kv_heads)) if config.qk_norm else ():
        norm, by_position = f"attention/{name}_norm", (*x.shape[:2], n, -1)  # theirs is [B, T, H, K]
        inputs[norm] = seen[f"attention/{name}"].reshape(by_position)
        seen[norm], back[norm] = seen[norm].swapaxes(1, 2), back[norm].swapaxes(1, 2)
    out = _module(where, x, seen[block], back[block])
    for ours, theirs in names.items():
        out |= _module(f"{where}.{theirs}", inputs[ours], seen[ours], back[ours])
    if layout.prefix == "transformer.":
        parts = ("attention/query", "attention/key", "attention/value")
        joined = (np.concatenate([tree[part] for part in parts], -1) for tree in (seen, back))
        out |= _module(f"{where}.attn.c_attn", seen["norm_1"], *joined)
    return out


def _merged(config: GPTConfig, seen: Arrays) -> np.ndarray:
    """What the output map of an attention reads."""
    a = reference.attention
    values = a.repeat_heads(a.split_heads(seen["attention/value"], config.kv_heads), config.n_heads)
    return a.merge_heads(seen["attention/weights"] @ values)


def _hidden(config: GPTConfig, seen: Arrays) -> np.ndarray:
    """What the last map of an MLP reads."""
    layers = reference.layers
    if config.gated:
        return layers.GATED[config.activation](seen["mlp/gate"], seen["mlp/up"])
    return layers.ACTIVATIONS[config.activation](seen["mlp/up"])


def adamw_of(arrays: Arrays, weight_decay: float = 0.1) -> dict[str, Any]:
    """The `about` of an AdamW that decays matrices alone, for the parameters of a recording."""
    names = [key.removeprefix("param/") for key in arrays if key.startswith("param/")]
    matrices = [name for name in names if arrays[f"param/{name}"].ndim == 2]
    numbers = {"lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8}
    groups = [
        numbers | {"weight_decay": weight_decay, "parameters": matrices},
        numbers | {"weight_decay": 0.0, "parameters": [name for name in names if name not in matrices]},
    ]
    return {"class": "AdamW", "new": True, "groups": groups}


def matched_arrays(config: GPTConfig, arrays: Arrays, folder: Path) -> Any:
    """The recording, read back and matched by the guessed names to a config."""
    from jaxllm.compare.foreign.layouts import guess_names
    from jaxllm.compare.foreign.matched import match
    from jaxllm.compare.foreign.trace import read_trace

    recording = read_trace(write_trace(folder / "trace.npz", arrays))
    return match(config, recording, guess_names(config, recording).names)
