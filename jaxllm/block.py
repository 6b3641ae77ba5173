"""A block of the GPT: attention and an MLP, each with its norm, added to the residual stream.

The NumPy twin is `jaxllm.reference.gpt.block`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from flax import linen as nn
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.attention import MultiHeadAttention
from jaxllm.config import GPTConfig
from jaxllm.experts import Experts
from jaxllm.intermediates import named
from jaxllm.layers import MLP, Dropout, Norm, hidden_std, residual_std
from jaxllm.softcap import change_of_scores

Attention = TypeVar("Attention", bound=MultiHeadAttention)
Map = Callable[[Array], Array]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); `documents` as in attention.

    `config.norm_place` "after" is x + norm(attention(x)) (OLMo 2), "both" x + norm(attention(norm(x))) (Gemma 2), and
    so for the MLP. With `config.parallel_residual` attention and MLP read the same x (Wang and Komatsuzaki 2021,
    GPT-J). The config is that of the layer (`GPTConfig.of_layer`).
    """

    config: GPTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        norm_1, attention, norm_2, mlp = self.parts(MultiHeadAttention)
        (before_1, after_1), (before_2, after_2) = self.around(norm_1), self.around(norm_2)
        attended = Dropout(self.config.dropout)(after_1(attention(before_1(x), documents=documents)))
        residual = named(self, "residual_1", x + attended)
        read = x if self.config.parallel_residual else residual
        return residual + Dropout(self.config.dropout)(after_2(mlp(before_2(read))))

    @nn.nowrap
    def parts(self, attention_class: type[Attention]) -> tuple[Norm, Attention, Norm, MLP | Experts]:
        """The modules of a block, in the order in which they are called where norms come before."""
        c, input_std = self.config, hidden_std(self.config.width_ratio)
        output_std = residual_std(c.n_layers, c.zero_init, c.width_ratio)
        attention = attention_class(
            c.n_heads, c.n_kv_heads, use_bias=c.use_bias, dropout=c.dropout, output_std=output_std, input_std=input_std,
            head_dim=c.head_dim, window=c.sliding_window, rotary=c.rotary, qk_norm=c.qk_norm, epsilon=c.norm_epsilon,
            visible=c.visible, score=change_of_scores(c), qkv_bias=c.qkv_bias, rotary_fraction=c.rotary_fraction,
            scale=c.attention_scale, name="attention",
        )  # fmt: skip
        if c.n_experts:
            sizes, activation = (c.n_experts, c.n_experts_per_token, c.hidden_dim), str(c.activation)
            mlp: Any = Experts(*sizes, activation, c.normalise_experts, output_std, input_std, name="mlp")
        else:
            mlp = MLP(c.hidden_dim, c.activation, c.use_bias, output_std, input_std, name="mlp")
        return self._norm("norm_1"), attention, self._norm("norm_2"), mlp

    @nn.nowrap
    def around(self, norm: Norm) -> tuple[Map, Map]:
        """What attention or MLP has before and after it: the norm on one side, or another one on the other side too."""
        if self.config.norm_place == "after":
            return _unchanged, norm
        return norm, self._norm(f"{norm.name}_after") if self.config.norm_place == "both" else _unchanged

    @nn.nowrap
    def _norm(self, name: str) -> Norm:
        return Norm(self.config.norm, self.config.use_bias, self.config.norm_epsilon, name=name)


def _unchanged(x: Array) -> Array:
    return x
