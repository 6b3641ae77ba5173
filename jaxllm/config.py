"""The shape of a GPT."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

from msgspec import Meta

from jaxllm.utils.errors import InputError, shown
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
    rope_base: PositiveFloat = 10000.0  # of rotary positions, as are the next seven fields
    rope_scaling: Literal["llama3", "linear", "yarn"] = "llama3"  # how frequencies are slowed for a longer context
    rope_factor: Annotated[float, Meta(ge=1)] = 1.0  # by how much the context grew; 1: no scaling
    rope_low_frequency: PositiveFloat = 1.0  # turns in the original context below which pairs are slowed fully
    rope_high_frequency: PositiveFloat | None = None  # turns above which pairs are not slowed; none: 4, of YaRN 32
    rope_original_context: Annotated[int, Meta(ge=1, le=2**24)] = 8192  # the original context
    rope_truncate: bool = True  # whether the pairs between which YaRN mixes are rounded to whole numbers
    rope_attention_factor: PositiveFloat | None = None  # YaRN's, of rotated queries and keys; none: 1 + ln(factor) / 10
    sliding_window: Annotated[int, Meta(ge=1, le=2**24)] | None = None  # tokens that one attends to, itself included
    visible: Idea | None = None  # (t, s, document_t, document_s) -> whether position t attends to s; none: s <= t
    score: Idea | None = None  # (score, head, t, s) -> the score of attention in its place, elementwise
    norm: Literal["layer_norm", "rms_norm"] | Idea = "layer_norm"  # of the input of attention, MLP and head
    norm_epsilon: PositiveFloat = 1e-5  # added to the variance or mean square
    qk_norm: bool = False  # an RMSNorm of each head's queries and keys before they are rotated (Qwen 3)
    activation: Literal["gelu_tanh", "gelu", "relu", "squared_relu", "swiglu", "geglu"] | Idea = "gelu_tanh"  # of MLPs
    n_experts: Annotated[int, Meta(ge=0, le=4096)] = 0  # E, gated MLPs of width d_ff in place of each MLP; 0: one MLP
    n_experts_per_token: Annotated[int, Meta(ge=1, le=4096)] = 2  # k, experts that a token passes through
    normalise_experts: bool = True  # whether the weights of a token's experts are divided by their sum
    block: Idea | None = None  # a Linen class in place of the block: (x, *carry, documents=None) -> x or (x, *carry)
    logits: Idea | None = None  # (logits) -> logits, elementwise, after the head
    n_classes: Annotated[int, Meta(ge=0, le=2**16)] = 0  # C, classes of a text, in place of the vocabulary; 0: none
    dropout: Fraction = 0.0  # probability of dropping an activation, in training only
    tie_embeddings: bool = True  # whether the output head is the token table
    scale_embeddings: bool = False  # whether token embeddings are multiplied by sqrt(D) (Gemma)
    ngrams: Annotated[int, Meta(ge=1, le=8)] = 1  # tokens of the longest n-gram that has an embedding; 1: none
    ngram_rows: Annotated[int, Meta(ge=1, le=2**24)] = 16384  # R, rows for the n-grams of each length from 2 on
    zero_init: bool = False  # whether maps that add to the residual stream, and an untied head, begin at zero
    use_bias: bool = True  # whether linear maps and norms have biases
    separator: NonNegative | None = None  # id that begins a document; tokens attend within theirs

    takes_names: ClassVar[bool] = False  # whether an idea may still be the name of a function in a file

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if not self.takes_names:
            for name in IDEAS:
                check_given(getattr(self, name), f"model.{name}")
        if self.visible is not None and self.sliding_window is not None:
            raise InputError(
                f"model.sliding_window is {self.sliding_window}, but model.visible decides what is visible; give one."
            )
        if self.d_head is None and self.d_model % self.n_heads:
            raise InputError(
                f"model.d_model is {self.d_model}, which is not divisible by model.n_heads = {self.n_heads}; "
                f"choose d_model as a multiple of {self.n_heads}, or give model.d_head."
            )
        if self.n_heads % self.kv_heads:
            raise InputError(
                f"model.n_heads is {self.n_heads}, which is not divisible by model.n_kv_heads = "
                f"{self.n_kv_heads}; each key head serves the same number of query heads."
            )
        if self.separator is not None and 0 < self.vocab_size <= self.separator:
            raise InputError(
                f"model.separator is {self.separator}, but the ids are 0 to {self.vocab_size - 1}; choose one of them."
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise InputError(
                f"model.d_model is {self.d_model}, but sinusoidal positions come in pairs; make d_model even."
            )
        if self.mup_base_width is not None and self.scale_embeddings:
            raise InputError(
                "model.scale_embeddings makes embeddings grow with the width, but model.mup_base_width = "
                f"{self.mup_base_width} is for those that do not; leave one of them out."
            )
        if self.n_experts:
            _check_experts(self)
        if self.rotary is not None and self.head_dim % 2:
            raise InputError(f"a head is {self.head_dim} wide, but rotary positions rotate pairs; make it even.")
        if self.rotary is not None and self.rope_factor != 1 and self.rope_scaling != "linear":
            _check_scaling(self.rotary)

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


def _check_experts(config: GPTConfig) -> None:
    """Raises InputError for options that a mixture of experts does not have."""
    if config.n_experts_per_token > config.n_experts:
        raise InputError(
            f"model.n_experts_per_token is {config.n_experts_per_token}, but there are only model.n_experts = "
            f"{config.n_experts}; choose fewer."
        )
    if config.activation not in ("swiglu", "geglu"):
        raise InputError(
            f"model.activation is {shown(config.activation)}, but experts are gated; choose swiglu or geglu, or set "
            "model.n_experts = 0."
        )
    if config.use_bias or config.mup_base_width is not None:
        field = "use_bias = true" if config.use_bias else f"mup_base_width = {config.mup_base_width}"
        raise InputError(f"model.{field} is not for experts; leave it out, or set model.n_experts = 0.")


def _check_scaling(rotary: Rotary) -> None:
    """Raises InputError for numbers with which Llama 3's scaling or YaRN's has no meaning."""
    if rotary.low_frequency >= rotary.high_frequency:
        raise InputError(
            f"model.rope_low_frequency is {rotary.low_frequency}, but it must be below "
            f"model.rope_high_frequency = {rotary.high_frequency}."
        )
    within = rotary.base > 1 and rotary.low_frequency >= 1e-6 and rotary.high_frequency <= 1e6
    if rotary.scaling == "yarn" and not within:
        raise InputError(
            f"model.rope_base is {rotary.base} and the frequencies are {rotary.low_frequency} and "
            f"{rotary.high_frequency}, but YaRN needs a base above 1 and frequencies from 1e-6 to 1e6; the usual ones "
            "are 10000, 1 and 32."
        )


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
