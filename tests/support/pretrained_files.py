"""Tiny models of each family in Hugging Face folders, for the tests of jaxllm/pretrained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import TOKENIZER

from jaxllm import GPTConfig, InputError, save_pretrained
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from jaxllm.pretrained.parameter_map import nested
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors

Tensors = dict[str, np.ndarray]
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # of all families but GPT-2
GPT2 = GPTConfig(vocab_size=13, context_length=12, d_model=8, n_layers=2, n_heads=2)
LLAMA = replace(
    GPT2, n_heads=4, d_model=16, n_kv_heads=2, d_ff=12, position="rotary", rope_base=500.0, norm="rms_norm",
    norm_epsilon=1e-6, activation="swiglu", use_bias=False, tie_embeddings=False,
)  # fmt: skip
TIED = replace(LLAMA, tie_embeddings=True)
LLAMA3 = replace(LLAMA, rope_factor=8.0, rope_base=500000.0, d_model=64, d_head=16, tie_embeddings=True)
QWEN2 = replace(LLAMA, qkv_bias=True)
QWEN3 = replace(LLAMA, qk_norm=True, d_head=6)
GEMMA2 = replace(
    LLAMA, activation="geglu", scale_embeddings=True, tie_embeddings=True, norm_place="both", attention_scale=0.2,
    score_softcap=50.0, logits_softcap=30.0, sliding_window=3, layer_pattern="LG",
)  # fmt: skip
GPT_NEOX = replace(
    GPT2, d_model=16, position="rotary", rotary_fraction=0.5, parallel_residual=True, activation="gelu",
    tie_embeddings=False,
)  # fmt: skip
GEMMA = replace(LLAMA, activation="geglu", scale_embeddings=True, d_head=8, tie_embeddings=True)
CONFIGS = {
    "GPT2LMHeadModel": GPT2, "LlamaForCausalLM": LLAMA, "MistralForCausalLM": replace(LLAMA, sliding_window=3),
    "Qwen2ForCausalLM": QWEN2, "Qwen3ForCausalLM": QWEN3, "Qwen3MoeForCausalLM": replace(QWEN3, n_experts=3),
    "GemmaForCausalLM": GEMMA, "SmolLM3ForCausalLM": replace(LLAMA, rotary_pattern="RN"),
    "Olmo2ForCausalLM": replace(LLAMA, norm_place="after", qk_norm="whole"), "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": replace(GEMMA2, qk_norm=True, rope_local_base=50.0, score_softcap=None, logits_softcap=None),
    "GPTNeoXForCausalLM": GPT_NEOX,
    "GPTNeoForCausalLM": replace(GPT2, qkv_bias=False, attention_scale=1.0, sliding_window=3, layer_pattern="GL"),
    "Phi3ForCausalLM": replace(LLAMA, rotary_fraction=0.5),
}  # fmt: skip


def random_params(config: GPTConfig, dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    """Random parameters of few bits, so that no dtype and no sum rounds them."""
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(config)
    return nested({path: (rng.integers(-127, 128, shape) / 64).astype(dtype) for path, shape in shapes.items()})


def assert_same(got: Any, want: Any, dtype: Any = np.float32) -> None:
    got, want = flatten_dict(got, sep="/"), flatten_dict(want, sep="/")
    assert got.keys() == want.keys()
    for path, x in got.items():
        assert x.dtype == dtype, path
        np.testing.assert_array_equal(x, want[path], err_msg=path)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def contents(folder: Path) -> Tensors:
    file = folder / "model.safetensors"
    return {name: np.array(read_tensor(file, tensor)) for name, tensor in read_header(file).tensors.items()}


def saved(folder: Path, config: GPTConfig, change: Callable[[Tensors], Any] = lambda _: None) -> dict[str, Any]:
    """Save a random model, whose tensors `change` may change in place; returns its parameters."""
    params = random_params(config)
    save_pretrained(folder, config, params)
    tensors = contents(folder)
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors, {})
    return params


def hugging_face(path: Path, config: GPTConfig) -> dict[str, Any]:
    """Save a random model with a tokenizer, as in a downloaded folder; returns its parameters."""
    params = saved(path, config)
    save_tokenizer_files(path, TOKENIZER, ChatFormat(end_tokens=(257,), eos_token="</s>", chat_template="hi"))
    return params
