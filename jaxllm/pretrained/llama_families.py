"""The Llama and its relatives: rotary positions, RMSNorm, a gated MLP, no or few biases."""

from jaxllm.pretrained.family import (
    EMBEDDING,
    GGUF,
    GGUF_APART,
    GGUF_EXPERTS,
    GGUF_JOINED,
    HARMLESS,
    HEAD,
    Family,
    Layout,
    Paths,
    RotarySettings,
    attention_paths,
)

LLAMA_NAMES: dict[str, Paths] = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.layers.{i}.input_layernorm.weight": "block_{i}/norm_1/scale",
    "model.layers.{i}.self_attn.q_proj.weight": "block_{i}/attention/query/kernel",
    "model.layers.{i}.self_attn.k_proj.weight": "block_{i}/attention/key/kernel",
    "model.layers.{i}.self_attn.v_proj.weight": "block_{i}/attention/value/kernel",
    "model.layers.{i}.self_attn.q_proj.bias": "block_{i}/attention/query/bias",
    "model.layers.{i}.self_attn.k_proj.bias": "block_{i}/attention/key/bias",
    "model.layers.{i}.self_attn.v_proj.bias": "block_{i}/attention/value/bias",
    "model.layers.{i}.self_attn.o_proj.weight": "block_{i}/attention/output/kernel",
    "model.layers.{i}.self_attn.q_norm.weight": "block_{i}/attention/query_norm/scale",
    "model.layers.{i}.self_attn.k_norm.weight": "block_{i}/attention/key_norm/scale",
    "model.layers.{i}.post_attention_layernorm.weight": "block_{i}/norm_2/scale",
    "model.layers.{i}.mlp.gate_proj.weight": "block_{i}/mlp/gate/kernel",
    "model.layers.{i}.mlp.up_proj.weight": "block_{i}/mlp/up/kernel",
    "model.layers.{i}.mlp.down_proj.weight": "block_{i}/mlp/down/kernel",
    "model.norm.weight": "norm_final/scale",
    "lm_head.weight": HEAD,
}
EXPERT_NAMES: dict[str, Paths] = LLAMA_NAMES | {
    "model.layers.{i}.mlp.gate.weight": "block_{i}/mlp/router/kernel",
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": "block_{i}/mlp/gate/kernels/{e}",
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": "block_{i}/mlp/up/kernels/{e}",
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": "block_{i}/mlp/down/kernels/{e}",
}
STACKED_EXPERTS: dict[str, Paths] = {  # the parameters of transformers 5
    "model.layers.{i}.mlp.experts.gate_up_proj": ("block_{i}/mlp/gate/kernels", "block_{i}/mlp/up/kernels"),
    "model.layers.{i}.mlp.experts.down_proj": "block_{i}/mlp/down/kernels",
}
OLMO2_NAMES = {name: paths for name, paths in LLAMA_NAMES.items() if "layernorm" not in name} | {
    "model.layers.{i}.post_attention_layernorm.weight": "block_{i}/norm_1/scale",
    "model.layers.{i}.post_feedforward_layernorm.weight": "block_{i}/norm_2/scale",
}
GEMMA2_NAMES = LLAMA_NAMES | {
    "model.layers.{i}.post_attention_layernorm.weight": "block_{i}/norm_1_after/scale",
    "model.layers.{i}.pre_feedforward_layernorm.weight": "block_{i}/norm_2/scale",
    "model.layers.{i}.post_feedforward_layernorm.weight": "block_{i}/norm_2_after/scale",
}
GGUF_BEFORE = ("blk.{i}.attn_norm.weight", "blk.{i}.ffn_norm.weight")
APART = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # maps that Phi-3 stores together
PHI3_NAMES = {name: paths for name, paths in LLAMA_NAMES.items() if not any(part in name for part in APART)} | {
    "model.layers.{i}.self_attn.qkv_proj.weight": attention_paths("kernel"),
    "model.layers.{i}.mlp.gate_up_proj.weight": ("block_{i}/mlp/gate/kernel", "block_{i}/mlp/up/kernel"),
}
GGUF_OLMO2 = {name: paths for name, paths in GGUF_APART.items() if name not in GGUF_BEFORE} | {
    "blk.{i}.post_attention_norm.weight": "block_{i}/norm_1/scale",
    "blk.{i}.post_ffw_norm.weight": "block_{i}/norm_2/scale",
}
GGUF_GEMMA2 = GGUF_APART | {
    "blk.{i}.post_attention_norm.weight": "block_{i}/norm_1_after/scale",
    "blk.{i}.post_ffw_norm.weight": "block_{i}/norm_2_after/scale",
}
GGUF_PHI3 = {name: paths for name, paths in GGUF_JOINED.items() if "ffn_gate" not in name} | {
    "blk.{i}.ffn_up.weight": ("block_{i}/mlp/gate/kernel", "block_{i}/mlp/up/kernel"),
}

LLAMA_SETTINGS = {
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size",
    "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
    "d_head": "head_dim", "d_ff": "intermediate_size", "activation": "hidden_act", "norm_epsilon": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}  # fmt: skip
LLAMA_DEFAULTS = {
    "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
GATED = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
LLAMA_FIXED = {"position": "rotary", "norm": "rms_norm", "use_bias": False}
LLAMA_HARMLESS = {**HARMLESS, "attention_bias": (False, None)}
LLAMA_FOLDER = Layout(LLAMA_NAMES, "model.", ignored=("model.layers.{i}.self_attn.rotary_emb.inv_freq",))

LLAMA = Family(
    "LlamaForCausalLM", "llama", LLAMA_SETTINGS, LLAMA_DEFAULTS, GATED, LLAMA_FIXED,
    {**LLAMA_HARMLESS, "mlp_bias": (False, None)}, LLAMA_FOLDER,
    GGUF("llama", Layout(GGUF_APART, interleaved=True, ignored=("rope_freqs.weight",))), whole_heads=True,
)  # fmt: skip
MISTRAL = Family(
    "MistralForCausalLM", "mistral", {**LLAMA_SETTINGS, "sliding_window": "sliding_window"},
    {**LLAMA_DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096}, GATED, LLAMA_FIXED,
    {**HARMLESS, "layer_types": (None,)}, LLAMA_FOLDER, None,
)  # fmt: skip
QWEN2 = Family(
    "Qwen2ForCausalLM", "qwen2", LLAMA_SETTINGS, {**LLAMA_DEFAULTS, "num_key_value_heads": 32}, GATED,
    {**LLAMA_FIXED, "qkv_bias": True}, HARMLESS, LLAMA_FOLDER, GGUF("qwen2", Layout(GGUF_APART), whole_heads=True),
    layers="qwen",
)  # fmt: skip
QWEN3 = Family(
    "Qwen3ForCausalLM", "qwen3", LLAMA_SETTINGS, {**LLAMA_DEFAULTS, "num_key_value_heads": 32, "head_dim": 128}, GATED,
    {**LLAMA_FIXED, "qk_norm": True}, LLAMA_HARMLESS, LLAMA_FOLDER, GGUF("qwen3", Layout(GGUF_APART)),
    layers="qwen",
)  # fmt: skip
QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM", "qwen3_moe",
    {
        **LLAMA_SETTINGS, "d_ff": "moe_intermediate_size", "n_experts": "num_experts",
        "n_experts_per_token": "num_experts_per_tok", "normalise_experts": "norm_topk_prob",
    },
    {
        **LLAMA_DEFAULTS, "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128,
        "num_experts_per_tok": 8, "norm_topk_prob": False,
    },
    GATED, {**LLAMA_FIXED, "qk_norm": True},
    {**LLAMA_HARMLESS, "decoder_sparse_step": (1,), "mlp_only_layers": (None, []), "use_sliding_window": (False, None)},
    LLAMA_FOLDER._replace(names=EXPERT_NAMES, stacked=STACKED_EXPERTS),
    GGUF(
        "qwen3moe", Layout(GGUF_EXPERTS),
        keys={
            "d_ff": "expert_feed_forward_length", "n_experts": "expert_count",
            "n_experts_per_token": "expert_used_count",
        },
        fixed={"normalise_experts": True},  # ggml-org/llama.cpp, src/models/qwen3moe.cpp
    ),
)  # fmt: skip
GEMMA = Family(
    "GemmaForCausalLM", "gemma", LLAMA_SETTINGS,
    {
        **LLAMA_DEFAULTS, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
    {"gelu_pytorch_tanh": "geglu", "gelu": "geglu"},  # Gemma computes the tanh form under both names
    {**LLAMA_FIXED, "scale_embeddings": True},
    {
        **LLAMA_HARMLESS, "hidden_activation": (None, "gelu_pytorch_tanh"),
        "use_bidirectional_attention": (None, False),
    },
    LLAMA_FOLDER._replace(offset=1),
    GGUF("gemma", Layout(GGUF_APART), only={"tie_embeddings": True}),  # a GGUF file has the offset added
)  # fmt: skip
SMOLLM3 = Family(
    "SmolLM3ForCausalLM", "smollm3", LLAMA_SETTINGS,
    {**LLAMA_DEFAULTS, "num_key_value_heads": 4, "tie_word_embeddings": True}, GATED, LLAMA_FIXED,
    {**LLAMA_HARMLESS, "mlp_bias": (False, None)}, LLAMA_FOLDER,
    GGUF("smollm3", Layout(GGUF_APART, interleaved=True), fixed={"rotary_pattern": "RRRN"}), layers="smollm3",
    rotary=RotarySettings(base=2000000.0),
)  # fmt: skip
OLMO2 = Family(
    "Olmo2ForCausalLM", "olmo2", LLAMA_SETTINGS, {**LLAMA_DEFAULTS, "rms_norm_eps": 1e-5}, GATED,
    {**LLAMA_FIXED, "norm_place": "after", "qk_norm": "whole"}, LLAMA_HARMLESS,
    LLAMA_FOLDER._replace(names=OLMO2_NAMES),
    GGUF("olmo2", Layout(GGUF_OLMO2), only={"tie_embeddings": False}, whole_heads=True),
)  # fmt: skip
GEMMA2_SETTINGS = {
    **LLAMA_SETTINGS, "activation": "hidden_activation", "attention_scale": "query_pre_attn_scalar",
    "score_softcap": "attn_logit_softcapping", "logits_softcap": "final_logit_softcapping",
}  # fmt: skip
GEMMA2_DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}  # fmt: skip
GEMMA2 = Family(
    "Gemma2ForCausalLM", "gemma2", GEMMA2_SETTINGS, GEMMA2_DEFAULTS, {"gelu_pytorch_tanh": "geglu"},
    {**LLAMA_FIXED, "scale_embeddings": True, "norm_place": "both"},
    {**LLAMA_HARMLESS, "use_bidirectional_attention": (None, False)},
    LLAMA_FOLDER._replace(names=GEMMA2_NAMES, offset=1),
    GGUF(
        "gemma2", Layout(GGUF_GEMMA2),
        keys={
            "sliding_window": "attention.sliding_window", "score_softcap": "attn_logit_softcapping",
            "logits_softcap": "final_logit_softcapping",
        },
        defaults={"sliding_window": 4096, "score_softcap": 50.0, "logits_softcap": 30.0},
        fixed={"layer_pattern": "LG"},
        harmless={"attention.sliding_window_pattern": (2,), "rope.freq_base_swa": (None,)},
        only={"tie_embeddings": True}, scaled_by_width=46,
    ),
    whole_heads=True, layers="gemma",
)  # fmt: skip
GEMMA3 = GEMMA2._replace(
    architecture="Gemma3ForCausalLM", model_type="gemma3_text",
    defaults={**GEMMA2_DEFAULTS, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    fixed={**GEMMA2.fixed, "qk_norm": True},
    gguf=GGUF(
        "gemma3", Layout(GGUF_GEMMA2), keys={"sliding_window": "attention.sliding_window"},
        fixed={"layer_pattern": "LLLLLG", "rope_local_base": 10000.0},
        harmless={"attention.sliding_window_pattern": (6,), "rope.freq_base_swa": (10000.0,)}, scaled_by_width=62,
    ),
    rotary=RotarySettings(base=1000000.0, local_base=10000.0),
)  # fmt: skip
PHI3 = Family(
    "Phi3ForCausalLM", "phi3",
    {name: key for name, key in LLAMA_SETTINGS.items() if name != "d_head"} | {"sliding_window": "sliding_window"},
    {
        "num_key_value_heads": None, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "sliding_window": None,
    },
    GATED, LLAMA_FIXED, {"is_causal": (None, True), "quantization_config": (None,)},
    LLAMA_FOLDER._replace(names=PHI3_NAMES),
    GGUF(
        "phi3", Layout(GGUF_PHI3), keys={"sliding_window": "attention.sliding_window"},
        defaults={"sliding_window": None}, only={"sliding_window": None},
    ),
    whole_heads=True, rotary=RotarySettings(fraction=1.0, scaled=False),
)  # fmt: skip
