"""The shape of a GPT."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

from msgspec import Meta

from jaxllm.config_rules import check_together
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea, check_given, n_arguments
from jaxllm.utils.validate import Fraction, NonNegative, PositiveFloat, check_fields

IDEAS = ("position", "visible", "score", "norm", "activation", "block", "logits")  # fields that take a function
WEIGHTS = ("float32", "bfloat16", "int8")  # dtypes in which a model's maps can be packed for generating


class Rotary(NamedTuple):
    """How queries and keys are rotated by their position: the arguments of `jaxllm.rotary`."""

    base: float = 10000.0
    interleaved: bool = False
    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_context: int = 8192
    scaling: str = "llama3"
    truncate: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a GPT. Frozen and hashable, so it can be a static argument of `jax.jit`.

    The defaults are GPT-2 124M (Radford et al. 2019). The bounds exceed the sizes of all trained models.
    One set of options describes all families: Llama is rotary, rms_norm, swiglu, n_kv_heads and use_bias = false.
    Raises InputError for a value out of range or for sizes that do not fit together.
    """

    vocab_size: Annotated[int, Meta(ge=1, le=2**24)] = 50257  # V, number of token ids
    context_length: Annotated[int, Meta(ge=1, le=2**24)] = 1024  # T, the most tokens the model can look at
    d_model: Annotated[int, Meta(ge=1, le=2**17)] = 768  # D, width of the residual stream
    n_layers: Annotated[int, Meta(ge=1, le=1000)] = 12  # number of blocks
    n_heads: Annotated[int, Meta(ge=1, le=1024)] = 12  # H, number of attention heads
    n_kv_heads: Annotated[int, Meta(ge=1, le=1024)] | None = None  # heads of keys and values; none: n_heads
    d_head: Annotated[int, Meta(ge=1, le=2**14)] | None = None  # K, width of a head; none: D / H
    d_ff: Annotated[int, Meta(ge=1, le=2**20)] | None = None  # width of the hidden layer of the MLP; none: 4 D
    mup_base_width: Annotated[int, Meta(ge=1, le=2**17)] | None = None  # muP: the D that a learning rate was tuned for
    position: Literal["learned", "sinusoidal", "rotary", "rotary_interleaved", "none"] | Idea = "learned"  # encoding
    rotary_fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of a head's features that are rotated (GPT-NeoX)
    rope_base: PositiveFloat = 10000.0  # of rotary positions, as are the next seven fields
    rope_scaling: Literal["llama3", "linear", "yarn"] = "llama3"  # how frequencies are slowed for a longer context
    rope_factor: Annotated[float, Meta(ge=1)] = 1.0  # by how much the context grew; 1: no scaling
    rope_low_frequency: PositiveFloat = 1.0  # turns in the original context below which pairs are slowed fully
    rope_high_frequency: PositiveFloat | None = None  # turns above which pairs are not slowed; none: 4, of YaRN 32
    rope_original_context: Annotated[int, Meta(ge=1, le=2**24)] = 8192  # the original context
    rope_truncate: bool = True  # whether the pairs between which YaRN mixes are rounded to whole numbers
    rope_attention_factor: PositiveFloat | None = None  # YaRN's, of rotated queries and keys; none: 1 + ln(factor) / 10
    rope_local_base: PositiveFloat | None = None  # of local layers, which are not scaled; none: rope_base (Gemma 3)
    rotary_pattern: Annotated[str, Meta(pattern="^[RN]{1,1000}$")] | None = None  # R: rotary, N: none; repeated
    sliding_window: Annotated[int, Meta(ge=1, le=2**24)] | None = None  # tokens that one attends to, itself included
    layer_pattern: Annotated[str, Meta(pattern="^[LG]{1,1000}$")] | None = None  # L: local, G: global; repeated
    visible: Idea | None = None  # (t, s, document_t, document_s) -> whether position t attends to s; none: s <= t
    score: Idea | None = None  # (score, head, t, s) -> the score of attention in its place, elementwise
    score_softcap: PositiveFloat | None = None  # cap of cap tanh(score / cap), in place of a score (Gemma 2)
    attention_scale: PositiveFloat | None = None  # of the scores q k; none: 1 / sqrt(K)
    norm: Literal["layer_norm", "rms_norm"] | Idea = "layer_norm"  # of the input of attention, MLP and head
    norm_epsilon: PositiveFloat = 1e-5  # added to the variance or mean square
    norm_place: Literal["before", "after", "both"] = "before"  # of attention and MLP (after: OLMo 2, both: Gemma 2)
    parallel_residual: bool = False  # whether the MLP reads what the attention reads, not its sum (GPT-NeoX)
    qk_norm: bool | Literal["whole"] = False  # RMSNorm of queries and keys: of each head, or of all at once (OLMo 2)
    activation: Literal["gelu_tanh", "gelu", "relu", "squared_relu", "swiglu", "geglu"] | Idea = "gelu_tanh"  # of MLPs
    n_experts: Annotated[int, Meta(ge=0, le=4096)] = 0  # E, gated MLPs of width d_ff in place of each MLP; 0: one MLP
    n_experts_per_token: Annotated[int, Meta(ge=1, le=4096)] = 2  # k, experts that a token passes through
    normalise_experts: bool = True  # whether the weights of a token's experts are divided by their sum
    block: Idea | None = None  # a Linen class in place of the block: (x, *carry, documents=None) -> x or (x, *carry)
    logits: Idea | None = None  # (logits) -> logits, elementwise, after the head
    logits_softcap: PositiveFloat | None = None  # cap of cap tanh(logit / cap), in place of logits (Gemma 2)
    n_classes: Annotated[int, Meta(ge=0, le=2**16)] = 0  # C, classes of a text, in place of the vocabulary; 0: none
    dropout: Fraction = 0.0  # probability of dropping an activation, in training only
    tie_embeddings: bool = True  # whether the output head is the token table
    scale_embeddings: bool = False  # whether token embeddings are multiplied by sqrt(D) (Gemma)
    ngrams: Annotated[int, Meta(ge=1, le=8)] = 1  # tokens of the longest n-gram that has an embedding; 1: none
    ngram_rows: Annotated[int, Meta(ge=1, le=2**24)] = 16384  # R, rows for the n-grams of each length from 2 on
    zero_init: bool = False  # whether maps that add to the residual stream, and an untied head, begin at zero
    use_bias: bool = True  # whether linear maps and norms have biases
    qkv_bias: bool | None = None  # whether the maps of queries, keys and values have; none: as use_bias (Qwen 2)
    separator: NonNegative | None = None  # id that begins a document; tokens attend within theirs

    takes_names: ClassVar[bool] = False  # whether an idea may still be the name of a function in a file

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if not self.takes_names:
            for name in IDEAS:
                check_given(getattr(self, name), f"model.{name}")
        check_together(self)

    # Derived sizes are properties, not resolved fields: `dataclasses.replace(config, d_model=...)` stays right.
    @property
    def head_dim(self) -> int:
        """K, the width of one head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden layer of the MLP."""
        return self.d_ff or 4 * self.d_model

    @property
    def width_ratio(self) -> float:
        """m of muP: how many times as wide as its base the model is; 1 in the standard parametrisation.

        The maximal update parametrisation (Yang et al. 2022, table 8) keeps the best learning rate where it is while
        the width grows. The maps of the blocks begin with a standard deviation 1 / sqrt(m) as large, and their learning
        rate is 1/m of the others' (`train.optimizer`). The head reads hidden states divided by m. Scores stay q k /
        sqrt(K): the width of a head has to stay that of the base, and the number of heads to grow.
        """
        return self.d_model / (self.mup_base_width or self.d_model)

    @property
    def rotary(self) -> Rotary | None:
        """How queries and keys are rotated; None where they are not."""
        if self.position not in ("rotary", "rotary_interleaved"):
            return None
        yarn = self.rope_scaling == "yarn"
        high = (32.0 if yarn else 4.0) if self.rope_high_frequency is None else self.rope_high_frequency
        scale = (self.rope_attention_factor or 1 + 0.1 * math.log(self.rope_factor)) if yarn else 1.0
        return Rotary(
            self.rope_base, self.position == "rotary_interleaved", self.rope_factor, self.rope_low_frequency, high,
            self.rope_original_context, self.rope_scaling, self.rope_truncate, scale,
        )  # fmt: skip

    def of_layer(self, i: int) -> "GPTConfig":
        """The config of block number i, from 0 on, with that layer's window and positions for all; no pattern is left.

        A local layer has the sliding window and perhaps another base of its rotary positions, which are then not
        scaled. A global one attends to all before it. A layer without positions tells places apart by the causal mask
        alone (Kazemnejad et al. 2023).
        """
        if self.layer_pattern is None and self.rotary_pattern is None:
            return self
        alike = replace(self, layer_pattern=None, rotary_pattern=None, rope_local_base=None)
        if _at(self.layer_pattern, i) == "G":
            alike = replace(alike, sliding_window=None)
        elif self.rope_local_base is not None:
            alike = replace(alike, rope_base=self.rope_local_base, rope_factor=1.0, rope_attention_factor=None)
        return replace(alike, position="none") if _at(self.rotary_pattern, i) == "N" else alike

    @property
    def adds_positions(self) -> bool:
        """Whether vectors of positions are added to the embeddings."""
        return self.rotary is None and self.position != "none"

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return is_gated(self.activation)

    @property
    def active_experts(self) -> int:
        """MLPs that a token passes through in a block."""
        return self.n_experts_per_token if self.n_experts else 1


def _at(pattern: str | None, i: int) -> str:
    """The letter of layer i; "" without a pattern."""
    return pattern[i % len(pattern)] if pattern else ""


def check_predicts_tokens(config: GPTConfig) -> None:
    """Raises InputError for a classifier, whose logits are of classes and not of tokens."""
    if config.n_classes:
        raise InputError(
            f"the model is a classifier of {config.n_classes} classes (model.n_classes), which predicts no tokens; "
            "give a text to `jaxllm classify`, or use a model with a head."
        )


def is_gated(activation: str | Idea) -> bool:
    """Whether an activation takes two arguments without a default, the gate and what passes it: (gate, up)."""
    if isinstance(activation, Idea):
        return n_arguments(activation) == 2
    return activation in ("swiglu", "geglu")
