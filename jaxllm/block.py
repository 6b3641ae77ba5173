"""A block of the GPT: attention and an MLP, each with its norm, added to the residual stream.

The NumPy twin is `jaxllm.reference.gpt.block`.
"""

from typing import TypeVar

from flax import linen as nn
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.attention import MultiHeadAttention
from jaxllm.config import GPTConfig
from jaxllm.intermediates import named
from jaxllm.layers import MLP, Dropout, Norm, hidden_std, residual_std

Attention = TypeVar("Attention", bound=MultiHeadAttention)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); `documents` as in attention."""

    config: GPTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        norm_1, attention, norm_2, mlp = self.parts(MultiHeadAttention)
        x = named(self, "residual_1", x + Dropout(self.config.dropout)(attention(norm_1(x), documents=documents)))
        return x + Dropout(self.config.dropout)(mlp(norm_2(x)))

    @nn.nowrap
    def parts(self, attention_class: type[Attention]) -> tuple[Norm, Attention, Norm, MLP]:
        """The modules of a block, in the order in which they are called."""
        c, input_std = self.config, hidden_std(self.config.width_ratio)
        output_std = residual_std(c.n_layers, c.zero_init, c.width_ratio)
        attention = attention_class(
            c.n_heads, c.n_kv_heads, use_bias=c.use_bias, dropout=c.dropout, output_std=output_std, input_std=input_std,
            head_dim=c.head_dim, window=c.sliding_window, rotary=c.rotary, qk_norm=c.qk_norm, epsilon=c.norm_epsilon,
            visible=c.visible, score=c.score, qkv_bias=c.qkv_bias, rotary_fraction=c.rotary_fraction, name="attention",
        )  # fmt: skip
        mlp = MLP(c.hidden_dim, c.activation, c.use_bias, output_std, input_std, name="mlp")
        norm_1, norm_2 = (Norm(c.norm, c.use_bias, c.norm_epsilon, name=f"norm_{i}") for i in (1, 2))
        return norm_1, attention, norm_2, mlp
