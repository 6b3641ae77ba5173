"""The shape of a GPT."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from jaxllm.errors import InputError
from jaxllm.validate import Fraction, NonNegative, check_fields


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT is made of. Frozen and hashable, so it can be a static argument of `jax.jit`.

    The defaults are GPT-2 124M (Radford et al. 2019); the bounds are above all that has been trained. Raises InputError
    for a value out of range or for sizes that do not fit together.
    """

    vocab_size: Annotated[int, Meta(ge=1, le=2**24)] = 50257  # V
    context_length: Annotated[int, Meta(ge=1, le=2**24)] = 1024  # T, the most tokens the model can look at
    d_model: Annotated[int, Meta(ge=1, le=2**17)] = 768  # D
    n_layers: Annotated[int, Meta(ge=1, le=1000)] = 12
    n_heads: Annotated[int, Meta(ge=1, le=1024)] = 12  # H; each head is K = D / H wide
    # Heads of keys and values (grouped-query attention); None: n_heads.
    n_kv_heads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    d_ff: Annotated[int, Meta(ge=1, le=2**20)] | None = None  # width of the hidden layer of the MLP; None: 4 D
    position: Literal["learned", "sinusoidal"] = "learned"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"
    dropout: Fraction = 0.0  # probability of dropping; active only where a dropout key is given
    tie_embeddings: bool = True  # the output head is the token table
    use_bias: bool = True  # in linear maps and norms
    separator: NonNegative | None = None  # id with which a document begins; no token attends to another document

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.d_model % self.n_heads:
            raise InputError(
                f"model.d_model is {self.d_model}, which is not divisible by model.n_heads = {self.n_heads}; "
                f"choose d_model as a multiple of {self.n_heads}."
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

    # Derived sizes are properties, not resolved fields: `dataclasses.replace(config, d_model=...)` stays right.
    @property
    def head_dim(self) -> int:
        """K, the width of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden layer of the MLP."""
        return self.d_ff or 4 * self.d_model
