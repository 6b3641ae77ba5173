"""Attention, from the basic form without weights to causal attention with one head; masks; and the layout of heads.

Queries are [..., T, K], keys [..., S, K], values [..., S, V]; a mask is True where a query may attend to a key.
A user's rule of what is visible, and change of the scores, are objects with `function(*args)` and, of a score,
`vjp(*args) -> (out, pullback)`.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, float64, sum_to, vjp
from jaxllm.reference.layers import dropout, dropout_vjp, linear_map, linear_map_vjp, softmax_vjp


def simple_attention_weights(x: ArrayLike) -> Array:
    """softmax(x x^T): [..., T, D] -> [..., T, T]."""
    return simple_attention_weights_vjp(x)[0]


@vjp
def simple_attention_weights_vjp(x: ArrayLike) -> Vjp:
    """With S = x x^T, x is query and key: dx = dS x + dS^T x, where dS is dP taken back through the softmax."""
    x = float64(x)
    weights, softmax_back = softmax_vjp(x @ x.swapaxes(-1, -2))

    def pullback(d_weights: Array) -> tuple[Array]:
        (d_scores,) = softmax_back(d_weights)
        return ((d_scores + d_scores.swapaxes(-1, -2)) @ x,)

    return weights, pullback


def simple_attention(x: ArrayLike) -> Array:
    """softmax(x x^T) x: [..., T, D] -> [..., T, D]."""
    return simple_attention_weights(x) @ float64(x)


@vjp
def simple_attention_vjp(x: ArrayLike) -> Vjp:
    """y = P x: dx is P^T dy (x as value) plus dP = dy x^T taken back through the weights (x as query and key)."""
    x = float64(x)
    weights, back = simple_attention_weights_vjp(x)
    return weights @ x, lambda dy: (weights.swapaxes(-1, -2) @ dy + back(dy @ x.swapaxes(-1, -2))[0],)


def visible(
    t: ArrayLike, s: ArrayLike, document_t: ArrayLike | None = None, document_s: ArrayLike | None = None,
    window: int | None = None, rule: Any = None,
) -> Array:  # fmt: skip
    """True where s <= t, with a window 0 <= t - s < window, and with documents where the two are equal.

    A rule decides in place of that.
    """
    if rule is not None:
        given = [np.asarray(x) for x in (t, s, document_t, document_s) if x is not None]
        return np.broadcast_to(
            rule.function(t, s, document_t, document_s), np.broadcast_shapes(*(x.shape for x in given))
        )
    distance = np.asarray(t) - np.asarray(s)
    seen = (distance >= 0) & (distance < (np.inf if window is None else window))
    return seen if document_t is None else seen & np.equal(document_t, document_s)  # type: ignore[arg-type]


@vjp
def visible_vjp(
    t: ArrayLike, s: ArrayLike, document_t: ArrayLike | None = None, document_s: ArrayLike | None = None,
    window: int | None = None, rule: Any = None,
) -> Vjp:  # fmt: skip
    """Neither integers nor bools have a derivative."""
    return visible(t, s, document_t, document_s, window, rule), lambda dy: (None,) * 6


def causal_mask(length: int, window: int | None = None, rule: Any = None) -> Array:
    """[T, T] bool: True where s <= t and, with a window, s > t - window."""
    t, s = np.indices((length, length))
    return visible(t, s, window=window, rule=rule)


@vjp
def causal_mask_vjp(length: int, window: int | None = None, rule: Any = None) -> Vjp:
    """Lengths have no derivative."""
    return causal_mask(length, window, rule), lambda dy: (None,) * 3


def document_numbers(tokens: ArrayLike, separator: int, texts: ArrayLike | None = None) -> Array:
    """How many documents of a row [..., T] begin up to each token: at separators and where `texts` changes."""
    begins = np.asarray(tokens) == separator
    if texts is not None:
        begins[..., 1:] |= np.asarray(texts)[..., 1:] != np.asarray(texts)[..., :-1]
    return np.cumsum(begins, axis=-1)


@vjp
def document_numbers_vjp(tokens: ArrayLike, separator: int, texts: ArrayLike | None = None) -> Vjp:
    """Integers have no derivative."""
    return document_numbers(tokens, separator, texts), lambda dy: (None, None, None)


def document_mask(documents: ArrayLike, window: int | None = None, rule: Any = None) -> Array:
    """[..., T, T] bool: `causal_mask` where s and t belong to the same document."""
    documents = np.asarray(documents)
    t, s = np.indices((documents.shape[-1],) * 2)
    return visible(t, s, documents[..., :, None], documents[..., None, :], window, rule)


@vjp
def document_mask_vjp(documents: ArrayLike, window: int | None = None, rule: Any = None) -> Vjp:
    """Integers have no derivative."""
    return document_mask(documents, window, rule), lambda dy: (None,) * 3


def change_scores(
    scores: ArrayLike, score: Any, head: ArrayLike | None = None, t: ArrayLike | None = None, s: ArrayLike | None = None
) -> Array:
    """score(scores, head, t, s) [..., H, T, S]; heads and positions not given are the numbers along their axes."""
    scores = float64(scores)
    return np.broadcast_to(score.function(scores, *_places(scores, head, t, s)), scores.shape)


def _places(scores: Array, head: ArrayLike | None, t: ArrayLike | None, s: ArrayLike | None) -> list[Array]:
    """Head, t and s of each score."""
    numbers = np.indices((1, *scores.shape)[-3:])  # without an axis of heads there is head 0
    numbers = numbers if scores.ndim > 2 else numbers[:, 0]
    return [n if x is None else np.asarray(x) for n, x in zip(numbers, (head, t, s), strict=True)]


@vjp
def change_scores_vjp(
    scores: ArrayLike, score: Any, head: ArrayLike | None = None, t: ArrayLike | None = None, s: ArrayLike | None = None
) -> Vjp:
    """As the score's own backward says."""
    scores = float64(scores)
    out, back = score.vjp(scores, *_places(scores, head, t, s))

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        return sum_to(float64(back(sum_to(dy, np.shape(out)))[0]), scores.shape), None, None, None, None

    return np.broadcast_to(out, scores.shape), pullback


def attention_weights(q: ArrayLike, k: ArrayLike, mask: ArrayLike | None = None, score: Any = None) -> Array:
    """softmax(q k^T / sqrt(K)) [..., T, S], where a masked score is the lowest finite number. Vaswani et al. 2017.

    The `score` changes the scores before they are masked.
    """
    return attention_weights_vjp(q, k, mask, score)[0]


@vjp
def attention_weights_vjp(q: ArrayLike, k: ArrayLike, mask: ArrayLike | None = None, score: Any = None) -> Vjp:
    """dq = dS k / sqrt(K) and dk = dS^T q / sqrt(K), where dS is dP taken back through the softmax, 0 where masked,
    and through the score."""
    q, k = float64(q), float64(k)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    changed, score_back = (scores, lambda d: (d,)) if score is None else change_scores_vjp(scores, score)
    weights, softmax_back = softmax_vjp(changed if mask is None else np.where(mask, changed, np.finfo(np.float64).min))

    def pullback(d_weights: Array) -> tuple[Array, Array, None, None]:
        (d_scores,) = softmax_back(d_weights)
        d_scores = score_back(d_scores if mask is None else np.where(mask, d_scores, 0))[0] / np.sqrt(q.shape[-1])
        return sum_to(d_scores @ k, q.shape), sum_to(d_scores.swapaxes(-1, -2) @ q, k.shape), None, None

    return weights, pullback


def scaled_dot_product_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, mask: ArrayLike | None = None, keep: ArrayLike | None = None,
    score: Any = None,
) -> Array:  # fmt: skip
    """softmax(q k^T / sqrt(K)) v: [..., T, V]. Vaswani et al. 2017, equation 1. `keep` is a mask for dropout."""
    weights = attention_weights(q, k, mask, score)
    return (weights if keep is None else dropout(weights, keep)) @ float64(v)


@vjp
def scaled_dot_product_attention_vjp(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, mask: ArrayLike | None = None, keep: ArrayLike | None = None,
    score: Any = None,
) -> Vjp:  # fmt: skip
    """y = P v, so dv = P^T dy and dP = dy v^T, which is taken back through dropout and the weights."""
    v = float64(v)
    weights, weights_back = attention_weights_vjp(q, k, mask, score)
    kept, dropout_back = (weights, lambda d: (d, None)) if keep is None else dropout_vjp(weights, keep)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dv = sum_to(kept.swapaxes(-1, -2) @ dy, v.shape)
        d_weights, d_keep = dropout_back(dy @ v.swapaxes(-1, -2))
        dq, dk, *_ = weights_back(sum_to(d_weights, weights.shape))
        return dq, dk, dv, None, d_keep, None

    return kept @ v, pullback


def _mask(q: ArrayLike, documents: ArrayLike | None, window: int | None, rule: Any) -> Array:
    """[T, T] or, with documents, [..., T, T]."""
    return causal_mask(np.shape(q)[-2], window, rule) if documents is None else document_mask(documents, window, rule)


def causal_dot_product_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, documents: ArrayLike | None = None, window: int | None = None,
    rule: Any = None, score: Any = None,
) -> Array:  # fmt: skip
    """`scaled_dot_product_attention` of what is visible."""
    return scaled_dot_product_attention(q, k, v, _mask(q, documents, window, rule), score=score)


@vjp
def causal_dot_product_attention_vjp(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, documents: ArrayLike | None = None, window: int | None = None,
    rule: Any = None, score: Any = None,
) -> Vjp:  # fmt: skip
    """As under any mask."""
    out, back = scaled_dot_product_attention_vjp(q, k, v, _mask(q, documents, window, rule), None, score)
    return out, lambda dy: (*back(dy)[:3], None, None, None, None)


def split_heads(x: ArrayLike, n_heads: int) -> Array:
    """[..., T, H K] -> [..., H, T, K]: head h holds the features from h K up to (h + 1) K."""
    return np.stack(np.split(float64(x), n_heads, axis=-1), axis=-3)


@vjp
def split_heads_vjp(x: ArrayLike, n_heads: int) -> Vjp:
    """A permutation of the numbers: each gradient returns to the place of its number."""
    return split_heads(x, n_heads), lambda dy: (merge_heads(dy), None)


def merge_heads(x: ArrayLike) -> Array:
    """[..., H, T, K] -> [..., T, H K]: the features of the heads one after the other."""
    x = float64(x)
    return np.concatenate([x[..., h, :, :] for h in range(x.shape[-3])], axis=-1)


@vjp
def merge_heads_vjp(x: ArrayLike) -> Vjp:
    """A permutation of the numbers: each gradient returns to the place of its number."""
    return merge_heads(x), lambda dy: (split_heads(dy, np.shape(x)[-3]),)


def repeat_heads(x: ArrayLike, n_heads: int) -> Array:
    """[..., G, S, K] -> [..., H, S, K]: query head h reads key head h G // H. Ainslie et al. 2023."""
    x = float64(x)
    groups = x.shape[-3]
    return np.stack([x[..., h * groups // n_heads, :, :] for h in range(n_heads)], axis=-3)


@vjp
def repeat_heads_vjp(x: ArrayLike, n_heads: int) -> Vjp:
    """The gradient of a key head is the sum over the query heads that read it."""

    def pullback(dy: Array) -> tuple[Array, None]:
        dx = np.zeros(np.shape(x))
        for h in range(n_heads):
            dx[..., h * dx.shape[-3] // n_heads, :, :] += dy[..., h, :, :]
        return dx, None

    return repeat_heads(x, n_heads), pullback


def self_attention(
    params: Params, x: ArrayLike, context: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Array:
    """Twin of the module `SelfAttention`."""
    context = x if context is None else context
    q, k, v = (
        linear_map(params[name], source) for source, name in ((x, "query"), (context, "key"), (context, "value"))
    )
    return scaled_dot_product_attention(q, k, v, mask)


@vjp
def self_attention_vjp(
    params: Params, x: ArrayLike, context: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Vjp:
    """Back through the attention, then through the three maps. Without a context, dx is the sum of all three."""
    source = x if context is None else context
    q, q_back = linear_map_vjp(params["query"], x)
    k, k_back = linear_map_vjp(params["key"], source)
    v, v_back = linear_map_vjp(params["value"], source)
    y, attention_back = scaled_dot_product_attention_vjp(q, k, v, mask)

    def pullback(dy: Array) -> tuple[Params, Array, Array | None, None]:
        dq, dk, dv, *_ = attention_back(dy)
        (d_query, dx), (d_key, from_key), (d_value, from_value) = q_back(dq), k_back(dk), v_back(dv)
        d_params = {"query": d_query, "key": d_key, "value": d_value}
        if context is None:
            return d_params, dx + from_key + from_value, None, None
        return d_params, dx, from_key + from_value, None

    return y, pullback


def causal_attention(params: Params, x: ArrayLike) -> Array:
    """Twin of the module `CausalAttention`."""
    return self_attention(params, x, mask=causal_mask(np.shape(x)[-2]))


@vjp
def causal_attention_vjp(params: Params, x: ArrayLike) -> Vjp:
    """`self_attention_vjp` with the mask."""
    return self_attention_vjp(params, x, mask=causal_mask(np.shape(x)[-2]))
