"""Value residual (Zhou et al. 2024): each block's values are averaged with those of the first: model.block."""

from flax import linen as nn

from jaxllm.attention import MultiHeadAttention, merge_heads, repeat_heads
from jaxllm.gpt import Block
from jaxllm.layers import Linear
from jaxllm.reference import attention, layers


class Attention(MultiHeadAttention):
    @nn.compact
    def __call__(self, x, first, documents):
        q, k, v = self.heads(x, x)
        first = v if first is None else first
        k, v = (repeat_heads(y, self.n_heads) for y in (k, (v + first) / 2))
        y = merge_heads(self.attend(q, k, v, documents))
        return Linear(x.shape[-1], self.use_bias, self.output_std, name="output")(y), first


class ValueResidual(Block):
    @nn.compact
    def __call__(self, x, first=None, documents=None):
        norm_1, attend, norm_2, mlp = self.parts(Attention)
        y, first = attend(norm_1(x), first, documents)
        return x + y + mlp(norm_2(x + y)), first


def ValueResidual_twin(config, params, x, first=None, documents=None):
    maps = params["attention"]
    y = layers.norm(params["norm_1"], x, config.norm, config.norm_epsilon)
    q, k, v = (attention.split_heads(layers.linear_map(maps[n], y), config.n_heads) for n in ("query", "key", "value"))
    first = v if first is None else first
    y = attention.causal_dot_product_attention(q, k, (v + first) / 2, documents)
    x = x + layers.linear_map(maps["output"], attention.merge_heads(y))
    return x + layers.mlp(params["mlp"], layers.norm(params["norm_2"], x, config.norm), config.activation), first
