"""The attention ladder: each rung is the one below plus one idea.

    simple_attention               every token looks at every token, no weights
    scaled_dot_product_attention   queries, keys and values of their own; the scale; a mask
    SelfAttention                  learned linear maps make q, k, v
    CausalAttention                no looking ahead
    MultiHeadAttention             several heads side by side, mixed by an output map

Attention over another sequence (cross-attention) is the same function with k and v from there.
As in equinox the kernel knows nothing of batches and heads: leading axes `...` carry them.
The NumPy twins are in `jaxllm.reference.attention`.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.lax import optimization_barrier

from jaxllm.cache import LayerCache, Place, extend
from jaxllm.config import Rotary
from jaxllm.fast.attention import causal_attention
from jaxllm.layers import EPSILON, INIT_STD, Dropout, Linear, Norm, dropout, softmax
from jaxllm.precision import at_least_float32
from jaxllm.rotary import rotary_frequencies, rotate


def simple_attention(x: Array) -> Array:
    """softmax(x x^T) x: basic dot-product attention without weights. [..., T, D] -> [..., T, D]."""
    return softmax(x @ jnp.swapaxes(x, -1, -2)).astype(x.dtype) @ x


def causal_mask(length: int, window: int | None = None) -> Array:
    """[T, T] bool: entry [t, s] is True where position t may attend to position s, that is s <= t.

    With a `window` only to the last so many, t itself among them: t - window < s (Beltagy et al. 2020; Mistral 7B).
    """
    seen = jnp.tril(jnp.ones((length, length), bool))
    return seen if window is None else seen & ~jnp.tril(seen, -window)


def document_numbers(tokens: Array, separator: int) -> Array:
    """Which document of its row each token belongs to, if one begins at each separator: [..., T] -> [..., T] int32."""
    return jnp.cumsum(tokens == separator, axis=-1, dtype=jnp.int32)


def document_mask(documents: Array, window: int | None = None) -> Array:
    """The causal mask within documents: [..., T] -> [..., T, T] bool, True where s <= t and both are of the same."""
    same = documents[..., :, None] == documents[..., None, :]
    return same & jnp.broadcast_to(causal_mask(documents.shape[-1], window), same.shape)


def attention_weights(q: Array, k: Array, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(K)) where the mask is True, 0 elsewhere.

    q [..., T, K], k [..., S, K], mask bool, broadcast to [..., T, S] -> [..., T, S], at least float32.
    A row without any True gives 1/S everywhere. Vaswani et al. 2017, equation 1.
    Raises ValueError where shapes or the dtype of the mask do not fit.
    """
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {q.shape} and k {k.shape} must agree in their last axis.")
    dtype = at_least_float32(q).dtype
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=dtype) * q.shape[-1] ** -0.5
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(f"the mask must be bool, True where attention is allowed, but it is {mask.dtype}.")
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, jnp.finfo(dtype).min)
    return softmax(scores)


def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, mask: Array | None = None, keep: Array | None = None
) -> Array:
    """softmax(q k^T / sqrt(K)) v, Vaswani et al. 2017, equation 1.

    q [..., T, K], k [..., S, K], v [..., S, V], mask bool [..., T, S] -> [..., T, V] in the dtype of v.
    `keep` is a dropout mask for the weights, [..., T, S]. Raises ValueError where shapes do not fit.
    """
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k {k.shape} and v {v.shape} must have the same number of positions.")
    weights = attention_weights(q, k, mask)
    return (weights if keep is None else dropout(weights, keep)).astype(v.dtype) @ v


def split_heads(x: Array, n_heads: int) -> Array:
    """[..., T, H K] -> [..., H, T, K]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], n_heads, -1), -2, -3)


def merge_heads(x: Array) -> Array:
    """[..., H, T, K] -> [..., T, H K], the inverse of `split_heads`."""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)


def repeat_heads(x: Array, n_heads: int) -> Array:
    """Each of G key or value heads serves H/G query heads: [..., G, T, K] -> [..., H, T, K].

    Grouped-query attention, Ainslie et al. 2023; G = 1 is multi-query attention.
    """
    return jnp.repeat(x, n_heads // x.shape[-3], axis=-3)


def grouped_attention(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Scaled dot-product attention in which each of G key and value heads serves H/G query heads, none of them copied.

    q [..., H, T, K], keys [..., G, K, S], as the cache holds them, values [..., G, S, V], mask bool [..., T, S], that
    of all heads -> [..., H, T, V] in the dtype of the values. Ainslie et al. 2023.
    """
    *lead, heads, length, width = q.shape
    groups, slots, dtype = keys.shape[-3], keys.shape[-1], at_least_float32(q).dtype
    scores = jnp.matmul(q.reshape(*lead, groups, -1, width), keys, preferred_element_type=dtype) * width**-0.5
    scores = scores.reshape(*lead, groups, heads // groups, length, slots)
    seen = jnp.broadcast_to(mask[..., None, None, :, :], scores.shape)
    weights = softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min)).astype(values.dtype)
    return (weights.reshape(*lead, groups, -1, slots) @ values).reshape(*lead, heads, length, -1)


class SelfAttention(nn.Module):
    """Scaled dot-product attention with learned q, k, v maps: [..., T, D] -> [..., T, features].

    `context` [..., S, D] makes it cross-attention: keys and values come from there.
    """

    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, mask: Array | None = None) -> Array:
        context = x if context is None else context
        q = Linear(self.features, self.use_bias, name="query")(x)
        k = Linear(self.features, self.use_bias, name="key")(context)
        v = Linear(self.features, self.use_bias, name="value")(context)
        return scaled_dot_product_attention(q, k, v, mask)


class CausalAttention(SelfAttention):
    """SelfAttention that never looks ahead: [..., T, D] -> [..., T, features]."""

    def __call__(self, x: Array) -> Array:  # type: ignore[override]  # a causal mask has no meaning elsewhere
        return super().__call__(x, mask=causal_mask(x.shape[-2]))


class MultiHeadAttention(nn.Module):
    """`n_heads` attentions side by side, then an output map: [..., T, D] -> [..., T, features].

    Causal by default; `causal=False` with `context` [..., S, D] is cross-attention. `features` None: D; `head_dim`
    None: features / n_heads. With `documents` [..., T] int, where it is causal, no token attends to another document;
    with a `window` only the last so many tokens are attended to. `rotary` turns queries and keys by their positions,
    `qk_norm` norms each of their heads before that.
    The weights [..., H, T, S] are sown as an intermediate, computed only where somebody asks for them.

    With a `cache` of the keys and values before, at a `place` (`jaxllm.cache`), the result is (y, the cache extended).
    """

    n_heads: int
    n_kv_heads: int | None = None
    features: int | None = None
    causal: bool = True
    use_bias: bool = True
    dropout: float = 0.0
    output_std: float = INIT_STD
    head_dim: int | None = None
    window: int | None = None
    rotary: Rotary | None = None
    qk_norm: bool = False
    epsilon: float = EPSILON  # of that norm

    @nn.compact
    def __call__(
        self, x: Array, context: Array | None = None, documents: Array | None = None,
        cache: LayerCache | None = None, place: Place | None = None,
    ) -> Any:  # fmt: skip
        features = self.features or x.shape[-1]
        q, k, v = self._heads(x, x if context is None else context, features, place)
        if cache is not None and place is not None:
            cache = extend(cache, k, v, place)
        if cache is not None and place is not None and x.shape[-2] == 1:
            keys, values = optimization_barrier(cache)  # or XLA updates a second cache, a copy, beside the first
            heads = grouped_attention(q, keys, values, place.mask(cache, self.window))
        else:  # also a prompt, before which there is nothing in the cache
            k, v = (repeat_heads(y, self.n_heads) for y in (k, v))
            heads = self._attend(q, k, v, documents)
        y = Linear(features, self.use_bias, self.output_std, name="output")(merge_heads(heads))
        return y if cache is None else (y, cache)

    def _heads(self, x: Array, context: Array, n_features: int, place: Place | None) -> list[Array]:
        """Queries [..., H, T, K], keys and values [..., G, S, K], normed and turned where that is asked for."""
        kv_heads = self.n_kv_heads or self.n_heads
        if (self.head_dim is None and n_features % self.n_heads) or self.n_heads % kv_heads:
            raise ValueError(
                f"{n_features} features, {self.n_heads} heads and {kv_heads} key heads do not divide evenly."
            )
        width = self.head_dim or n_features // self.n_heads
        heads = {"query": self.n_heads, "key": kv_heads, "value": kv_heads}
        features = {name: n * width for name, n in heads.items()}
        sources = zip(features.items(), (x, context, context), strict=True)
        maps = [Linear(n, self.use_bias, name=name)(y) for (name, n), y in sources]
        q, k, v = (split_heads(y, n) for y, n in zip(maps, heads.values(), strict=True))
        if self.qk_norm:
            q, k = (
                Norm("rms_norm", False, self.epsilon, name=f"{name}_norm")(y) for name, y in (("query", q), ("key", k))
            )
        if self.rotary is not None:
            q, k = (_turn(y, self.rotary, place) for y in (q, k))
        return [q, k, v]

    def _attend(self, q: Array, k: Array, v: Array, documents: Array | None) -> Array:
        """Attention among the tokens given, [..., H, T, K] -> [..., H, T, V]."""
        documents = None if documents is None else documents[..., None, :]  # the same for all heads
        mask = None
        if self.causal:
            length = q.shape[-2]
            mask = causal_mask(length, self.window) if documents is None else document_mask(documents, self.window)
        keep = Dropout(self.dropout).mask((*q.shape[:-1], k.shape[-2]))
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, mask))
        if self.causal and keep is None:
            return causal_attention(q, k, v, documents, self.window)  # the same, faster
        return scaled_dot_product_attention(q, k, v, mask, keep)


def _turn(x: Array, rotary: Rotary, place: Place | None) -> Array:
    """Queries or keys [..., T, K], turned by their positions."""
    base, interleaved, factor, low, high, original_context = rotary
    frequencies = rotary_frequencies(x.shape[-1], base, factor, low, high, original_context)
    positions = jnp.arange(x.shape[-2]) if place is None else place.positions[..., None, :]
    return rotate(x, positions, frequencies, interleaved)
