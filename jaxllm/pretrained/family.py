"""What a model family is, as data: a row of settings, and the names of its tensors in each kind of file."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

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
    by_head: bool = False  # whether a tensor of several parameters has those of the first head first, then the next's
    # In place of the names with {e}, the expert, in a file that has these: the kernels of all experts in one tensor.
    stacked: Mapping[str, Paths] = {}


class GGUF(NamedTuple):
    """A family in the terms of llama.cpp: its architecture, its keys, and what it computes without being told."""

    architecture: str  # the value of general.architecture
    layout: Layout
    epsilon: str = "attention.layer_norm_rms_epsilon"  # key of norm_epsilon, after the architecture
    keys: Mapping[str, str] = {}  # field of GPTConfig: key after the architecture, beside those of all families
    # Of keys that a file may omit. With None as the default a number 0 says the same.
    defaults: Mapping[str, Any] = {}
    fixed: Mapping[str, Any] = {}  # fields that have no key, because they are the same in the whole architecture
    # Further keys: the values that change no number, first the one that an omitted key has.
    harmless: Mapping[str, tuple[Any, ...]] = {}
    # Fields that llama.cpp computes with this value only, though a file could say another; such a file is not written.
    only: Mapping[str, Any] = {}
    whole_heads: bool = False  # whether llama.cpp's heads are d_model / n_heads wide in any case
    # The n_layers of the one size whose scores are scaled by sqrt(d_model / n_heads) in place of the width of a head.
    scaled_by_width: int | None = None
    computes: str | None = None  # the activation that llama.cpp computes in place of the family's


class Family(NamedTuple):
    """A family, in the terms of transformers' config.json, and of llama.cpp's keys (`gguf`)."""

    architecture: str  # of transformers
    model_type: str  # of transformers
    settings: Mapping[str, str]  # field of GPTConfig: name in config.json
    defaults: Mapping[str, Any]  # of settings that config.json may omit; a setting without a default is required
    activations: Mapping[str, str]  # name in config.json: name in GPTConfig; the first of a value is written
    fixed: Mapping[str, Any]  # fields of GPTConfig that are the same in the whole family
    # Other settings that may change numbers: the values that do not, first the one that an omitted setting has.
    harmless: Mapping[str, tuple[Any, ...]]
    folder: Layout
    gguf: GGUF | None  # None if llama.cpp has no architecture of its own for the family
    whole_heads: bool = False  # whether n_heads must divide d_model
    # How config.json says what differs from layer to layer (`jaxllm.pretrained.hf_layers`); None: nothing does.
    layers: Literal["qwen", "smollm3", "gemma", "gpt_neo"] | None = None
    rotary: "RotarySettings | None" = None  # None: base and scaling as in Llama


class RotarySettings(NamedTuple):
    """What a family's config.json says of rotary positions beyond base and scaling (`jaxllm.pretrained.hf_rotary`)."""

    base: float = 10000.0  # where it is omitted
    fraction: float | None = None  # of a head that is rotated, where it is omitted; None: all of it is, always
    local_base: float | None = None  # of local layers, where it is omitted; None: they have no base of their own
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor")  # of base and fraction, beside rope_parameters
    scaled: bool = True  # whether they may be scaled as Llama's; transformers reads every scaling of Phi-3 as LongRoPE


def attention_paths(leaf: str) -> tuple[str, ...]:
    """The paths of a leaf of the maps of queries, keys and values."""
    return tuple(f"block_{{i}}/attention/{name}/{leaf}" for name in ("query", "key", "value"))


HARMLESS = {
    "is_causal": (None, True), "original_max_position_embeddings": (None,), "quantization_config": (None,),
}  # fmt: skip
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
    "blk.{i}.attn_qkv.weight": attention_paths("kernel"),
    "blk.{i}.attn_qkv.bias": attention_paths("bias"),
}
GGUF_APART = GGUF_NAMES | {
    f"blk.{{i}}.attn_{letter}.{kind}": path
    for kind, leaf in (("weight", "kernel"), ("bias", "bias"))
    for letter, path in zip("qkv", attention_paths(leaf), strict=True)
}
GGUF_EXPERTS = GGUF_APART | {
    "blk.{i}.ffn_gate_inp.weight": "block_{i}/mlp/router/kernel",
    "blk.{i}.ffn_gate_exps.weight": "block_{i}/mlp/gate/kernels",
    "blk.{i}.ffn_up_exps.weight": "block_{i}/mlp/up/kernels",
    "blk.{i}.ffn_down_exps.weight": "block_{i}/mlp/down/kernels",
}
