"""config.json as transformers 4 and 5 write it: its GPTConfig, and settings that are refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
from pretrained_files import refusal

from jaxllm import GPTConfig
from jaxllm.pretrained.hf_config import read_hf_config

pytestmark = pytest.mark.newest

TINY = {"num_hidden_layers": 2, "vocab_size": 99, "intermediate_size": 64, "max_position_embeddings": 2048}
WIDE = {**TINY, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
ROTARY = GPTConfig(
    99, 2048, 32, 2, 4, n_kv_heads=2, d_ff=64, position="rotary", norm="rms_norm", norm_epsilon=1e-6,
    activation="swiglu", use_bias=False, tie_embeddings=False,
)  # fmt: skip
SCALING = {
    "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 512,
    "rope_type": "llama3",
}  # fmt: skip
SCALED = replace(
    ROTARY, rope_base=5e5, rope_factor=32.0, rope_high_frequency=2.0, rope_original_context=512, tie_embeddings=True
)
YARN = {"rope_type": "yarn", "factor": 4.0}
YARNED = replace(ROTARY, rope_scaling="yarn", rope_factor=4.0, rope_high_frequency=32.0)
LLAMA_4 = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **WIDE, "torch_dtype": "bfloat16"}
MISTRAL_4 = {"architectures": ["MistralForCausalLM"], **WIDE, "rope_theta": 10000.0}
QWEN3_4 = {
    "architectures": ["Qwen3ForCausalLM"], **WIDE, "head_dim": 16, "rope_theta": 1e6, "sliding_window": 4096,
    "use_sliding_window": False, "max_window_layers": 2, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA_4 = {
    "architectures": ["GemmaForCausalLM"], **WIDE, "head_dim": 16, "hidden_act": "gelu", "rope_scaling": None,
    "hidden_activation": None, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip
GPT2_4 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2,
    "n_positions": 1024, "n_ctx": 1024, "vocab_size": 99, "attn_pdrop": 0.1, "activation_function": "gelu_new",
}  # fmt: skip
QWEN2_4 = {
    "architectures": ["Qwen2ForCausalLM"], **WIDE, "rope_theta": 1e6, "sliding_window": 131072, "use_sliding_window": False,
    "max_window_layers": 28, "use_mrope": False,
}  # fmt: skip
SMOLLM3_4 = {
    "architectures": ["SmolLM3ForCausalLM"], **WIDE, "num_hidden_layers": 4, "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0], "layer_types": ["full_attention"] * 4, "rope_theta": 5e6, "rope_scaling": None,
    "sliding_window": None, "use_sliding_window": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
OLMO2_4 = {
    "architectures": ["Olmo2ForCausalLM"],
    **WIDE,
    "rope_theta": 500000,
    "attention_bias": False,
    "rms_norm_eps": 1e-6,
}
GEMMA2_4 = {
    "architectures": ["Gemma2ForCausalLM"], **WIDE, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 9, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0, "cache_implementation": "hybrid",
}  # fmt: skip
GEMMA3_4 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **WIDE, "num_hidden_layers": 7, "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "sliding_window": 512, "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0, "rope_scaling": None, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
NEOX_4 = {
    "architectures": ["GPTNeoXForCausalLM"], **WIDE, "rotary_pct": 0.5, "rotary_emb_base": 10000, "hidden_act": "gelu",
    "use_parallel_residual": True, "layer_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
NEO_4 = {
    "architectures": ["GPTNeoForCausalLM"], "vocab_size": 99, "max_position_embeddings": 64, "hidden_size": 32,
    "num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 16,
    "attention_layers": ["global", "local", "global"], "intermediate_size": None,
}  # fmt: skip
PHI3_4 = {
    "architectures": ["Phi3ForCausalLM"], **WIDE, "original_max_position_embeddings": 4096, "rope_scaling": None,
    "rope_theta": 10000.0, "sliding_window": 2047, "attention_bias": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
GEGLU = replace(ROTARY, activation="geglu", scale_embeddings=True, d_head=16, tie_embeddings=True)
SETTINGS = {
    "gpt2": (GPT2_4, GPTConfig(99, 1024, 32, 2, 4)),
    "gpt2 otherwise": (
        {**GPT2_4, "n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": 0 > 1},
        GPTConfig(99, 1024, 32, 2, 4, d_ff=40, activation="relu", norm_epsilon=1e-3, tie_embeddings=False),
    ),
    "llama with defaults": (LLAMA_4, ROTARY),
    "llama without its architecture": ({**LLAMA_4, "architectures": None}, ROTARY),
    "llama without grouped heads": ({**LLAMA_4, "num_key_value_heads": None}, replace(ROTARY, n_kv_heads=None)),
    "llama 3, layout of 4": (
        {**LLAMA_4, "rope_theta": 500000.0, "rope_scaling": SCALING, "tie_word_embeddings": True}, SCALED,
    ),
    "llama 3, layout of 5": (
        {**LLAMA_4, "rope_parameters": {"rope_theta": 500000.0, **SCALING}, "tie_word_embeddings": True}, SCALED,
    ),
    "linear": ({**LLAMA_4, "rope_scaling": {"type": "linear", "factor": 2}}, replace(ROTARY, rope_scaling="linear", rope_factor=2)),
    "YaRN with defaults": (
        {**LLAMA_4, "rope_parameters": {**YARN, "beta_fast": None, "attention_factor": None, "mscale": 1.0}},
        replace(YARNED, rope_original_context=2048),
    ),
    "YaRN": (
        {**LLAMA_4, "rope_parameters": {
            **YARN, "beta_fast": 20, "beta_slow": 2, "truncate": False, "original_max_position_embeddings": 512,
            "attention_factor": 1.5, "mscale": 1.0, "mscale_all_dim": 2.0}},
        replace(
            YARNED, rope_original_context=512, rope_high_frequency=20, rope_low_frequency=2, rope_truncate=False, rope_attention_factor=1.5
        ),
    ),
    "YaRN with scales of attention": (
        {**LLAMA_4, "rope_parameters": {**YARN, "factor": math.e**2, "mscale": 1.0, "mscale_all_dim": 0.5}},
        replace(YARNED, rope_factor=math.e**2, rope_original_context=2048, rope_attention_factor=1.2 / 1.1),
    ),
    "old name of the type": ({**LLAMA_4, "rope_theta": 77, "rope_scaling": {"type": "default"}}, replace(ROTARY, rope_base=77)),
    "mistral with its class's window": (MISTRAL_4, replace(ROTARY, sliding_window=4096)),
    "mistral with a window": ({**MISTRAL_4, "sliding_window": 7}, replace(ROTARY, sliding_window=7)),
    "mistral without": ({**MISTRAL_4, "sliding_window": None}, ROTARY),
    "mistral with its class's heads": (
        {name: value for name, value in MISTRAL_4.items() if name != "num_key_value_heads"} | {"num_attention_heads": 16},
        replace(ROTARY, n_heads=16, n_kv_heads=8, sliding_window=4096),
    ),
    "qwen 3 with its window switched off": (
        {**QWEN3_4, "max_window_layers": 0},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True),
    ),
    "qwen 3": (QWEN3_4, replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True)),
    "qwen 3 with a window": (
        {**QWEN3_4, "use_sliding_window": True, "max_window_layers": 0, "sliding_window": 5},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True, sliding_window=5),
    ),
    "qwen 3 whose window begins above": (
        {**QWEN3_4, "use_sliding_window": True},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True),
    ),
    "qwen 3 with a window in its last layer": (
        {**QWEN3_4, "use_sliding_window": True, "max_window_layers": 1},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True, sliding_window=4096, layer_pattern="GL"),
    ),
    "qwen 3 with kinds of layers": (
        {**QWEN3_4, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True, sliding_window=4096, layer_pattern="LG"),
    ),
    "qwen 2": (QWEN2_4, replace(ROTARY, rope_base=1e6, qkv_bias=True)),
    "smollm 3": (
        SMOLLM3_4, replace(ROTARY, n_layers=4, rope_base=5e6, tie_embeddings=True, rotary_pattern="RRRN"),
    ),
    "smollm 3 with defaults": (
        {name: value for name, value in SMOLLM3_4.items() if name not in ("no_rope_layers", "rope_theta")},
        replace(ROTARY, n_layers=4, rope_base=2e6, tie_embeddings=True, rotary_pattern="RRRN"),
    ),
    "smollm 3 with positions in all layers": (
        {**SMOLLM3_4, "no_rope_layers": [1] * 4}, replace(ROTARY, n_layers=4, rope_base=5e6, tie_embeddings=True),
    ),
    "smollm 3 with a window": (
        {**SMOLLM3_4, "use_sliding_window": True, "sliding_window": 8, "layer_types": None},
        replace(
            ROTARY, n_layers=4, rope_base=5e6, tie_embeddings=True, rotary_pattern="RRRN", sliding_window=8,
            layer_pattern="GGGL",
        ),
    ),
    "olmo 2": (OLMO2_4, replace(ROTARY, rope_base=5e5, norm_place="after", qk_norm="whole")),
    "gemma 2": (
        GEMMA2_4,
        replace(
            GEGLU, norm_place="both", attention_scale=1 / 3, score_softcap=50.0, logits_softcap=30.0, sliding_window=4096,
            layer_pattern="LG",
        ),
    ),
    "gemma 3": (
        {**GEMMA3_4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        replace(
            GEGLU, n_layers=7, norm_place="both", qk_norm=True, attention_scale=0.25, sliding_window=512,
            layer_pattern="LLLLLG", rope_base=1e6, rope_local_base=1e4, rope_scaling="linear", rope_factor=8.0,
        ),
    ),
    "gemma 3 of today, scaled": (
        {
            **GEMMA3_4,
            "rope_parameters": {
                "full_attention": {"rope_theta": 5e5, **SCALING}, "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
            },
            "layer_types": ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"],
        },
        replace(
            GEGLU, n_layers=7, norm_place="both", qk_norm=True, attention_scale=0.25, sliding_window=512,
            layer_pattern="LG", rope_base=5e5, rope_local_base=77.0, rope_factor=32.0, rope_high_frequency=2.0,
            rope_original_context=512,
        ),
    ),
    "gemma 3 with local layers only": (
        {**GEMMA3_4, "num_hidden_layers": 5},
        replace(
            GEGLU, n_layers=5, norm_place="both", qk_norm=True, attention_scale=0.25, sliding_window=512, layer_pattern="L",
            rope_base=1e6, rope_local_base=1e4,
        ),
    ),
    "gpt neox": (
        NEOX_4,
        GPTConfig(
            99, 2048, 32, 2, 4, d_ff=64, position="rotary", rotary_fraction=0.5, parallel_residual=True, activation="gelu",
            tie_embeddings=False,
        ),
    ),
    "gpt neox of today": (
        {**{name: value for name, value in NEOX_4.items() if not name.startswith("rotary")}, "use_parallel_residual": False,
         "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
        GPTConfig(
            99, 2048, 32, 2, 4, d_ff=64, position="rotary", rotary_fraction=0.25, activation="gelu", tie_embeddings=False,
            rope_base=7.0,
        ),
    ),
    "gpt neo": (
        NEO_4, GPTConfig(99, 64, 32, 3, 4, qkv_bias=False, attention_scale=1.0, layer_pattern="GL", sliding_window=16),
    ),
    "phi 3": (PHI3_4, replace(ROTARY, norm_epsilon=1e-5, sliding_window=2047)),
    "phi 3, partly rotated": (
        {**PHI3_4, "partial_rotary_factor": 0.75, "sliding_window": None},
        replace(ROTARY, norm_epsilon=1e-5, rotary_fraction=0.75),
    ),
    # Two names of one setting with different values: the layout of 4 takes precedence, as in transformers 5.
    "llama with a base in both layouts": (
        {**LLAMA_4, "rope_theta": 7.0, "rope_parameters": {"rope_theta": 8.0, "rope_type": "default"}},
        replace(ROTARY, rope_base=8.0),
    ),
    "llama with a scaling in both layouts": (
        {**LLAMA_4, "tie_word_embeddings": True, "rope_theta": 5e5, "rope_scaling": SCALING,
         "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}, SCALED,
    ),
    "llama with an empty scaling": (
        {**LLAMA_4, "rope_scaling": {}, "rope_parameters": {"rope_theta": 8.0}}, replace(ROTARY, rope_base=8.0),
    ),
    "llama with two names of a type": (
        {**LLAMA_4, "rope_scaling": {"rope_type": "default", "type": "linear"}}, ROTARY,
    ),
    "qwen 3 whose layers and first layer disagree": (
        {**QWEN3_4, "use_sliding_window": True, "max_window_layers": 0, "sliding_window": 5,
         "layer_types": ["full_attention", "full_attention"]},
        replace(ROTARY, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True),
    ),
    "qwen 3 whose window begins with the last layer": (
        {**QWEN3_4, "use_sliding_window": True, "num_hidden_layers": 1, "max_window_layers": 0, "sliding_window": 5},
        replace(ROTARY, n_layers=1, qk_norm=True, d_head=16, rope_base=1e6, tie_embeddings=True, sliding_window=5),
    ),
    "gemma": (GEMMA_4, GEGLU),
    "gemma of today": ({**GEMMA_4, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}, GEGLU),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_read(name: str) -> None:
    content, config = SETTINGS[name]
    assert read_hf_config(content, "config.json")[1] == config


@pytest.mark.parametrize(
    ("content", "change", "words"),
    [
        (GPT2_4, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        (GPT2_4, {"scale_attn_weights": False, "add_cross_attention": True}, "weights is False, add_cross_attention is True"),
        (GPT2_4, {"activation_function": "silu"}, "activation_function is 'silu'"),
        (GPT2_4, {"n_embd": 33}, "not divisible by model.n_heads = 4"),
        (GPT2_4, {"n_layer": "two"}, "model.n_layers is 'two'"),
        (GPT2_4, {"architectures": ["GPT2Model"]}, "'GPT2Model', but this jaxllm reads GPT2LMHeadModel, Llama"),
        (GPT2_4, {"architectures": [], "model_type": "mamba"}, "'mamba'"),
        (LLAMA_4, {"architectures": "LlamaForCausalLM"}, "is of the architecture"),
        (LLAMA_4, {"architectures": None, "model_type": ["llama"]}, "is of the architecture ['llama']"),
        (LLAMA_4, {"architectures": None, "model_type": None}, "is of the architecture None"),
        (LLAMA_4, {"num_key_value_heads": 3}, "model.n_heads is 4, which is not divisible by model.n_kv_heads = 3"),
        (LLAMA_4, {"num_hidden_layers": 10**9}, "model.n_layers is 1000000000"),
        (LLAMA_4, {"rope_scaling": [1]}, "the rope parameters are [1]"),
        (LLAMA_4, {"attention_bias": True, "mlp_bias": True}, "attention_bias is True, mlp_bias is True"),
        (LLAMA_4, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (LLAMA_4, {"hidden_act": ["silu"]}, "hidden_act is ['silu']"),
        (LLAMA_4, {"rope_scaling": {"type": "linear"}}, "factor is missing"),
        (LLAMA_4, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        (LLAMA_4, {"rope_scaling": {"type": ["yarn"], "factor": 2.0}}, "rope_type is ['yarn']"),
        (LLAMA_4, {"rope_parameters": {"rope_type": "yarn"}}, "factor is missing"),
        (LLAMA_4, {"rope_parameters": {**YARN, "factor": 0.5}}, "model.rope_factor is 0.5"),
        (LLAMA_4, {"rope_parameters": {**YARN, "truncate": None}}, "model.rope_truncate is None"),
        (LLAMA_4, {"rope_parameters": {**YARN, "attention_factor": 0}}, "model.rope_attention_factor is 0"),
        (LLAMA_4, {"rope_parameters": {**YARN, "mscale": "1", "mscale_all_dim": 10**400}}, "mscale is '1', mscale_all_dim is 1000"),
        (LLAMA_4, {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor is missing, high"),
        (LLAMA_4, {"rope_parameters": {**SCALING, "low_freq_factor": 2.0}}, "rope_low_frequency is 2.0, but it must be"),
        (LLAMA_4, {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "the rope parameters are {'full"),
        (LLAMA_4, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (LLAMA_4, {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        (LLAMA_4, {"vocab_size": None}, "model.vocab_size is None"),
        (MISTRAL_4, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is ['full_attention'"),
        (QWEN3_4, {"use_sliding_window": True, "num_hidden_layers": "two"}, "model.n_layers is 'two'"),
        (QWEN3_4, {"use_sliding_window": True, "max_window_layers": "two"}, "kinds of the 2 layers are 'two'"),
        (QWEN3_4, {"use_sliding_window": True, "layer_types": ["full_attention"]}, "2 layers are ['full_attention']"),
        (QWEN3_4, {"use_sliding_window": True, "layer_types": ["chunked", "chunked"]}, "2 layers are ['chunked'"),
        (QWEN3_4, {"num_hidden_layers": 10**9}, "model.n_layers is 1000000000"),
        (SMOLLM3_4, {"no_rope_layers": [1]}, "no_rope_layers is [1]"),
        (SMOLLM3_4, {"no_rope_layers": [1, 1, 1, "no"]}, "no_rope_layers is [1, 1, 1, 'no']"),
        (SMOLLM3_4, {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layers is 0"),
        (SMOLLM3_4, {"attention_bias": True}, "attention_bias is True"),
        (GEMMA2_4, {"query_pre_attn_scalar": -1}, "model.attention_scale is -1"),
        (GEMMA2_4, {"attn_logit_softcapping": "none"}, "model.score_softcap is 'none'"),
        (GEMMA2_4, {"layer_types": 5}, "the kinds of the 2 layers are 5"),
        (GEMMA3_4, {"sliding_window_pattern": 0}, "the kinds of the 7 layers are 0"),
        (GEMMA3_4, {"rope_parameters": {"sliding_attention": 3}}, "cannot compute: the rope parameters of sliding_attention are 3."),
        (GEMMA3_4, {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}}, "cannot compute: truncate is False."),
        (GEMMA3_4, {"rope_parameters": {"sliding_attention": {"type": "linear", "factor": 8.0}}}, "the rope parameters of sliding_attention are {'type'"),
        (GEMMA3_4, {"rope_parameters": {"full_attention": 3}}, "cannot compute: the rope parameters of full_attention are 3."),
        (GEMMA3_4, {"rope_scaling": {"rope_type": "dynamic", "factor": 8.0}}, "rope_type is 'dynamic'"),
        (
            GEMMA3_4, {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
            "the rope parameters of sliding_attention are {'rope_type'",
        ),
        (NEOX_4, {"rotary_pct": 0.01}, "of which 0 features are rotated"),
        (NEOX_4, {"rotary_pct": "a half"}, "model.rotary_fraction is 'a half'"),
        (NEOX_4, {"attention_bias": False}, "attention_bias is False"),
        (NEO_4, {"attention_types": [[["global"], 5]]}, "the kinds of the 3 layers are ['global', "),
        (NEO_4, {"attention_types": 7}, "the kinds of the 3 layers are 7"),
        (PHI3_4, {"rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, "rope_type is 'longrope'"),
        (PHI3_4, {"rope_scaling": {**YARN, "factor": 2.0}}, "rope_type is 'yarn'"),
        (GEMMA_4, {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        (GEMMA_4, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_would_change_numbers_are_refused(content: Any, change: Any, words: str) -> None:
    assert words in refusal(lambda: read_hf_config(content | change, "config.json"))


def test_missing_settings_are_named_together() -> None:
    message = refusal(lambda: read_hf_config({"architectures": ["LlamaForCausalLM"], "mlp_bias": True}, "config.json"))
    assert "vocab_size is missing, max_position_embeddings is missing, hidden_size is missing" in message
    assert "mlp_bias is True" in message
    assert "must be a table of settings" in refusal(lambda: read_hf_config([1], "config.json"))
