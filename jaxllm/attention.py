"""The attention ladder: each rung is the one below plus one idea.

    simple_attention               every token looks at every token, no weights
    scaled_dot_product_attention   queries, keys and values of their own; the scale; a mask
    causal_dot_product_attention   the mask that hides what comes later
    SelfAttention                  learned linear maps make q, k, v
    CausalAttention                no looking ahead
    MultiHeadAttention             several heads side by side, mixed by an output map

Attention over another sequence (cross-attention) is the same function with k and v from there.
Leading axes `...` carry batches and heads.
`simple_attention_weights` and `attention_weights` are the weights alone, [..., T, S]: rows that sum to 1.
The NumPy twins are in `jaxllm.reference.attention`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from jaxllm.array import Array
from jaxllm.config import Rotary
from jaxllm.fast import has_fast_form
from jaxllm.intermediates import named
from jaxllm.layers import EPSILON, INIT_STD, Dropout, Linear, Norm, dropout, softmax
from jaxllm.precision import at_least_float32
from jaxllm.rotary import rotate_heads

Rule = Callable[..., Array]  # (t, s, document_t, document_s) -> whether position t may attend to position s
Score = Callable[..., Array]  # (score, head, t, s) -> the score in its place, elementwise


def simple_attention_weights(x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T T"]:
    """softmax(x x^T), in at least float32: row t is how much token t attends to each token."""
    return softmax(x @ jnp.swapaxes(x, -1, -2))


def simple_attention(x: Float[Array, "*batch T D"]) -> Float[Array, "*batch T D"]:
    """softmax(x x^T) x: basic dot-product attention without weights that are learned."""
    return simple_attention_weights(x).astype(x.dtype) @ x


def visible(
    t: Int[Array, "*#shape"], s: Int[Array, "*#shape"],
    document_t: Int[Array, "*#shape"] | None = None, document_s: Int[Array, "*#shape"] | None = None,
    window: int | None = None, rule: Rule | None = None,
) -> Bool[Array, "..."]:  # fmt: skip
    """Whether position t may attend to position s, elementwise.

    True where s <= t. With a `window`, only the last `window` positions are visible, t included: s > t - window
    (Beltagy et al. 2020; Mistral 7B). With documents, other documents are not visible. A `rule(t, s, document_t,
    document_s)` decides in place of all that. Every mask is made here.
    """
    if rule is not None:
        given = [t, s] if document_t is None or document_s is None else [t, s, document_t, document_s]
        return jnp.broadcast_to(rule(t, s, document_t, document_s), jnp.broadcast_shapes(*map(jnp.shape, given)))
    seen = s <= t
    if window is not None:
        seen = seen & (s > t - window)
    if document_t is not None:
        seen = seen & (document_t == document_s)
    return seen


def causal_mask(length: int, window: int | None = None, rule: Rule | None = None) -> Bool[Array, "{length} {length}"]:
    """Entry [t, s] is True where position t may attend to position s (`visible`)."""
    t = jnp.arange(length)
    return visible(t[:, None], t[None, :], window=window, rule=rule)


def document_numbers(
    tokens: Int[Array, "*batch T"], separator: int, texts: Int[Array, "*batch T"] | None = None
) -> Int[Array, "*batch T"]:
    """The number of each token's document in its row; one begins at each separator and where `texts` changes."""
    begins = tokens == separator
    if texts is not None:
        begins = begins | (jnp.diff(texts, axis=-1, prepend=texts[..., :1]) != 0)
    return jnp.cumsum(begins, axis=-1, dtype=jnp.int32)


def document_mask(
    documents: Int[Array, "*batch T"], window: int | None = None, rule: Rule | None = None
) -> Bool[Array, "*batch T T"]:
    """The causal mask of each row: entry [t, s] is True where `visible`, which needs the same document."""
    t = jax.lax.broadcasted_iota(jnp.int32, documents.shape, documents.ndim - 1)
    return visible(t[..., :, None], t[..., None, :], documents[..., :, None], documents[..., None, :], window, rule)


def change_scores(
    scores: Float[Array, "*batch T S"], score: Score, head: Int[Array, "..."] | None = None,
    t: Int[Array, "..."] | None = None, s: Int[Array, "..."] | None = None,
) -> Float[Array, "*batch T S"]:  # fmt: skip
    """Each score as `score(scores, head, t, s)` changes it, for example by a bias that falls with the distance.

    Heads and positions are arrays of integers that broadcast to the scores; if not given, the numbers along the axes
    of scores [..., H, T, S], or head 0 where there is no axis of heads. As the score_mod of FlexAttention (Dong et al.
    2024).
    """
    heads = scores.shape[-3] if scores.ndim > 2 else 1
    head = jnp.arange(heads).reshape(-1, *[1] * min(scores.ndim - 1, 2)) if head is None else head
    t = jnp.arange(scores.shape[-2])[:, None] if t is None else t
    s = jnp.arange(scores.shape[-1]) if s is None else s
    return jnp.broadcast_to(score(scores, head, t, s), scores.shape).astype(scores.dtype)


def attention_weights(
    q: Float[Array, "*#batch T K"], k: Float[Array, "*#batch S K"], mask: Bool[Array, "..."] | None = None,
    score: Score | None = None,
) -> Float[Array, "... T S"]:  # fmt: skip
    """softmax(q k^T / sqrt(K)) where the mask is True, 0 elsewhere, in at least float32.

    The mask is broadcast to [..., T, S]. A row without any True gives 1/S everywhere. Vaswani et al. 2017, equation 1.
    A `score` changes q k^T / sqrt(K) (`change_scores`). Raises ValueError where shapes or the dtype of the mask do not
    fit.
    """
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {q.shape} and k {k.shape} must agree in their last axis.")
    dtype = at_least_float32(q).dtype
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=dtype) * q.shape[-1] ** -0.5
    scores = scores if score is None else change_scores(scores, score)
    if mask is not None:
        if mask.dtype != bool:
            raise ValueError(f"the mask must be bool, True where attention is allowed, but it is {mask.dtype}.")
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, jnp.finfo(dtype).min)
    return softmax(scores)


def scaled_dot_product_attention(
    q: Float[Array, "*#batch T K"], k: Float[Array, "*#batch S K"], v: Float[Array, "*#batch S V"],
    mask: Bool[Array, "..."] | None = None, keep: Float[Array, "... T S"] | None = None, score: Score | None = None,
) -> Float[Array, "... T V"]:  # fmt: skip
    """softmax(q k^T / sqrt(K)) v in the dtype of v. Vaswani et al. 2017, equation 1.

    Mask and score are those of `attention_weights`; `keep` is a dropout mask for the weights. Raises ValueError
    where shapes do not fit.
    """
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k {k.shape} and v {v.shape} must have the same number of positions.")
    return _weighted_values(attention_weights(q, k, mask, score), v, keep)


def _weighted_values(weights: Array, v: Array, keep: Array | None) -> Array:
    return (weights if keep is None else dropout(weights, keep)).astype(v.dtype) @ v


@has_fast_form
def causal_dot_product_attention(
    q: Float[Array, "*batch T K"], k: Float[Array, "*batch T K"], v: Float[Array, "*batch T V"],
    documents: Int[Array, "*#batch T"] | None = None, window: int | None = None, rule: Rule | None = None,
    score: Score | None = None,
) -> Float[Array, "*batch T V"]:  # fmt: skip
    """`scaled_dot_product_attention` in which position t attends to the positions that are `visible` from it."""
    return scaled_dot_product_attention(q, k, v, _mask(q, documents, window, rule), score=score)


def _mask(q: Array, documents: Array | None, window: int | None, rule: Rule | None) -> Array:
    """The mask of causal attention, which broadcasts to [..., T, T], for queries [..., T, K]."""
    return causal_mask(q.shape[-2], window, rule) if documents is None else document_mask(documents, window, rule)


def split_heads(x: Float[Array, "*batch T F"], n_heads: int) -> Float[Array, "*batch {n_heads} T K"]:
    """Features as heads: head h has the K features from h K on."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], n_heads, -1), -2, -3)


def merge_heads(x: Float[Array, "*batch H T K"]) -> Float[Array, "*batch T F"]:
    """The inverse of `split_heads`: F = H K."""
    x = jnp.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], -1)


def repeat_heads(x: Float[Array, "*batch G T K"], n_heads: int) -> Float[Array, "*batch {n_heads} T K"]:
    """Each of G key or value heads, repeated for the H/G query heads that it serves.

    Grouped-query attention, Ainslie et al. 2023; G = 1 is multi-query attention.
    """
    return jnp.repeat(x, n_heads // x.shape[-3], axis=-3)


class SelfAttention(nn.Module):
    """Scaled dot-product attention with learned q, k, v maps; the mask is that of `attention_weights`.

    A `context` makes it cross-attention: keys and values come from there.
    """

    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch T D"], context: Float[Array, "*batch S C"] | None = None,
        mask: Bool[Array, "..."] | None = None,
    ) -> Float[Array, "*batch T {self.features}"]:  # fmt: skip
        context = x if context is None else context
        q = Linear(self.features, self.use_bias, name="query")(x)
        k = Linear(self.features, self.use_bias, name="key")(context)
        v = Linear(self.features, self.use_bias, name="value")(context)
        return scaled_dot_product_attention(q, k, v, mask)


class CausalAttention(SelfAttention):
    """SelfAttention that never looks ahead."""

    def __call__(  # type: ignore[override]  # a causal mask does not apply to another sequence
        self, x: Float[Array, "*batch T D"]
    ) -> Float[Array, "*batch T {self.features}"]:
        return super().__call__(x, mask=causal_mask(x.shape[-2]))


class MultiHeadAttention(nn.Module):
    """`n_heads` attentions side by side, then an output map.

    Causal by default; `causal=False` with a `context` is cross-attention. `features` None: D; `head_dim` None:
    features / n_heads. Causal attention stays within each document of `documents` and within the last `window` tokens.
    `visible` decides in place of that who may attend to whom (the `rule` of `jaxllm.attention.visible`), and `score`
    changes the scores. `rotary` rotates queries and keys by their positions; `qk_norm` normalises each of their heads
    before that or, if "whole", the features of all heads together. The weights [..., H, T, S] are an intermediate,
    computed only on request. Raises ValueError for features and heads that do not divide evenly.
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
    qk_norm: bool | str = False
    epsilon: float = EPSILON  # of the norm of queries and keys
    visible: Rule | None = None
    score: Score | None = None
    input_std: float = INIT_STD  # of the maps of queries, keys and values
    qkv_bias: bool | None = None  # of these maps; None: use_bias
    rotary_fraction: float = 1.0  # of a head's features that are rotated, the first ones
    scale: float | None = None  # of the scores q k; None: 1 / sqrt(K)

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch T D"], context: Float[Array, "*batch S C"] | None = None,
        documents: Int[Array, "*batch T"] | None = None,
    ) -> Float[Array, "*batch T F"]:  # fmt: skip
        q, k, v = self.heads(x, x if context is None else context)
        k, v = repeat_heads(k, self.n_heads), repeat_heads(v, self.n_heads)
        y = merge_heads(self.attend(q, k, v, documents))
        return Linear(self.features or x.shape[-1], self.use_bias, self.output_std, name="output")(y)

    @nn.nowrap
    def heads(
        self, x: Float[Array, "*batch T D"], context: Float[Array, "*batch S C"],
        positions: Int[Array, "*batch T"] | None = None,
    ) -> tuple[Float[Array, "*batch H T K"], Float[Array, "*batch G S K"], Float[Array, "*batch G S K"]]:  # fmt: skip
        """Queries, keys and values by head; the positions are 0 to T - 1 if not given."""
        groups = self.n_kv_heads or self.n_heads
        width = _head_width(self.features or x.shape[-1], self.n_heads, groups, self.head_dim)
        use_bias = self.use_bias if self.qkv_bias is None else self.qkv_bias
        of_inputs = partial(Linear, use_bias=use_bias, init_std=self.input_std)
        q = of_inputs(self.n_heads * width, name="query")(x)
        k, v = (of_inputs(groups * width, name=name)(context) for name in ("key", "value"))
        norm = partial(Norm, "rms_norm", False, self.epsilon)
        if self.qk_norm == "whole":
            q, k = norm(name="query_norm")(q), norm(name="key_norm")(k)
        q, k, v = split_heads(q, self.n_heads), split_heads(k, groups), split_heads(v, groups)
        if self.qk_norm is True:
            q, k = norm(name="query_norm")(q), norm(name="key_norm")(k)
        if self.rotary is not None:
            q, k = (rotate_heads(y, self.rotary, positions, self.rotary_fraction) for y in (q, k))
        q = q if self.scale is None else q * (self.scale * width**0.5)  # every form of attention divides by the root
        return q, k, v

    @nn.nowrap
    def attend(
        self, q: Float[Array, "*batch H T K"], k: Float[Array, "*batch H S K"], v: Float[Array, "*batch H S K"],
        documents: Int[Array, "*batch T"] | None,
    ) -> Float[Array, "*batch H T K"]:  # fmt: skip
        """The attention of each head, from the weights that `named` returns where these are not those it was given."""
        documents = None if documents is None else documents[..., None, :]  # the same for all heads
        mask = _mask(q, documents, self.window, self.visible) if self.causal else None
        keep = Dropout(self.dropout).mask((*q.shape[:-1], k.shape[-2]))
        if self.is_mutable_collection("intermediates"):
            weights = attention_weights(q, k, mask, self.score)
            if (changed := named(self, "weights", weights)) is not weights:
                return _weighted_values(changed, v, keep)
        if self.causal and keep is None:
            return causal_dot_product_attention(q, k, v, documents, self.window, self.visible, self.score)
        return scaled_dot_product_attention(q, k, v, mask, keep, self.score)


def _head_width(features: int, n_heads: int, n_kv_heads: int, head_dim: int | None) -> int:
    """K, the width of a head. Raises ValueError for sizes that do not divide evenly."""
    if (head_dim is None and features % n_heads) or n_heads % n_kv_heads:
        raise ValueError(f"{features} features, {n_heads} heads and {n_kv_heads} key heads do not divide evenly.")
    return head_dim or features // n_heads
