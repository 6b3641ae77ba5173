"""The model families that are read and written, as data: their settings and the names of their tensors.

A family is a row: names and defaults of its settings (`hf_config`, `gguf_config` read them) and one layout of tensors
for each kind of file (`parameter_map` reads it). A new family of the same computations is a new row.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Paths = str | tuple[str, ...]  # of parameters of the GPT; a tensor holds several side by side
EMBEDDING, HEAD = "token_embedding/table", "head/kernel"


class Layout(NamedTuple):
    """How one kind of file names a family's tensors and stores them."""

    # Tensor to parameters, where {i} is the block and {e} an expert, the end of a path. A tensor whose parameters the
    # config lacks is left out.
    names: Mapping[str, Paths]
    prefix: str = ""  # of all names but the head's; a file of the model without its head omits it
    out_in: bool = True  # kernels are stored [out, in], while the GPT's are [in, out]; the head is always [out, in]
    offset: int = 0  # is added to a stored scale of a norm
    interleaved: bool = False  # rows of queries and keys are in the order of rotary pairs 2i, 2i + 1
    ignored: tuple[str, ...] = ()  # tensors that hold no weights
    # In place of the names with {e}, the expert, in a file that has these: the kernels of all experts in one tensor.
    stacked: Mapping[str, Paths] = {}


class Family(NamedTuple):
    """A family, in the terms of transformers' config.json and of llama.cpp's keys."""

    architecture: str  # of transformers
    model_type: str  # of transformers, and general.architecture of llama.cpp unless gguf_name is another
    settings: Mapping[str, str]  # field of GPTConfig: name in config.json
    defaults: Mapping[str, Any]  # of settings that config.json may omit; a setting without a default is required
    activations: Mapping[str, str]  # name in config.json: name in GPTConfig; the first of a value is written
    fixed: Mapping[str, Any]  # fields of GPTConfig that are the same in the whole family
    # Other settings that may change numbers: the values that do not, first the one that an omitted setting has.
    harmless: Mapping[str, tuple[Any, ...]]
    folder: Layout
    gguf: Layout | None  # None if llama.cpp has no architecture of that name
    gguf_epsilon: str = "attention.layer_norm_rms_epsilon"
    whole_heads: bool = False  # whether n_heads must divide d_model
    layer_types: bool = False  # whether a sliding window may apply to some layers only
    gguf_name: str = ""  # general.architecture of llama.cpp, where it is not model_type


def _attention(kind: str) -> tuple[str, ...]:
    return tuple(f"block_{{i}}/attention/{name}/{kind}" for name in ("query", "key", "value"))


LLAMA_NAMES: dict[str, Paths] = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.layers.{i}.input_layernorm.weight": "block_{i}/norm_1/scale",
    "model.layers.{i}.self_attn.q_proj.weight": "block_{i}/attention/query/kernel",
    "model.layers.{i}.self_attn.k_proj.weight": "block_{i}/attention/key/kernel",
    "model.layers.{i}.self_attn.v_proj.weight": "block_{i}/attention/value/kernel",
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
GPT2_NAMES: dict[str, Paths] = {
    "transformer.wte.weight": EMBEDDING,
    "transformer.wpe.weight": "position_embedding/table",
    "transformer.h.{i}.ln_1.weight": "block_{i}/norm_1/scale",
    "transformer.h.{i}.ln_1.bias": "block_{i}/norm_1/bias",
    "transformer.h.{i}.attn.c_attn.weight": _attention("kernel"),
    "transformer.h.{i}.attn.c_attn.bias": _attention("bias"),
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
GGUF_NAMES: dict[str, Paths] = {  # (ggml-org/llama.cpp, gguf-py/gguf/constants.py)
    "token_embd.weight": EMBEDDING,
    "position_embd.weight": "position_embedding/table",
    "blk.{i}.attn_norm.weight": "block_{i}/norm_1/scale",
    "blk.{i}.attn_norm.bias": "block_{i}/norm_1/bias",
    "blk.{i}.attn_output.weight": "block_{i}/attention/output/kernel",
    "blk.{i}.attn_output.bias": "block_{i}/attention/output/bias",
    "blk.{i}.attn_q_norm.weight": "block_{i}/attention/query_norm/scale",
    "blk.{i}.attn_k_norm.weight": "block_{i}/attention/key_norm/scale",
    "blk.{i}.ffn_norm.weight": "block_{i}/norm_2/scale",
    "blk.{i}.ffn_norm.bias": "block_{i}/norm_2/bias",
    "blk.{i}.ffn_gate.weight": "block_{i}/mlp/gate/kernel",
    "blk.{i}.ffn_up.weight": "block_{i}/mlp/up/kernel",
    "blk.{i}.ffn_up.bias": "block_{i}/mlp/up/bias",
    "blk.{i}.ffn_down.weight": "block_{i}/mlp/down/kernel",
    "blk.{i}.ffn_down.bias": "block_{i}/mlp/down/bias",
    "output_norm.weight": "norm_final/scale",
    "output_norm.bias": "norm_final/bias",
    "output.weight": HEAD,
}
GGUF_JOINED = GGUF_NAMES | {
    "blk.{i}.attn_qkv.weight": _attention("kernel"),
    "blk.{i}.attn_qkv.bias": _attention("bias"),
}
GGUF_APART = GGUF_NAMES | {
    f"blk.{{i}}.attn_{letter}.weight": path for letter, path in zip("qkv", _attention("kernel"), strict=True)
}
GGUF_EXPERTS = GGUF_APART | {
    "blk.{i}.ffn_gate_inp.weight": "block_{i}/mlp/router/kernel",
    "blk.{i}.ffn_gate_exps.weight": "block_{i}/mlp/gate/kernels",
    "blk.{i}.ffn_up_exps.weight": "block_{i}/mlp/up/kernels",
    "blk.{i}.ffn_down_exps.weight": "block_{i}/mlp/down/kernels",
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
HARMLESS = {
    "is_causal": (None, True), "original_max_position_embeddings": (None,), "quantization_config": (None,),
}  # fmt: skip
LLAMA_HARMLESS = {**HARMLESS, "attention_bias": (False, None)}
LLAMA_FOLDER = Layout(LLAMA_NAMES, "model.", ignored=("model.layers.{i}.self_attn.rotary_emb.inv_freq",))

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
    {
        "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu",
        "relu2": "squared_relu",
    },
    {"position": "learned", "norm": "layer_norm", "use_bias": True},
    {
        **HARMLESS, "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    Layout(
        GPT2_NAMES, "transformer.", out_in=False,
        ignored=("transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias"),
    ),
    Layout(GGUF_JOINED),
    gguf_epsilon="attention.layer_norm_epsilon", whole_heads=True,
)  # fmt: skip
LLAMA = Family(
    "LlamaForCausalLM", "llama", LLAMA_SETTINGS, LLAMA_DEFAULTS, GATED, LLAMA_FIXED,
    {**LLAMA_HARMLESS, "mlp_bias": (False, None)}, LLAMA_FOLDER,
    Layout(GGUF_APART, interleaved=True, ignored=("rope_freqs.weight",)), whole_heads=True,
)  # fmt: skip
MISTRAL = Family(
    "MistralForCausalLM", "mistral", {**LLAMA_SETTINGS, "sliding_window": "sliding_window"},
    {**LLAMA_DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096}, GATED, LLAMA_FIXED,
    {**HARMLESS, "layer_types": (None,)}, LLAMA_FOLDER, None,
)  # fmt: skip
QWEN3 = Family(
    "Qwen3ForCausalLM", "qwen3", LLAMA_SETTINGS, {**LLAMA_DEFAULTS, "num_key_value_heads": 32, "head_dim": 128}, GATED,
    {**LLAMA_FIXED, "qk_norm": True}, LLAMA_HARMLESS, LLAMA_FOLDER, Layout(GGUF_APART), layer_types=True,
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
    LLAMA_FOLDER._replace(names=EXPERT_NAMES, stacked=STACKED_EXPERTS), Layout(GGUF_EXPERTS), gguf_name="qwen3moe",
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
    LLAMA_FOLDER._replace(offset=1), Layout(GGUF_APART),  # a GGUF file has the offset added
)  # fmt: skip

FAMILIES = (GPT2, LLAMA, MISTRAL, QWEN3, QWEN3_MOE, GEMMA)
