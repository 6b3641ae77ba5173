"""GPT-2, GPT-Neo and GPT-NeoX: layer norms and biases."""

from jaxllm.pretrained.family import (
    EMBEDDING,
    GGUF,
    GGUF_JOINED,
    HARMLESS,
    HEAD,
    Family,
    Layout,
    Paths,
    RotarySettings,
    attention_paths,
)

GPT2_NAMES: dict[str, Paths] = {
    "transformer.wte.weight": EMBEDDING,
    "transformer.wpe.weight": "position_embedding/table",
    "transformer.h.{i}.ln_1.weight": "block_{i}/norm_1/scale",
    "transformer.h.{i}.ln_1.bias": "block_{i}/norm_1/bias",
    "transformer.h.{i}.attn.c_attn.weight": attention_paths("kernel"),
    "transformer.h.{i}.attn.c_attn.bias": attention_paths("bias"),
    "transformer.h.{i}.attn.c_proj.weight": "block_{i}/attention/output/kernel",
    "transformer.h.{i}.attn.c_proj.bias": "block_{i}/attention/output/bias",
    "transformer.h.{i}.ln_2.weight": "block_{i}/norm_2/scale",
    "transformer.h.{i}.ln_2.bias": "block_{i}/norm_2/bias",
    "transformer.h.{i}.mlp.c_fc.weight": "block_{i}/mlp/up/kernel",
    "transformer.h.{i}.mlp.c_fc.bias": "block_{i}/mlp/up/bias",
    "transformer.h.{i}.mlp.c_proj.weight": "block_{i}/mlp/down/kernel",
    "transformer.h.{i}.mlp.c_proj.bias": "block_{i}/mlp/down/bias",
    "transformer.ln_f.weight": "norm_final/scale",
    "transformer.ln_f.bias": "norm_final/bias",
    "lm_head.weight": HEAD,
}
GPT_NEO_NAMES = {
    name.replace("attn.c_proj", "attn.attention.out_proj"): paths
    for name, paths in GPT2_NAMES.items()
    if "c_attn" not in name
} | {
    f"transformer.h.{{i}}.attn.attention.{letter}_proj.weight": path
    for letter, path in zip("qkv", attention_paths("kernel"), strict=True)
}
GPT_NEOX_NAMES: dict[str, Paths] = {
    "gpt_neox.embed_in.weight": EMBEDDING,
    "gpt_neox.layers.{i}.input_layernorm.weight": "block_{i}/norm_1/scale",
    "gpt_neox.layers.{i}.input_layernorm.bias": "block_{i}/norm_1/bias",
    "gpt_neox.layers.{i}.attention.query_key_value.weight": attention_paths("kernel"),
    "gpt_neox.layers.{i}.attention.query_key_value.bias": attention_paths("bias"),
    "gpt_neox.layers.{i}.attention.dense.weight": "block_{i}/attention/output/kernel",
    "gpt_neox.layers.{i}.attention.dense.bias": "block_{i}/attention/output/bias",
    "gpt_neox.layers.{i}.post_attention_layernorm.weight": "block_{i}/norm_2/scale",
    "gpt_neox.layers.{i}.post_attention_layernorm.bias": "block_{i}/norm_2/bias",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight": "block_{i}/mlp/up/kernel",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias": "block_{i}/mlp/up/bias",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight": "block_{i}/mlp/down/kernel",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias": "block_{i}/mlp/down/bias",
    "gpt_neox.final_layer_norm.weight": "norm_final/scale",
    "gpt_neox.final_layer_norm.bias": "norm_final/bias",
    "embed_out.weight": HEAD,
}
UNGATED = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "relu2": "squared_relu",
}  # fmt: skip
GGUF_EPSILON = "attention.layer_norm_epsilon"

GPT2 = Family(
    "GPT2LMHeadModel", "gpt2",
    {
        "vocab_size": "vocab_size", "context_length": "n_positions", "d_model": "n_embd", "n_layers": "n_layer",
        "n_heads": "n_head", "d_ff": "n_inner", "activation": "activation_function",
        "norm_epsilon": "layer_norm_epsilon", "tie_embeddings": "tie_word_embeddings",
    },
    {
        "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    },
    UNGATED,
    {"position": "learned", "norm": "layer_norm", "use_bias": True},
    {
        **HARMLESS, "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    Layout(
        GPT2_NAMES, "transformer.", out_in=False,
        ignored=("transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias"),
    ),
    GGUF("gpt2", Layout(GGUF_JOINED), GGUF_EPSILON), whole_heads=True,
)  # fmt: skip
GPT_NEO = Family(
    "GPTNeoForCausalLM", "gpt_neo",
    {
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size",
        "n_layers": "num_layers", "n_heads": "num_heads", "d_ff": "intermediate_size",
        "activation": "activation_function", "norm_epsilon": "layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings",
    },
    {
        "intermediate_size": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    UNGATED,
    {"position": "learned", "norm": "layer_norm", "use_bias": True, "qkv_bias": False, "attention_scale": 1.0},
    HARMLESS,
    Layout(
        GPT_NEO_NAMES, "transformer.",
        ignored=("transformer.h.{i}.attn.attention.bias", "transformer.h.{i}.attn.attention.masked_bias"),
    ),
    None, whole_heads=True, layers="gpt_neo",
)  # fmt: skip
GPT_NEOX = Family(
    "GPTNeoXForCausalLM", "gpt_neox",
    {
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size",
        "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "d_ff": "intermediate_size",
        "activation": "hidden_act", "norm_epsilon": "layer_norm_eps", "tie_embeddings": "tie_word_embeddings",
        "parallel_residual": "use_parallel_residual",
    },
    {
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "use_parallel_residual": True,
    },
    {"gelu": "gelu", **UNGATED},
    {"position": "rotary", "norm": "layer_norm", "use_bias": True},
    {**HARMLESS, "attention_bias": (True,)},
    Layout(
        GPT_NEOX_NAMES, "gpt_neox.", by_head=True,
        ignored=(
            "gpt_neox.layers.{i}.attention.bias", "gpt_neox.layers.{i}.attention.masked_bias",
            "gpt_neox.layers.{i}.attention.rotary_emb.inv_freq",
        ),
    ),
    GGUF(
        "gptneox", Layout(GGUF_JOINED), GGUF_EPSILON, {"parallel_residual": "use_parallel_residual"},
        only={"tie_embeddings": False}, computes="gelu_tanh",
    ),
    whole_heads=True, rotary=RotarySettings(fraction=0.25, names=("rotary_emb_base", "rotary_pct")),
)  # fmt: skip
