"""The functions of a model, each the learner's or ours; ours of a larger one calls theirs of the smaller ones."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxllm import attention, embeddings, layers, loss

EPSILON = layers.EPSILON


class Parts:
    """Pure functions by the names of the course; a learner's function hides the method of its name.

    Arrays are JAX's, and a tree of parameters is that of `jaxllm.GPT`.
    """

    def __init__(self, theirs: Mapping[str, Callable[..., Any]]) -> None:
        vars(self).update(theirs)

    def token_embedding(self, table: Array, tokens: Array) -> Array:
        """table[tokens]."""
        return embeddings.token_embedding(table, tokens)

    def add_learned_positions(self, x: Array, table: Array) -> Array:
        """x and the first rows of the table."""
        return x + embeddings.learned_positions(table, x.shape[-2]).astype(x.dtype)

    def linear(self, x: Array, kernel: Array, bias: Array | None = None) -> Array:
        """x W + b."""
        return layers.linear(x, kernel, bias)

    def scaled_dot_product_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """softmax(q k^T / sqrt(K)) v where the mask allows."""
        return attention.scaled_dot_product_attention(q, k, v, mask)

    def causal_attention(self, q: Array, k: Array, v: Array) -> Array:
        """The same with no position attending to a later one."""
        return self.scaled_dot_product_attention(q, k, v, attention.causal_mask(q.shape[-2]))

    def multi_head_attention(self, params: Any, x: Array, n_heads: int) -> Array:
        """Causal attention of each head, between four linear maps."""
        q, k, v = (
            attention.split_heads(self.linear(x, params[name]["kernel"], params[name]["bias"]), n_heads)
            for name in ("query", "key", "value")
        )
        merged = attention.merge_heads(self.causal_attention(q, k, v))
        return self.linear(merged, params["output"]["kernel"], params["output"]["bias"])

    def layer_norm(self, x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
        """(x - mean) / sqrt(var + epsilon) scale + bias."""
        return layers.layer_norm(x, scale, bias, epsilon)

    def mlp(self, params: Any, x: Array) -> Array:
        """A GELU between two linear maps."""
        hidden = layers.gelu_tanh(self.linear(x, params["up"]["kernel"], params["up"]["bias"]))
        return self.linear(hidden, params["down"]["kernel"], params["down"]["bias"])

    def block(self, params: Any, x: Array, n_heads: int) -> Array:
        """x + attention(norm(x)), then x + mlp(norm(x))."""
        normed = self.layer_norm(x, params["norm_1"]["scale"], params["norm_1"]["bias"], EPSILON)
        x = x + self.multi_head_attention(params["attention"], normed, n_heads)
        normed = self.layer_norm(x, params["norm_2"]["scale"], params["norm_2"]["bias"], EPSILON)
        return x + self.mlp(params["mlp"], normed)

    def gpt(self, params: Any, tokens: Array, n_heads: int) -> Array:
        """tokens -> logits, with a head that shares the token table."""
        table = params["token_embedding"]["table"]
        x = self.add_learned_positions(self.token_embedding(table, tokens), params["position_embedding"]["table"])
        for i in range(sum(name.startswith("block_") for name in params)):
            x = self.block(params[f"block_{i}"], x, n_heads)
        x = self.layer_norm(x, params["norm_final"]["scale"], params["norm_final"]["bias"], EPSILON)
        return embeddings.token_logits(table, x)

    def cross_entropy(self, logits: Array, targets: Array) -> Array:
        """The mean loss in nats."""
        return jnp.asarray(loss.cross_entropy(logits, targets))
