"""Models of Hugging Face's transformers with every parameter random. Tests that import this module need `peers`."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `peers`")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other packages
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    pytest.importorskip("safetensors.torch")  # so that dtypes are kept

SIZES = {
    "vocab_size": 61, "max_position_embeddings": 40, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 61, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
NEOX_SIZES = {
    **{name: value for name, value in SIZES.items() if name != "num_key_value_heads"},
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25},
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 20,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 10}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2_SIZES),
    "gpt2 untied, exact gelu": (
        "GPT2", {**GPT2_SIZES, "n_inner": 40, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "llama": ("Llama", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "llama 3, tied, wide heads": (
        "Llama", {**SIZES, "rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 12, "rms_norm_eps": 1e-3},
    ),
    "llama, linear scaling": (
        "Llama", {**SIZES, "rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    ),
    "llama, YaRN": ("Llama", {**SIZES, "rope_parameters": {**YARN, "beta_fast": 2.0, "beta_slow": 0.1}, "head_dim": 12}),
    "qwen 3, YaRN without rounding": (
        "Qwen3",
        {**SIZES, "rope_parameters": {**YARN, "beta_fast": 3.0, "beta_slow": 0.2, "truncate": False, "mscale": 1.4,
                                      "mscale_all_dim": 0.7}, "head_dim": 12},
    ),
    "llama, YaRN with its own factor of attention": (
        "Llama", {**SIZES, "rope_parameters": {**YARN, "attention_factor": 1.3}, "max_position_embeddings": 40},
    ),
    "mistral": ("Mistral", {**SIZES, "sliding_window": 5, "head_dim": 10}),
    "qwen 2": ("Qwen2", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "qwen 3": ("Qwen3", {**SIZES, "head_dim": 12, "num_key_value_heads": 1}),
    "qwen 3 with a window": (
        "Qwen3", {**SIZES, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0, "head_dim": 8},
    ),
    "qwen 3 experts": (
        "Qwen3Moe",
        {**SIZES, "head_dim": 12, "moe_intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 2,
         "norm_topk_prob": True},
    ),
    "qwen 3 experts, YaRN": (
        "Qwen3Moe",
        {**SIZES, "head_dim": 8, "moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 3,
         "tie_word_embeddings": True, "rope_parameters": {**YARN, "beta_fast": 2.0, "beta_slow": 0.1}},
    ),
    "smollm 3": ("SmolLM3", {**SIZES, "num_hidden_layers": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "smollm 3, windows where there are no positions": (
        "SmolLM3", {**SIZES, "num_hidden_layers": 3, "no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 5},
    ),
    "olmo 2": ("Olmo2", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "gemma 2": (
        "Gemma2", {
            **SIZES, "num_hidden_layers": 3, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        },
    ),
    "gemma 3": (
        "Gemma3Text", {
            **SIZES, "num_hidden_layers": 7, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 9,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "gpt neox": ("GPTNeoX", NEOX_SIZES),
    "gpt neox, one after the other": (
        "GPTNeoX", {
            **NEOX_SIZES, "use_parallel_residual": False,
            "rope_parameters": {**YARN, "beta_fast": 2.0, "beta_slow": 0.1, "partial_rotary_factor": 0.5},
        },
    ),
    "gpt neo": (
        "GPTNeo", {
            **{name: SIZES[name] for name in ("vocab_size", "max_position_embeddings", "hidden_size")},
            "num_layers": 3, "num_heads": 4, "intermediate_size": 40, "window_size": 5,
            "attention_types": [[["global", "local"], 1], [["global"], 1]],
        },
    ),
    "phi 3": ("Phi3", {**SIZES, "sliding_window": 7, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "phi 3, partly rotated": (
        "Phi3", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.75}},
    ),
    "gemma": ("Gemma", {**SIZES, "head_dim": 16, "num_key_value_heads": 1}),
}  # fmt: skip


@contextmanager
def in_float64() -> Iterator[None]:
    """float32 in the code of transformers means float64; experts take turns, for torch's grouped product has none."""
    moe = importlib.import_module("transformers.integrations.moe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "_can_use_grouped_mm", lambda *_: False, raising=False)
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def random_model(name: str) -> Any:
    """A model of transformers with every parameter random, in the default dtype."""
    kind, settings = THEIRS[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            z = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.3 * z if parameter.ndim == 1 else z * parameter.shape[-1] ** -0.5)
    return model
