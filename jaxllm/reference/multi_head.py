"""Multi-head attention, and its backward: grouped heads, rotary positions, norms of queries and keys, and masks."""

from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, vjp
from jaxllm.reference.attention import (
    attention_weights,
    causal_mask,
    document_mask,
    merge_heads,
    repeat_heads,
    repeat_heads_vjp,
    scaled_dot_product_attention_vjp,
    split_heads,
)
from jaxllm.reference.layers import EPSILON, linear_map, linear_map_vjp, norm, norm_vjp
from jaxllm.reference.rotary import rotate_heads, rotate_heads_vjp


def _mask(causal: bool, documents: ArrayLike | None, window: int | None, visible: Any, length: int) -> Array | None:
    """The mask [T, T], or [..., 1, T, T] with documents, the same for all heads; None where all may attend to all."""
    if not causal:
        return None
    if documents is None:
        return causal_mask(length, window, visible)
    return document_mask(documents, window, visible)[..., None, :, :]


def multi_head_attention(
    params: Params,
    x: ArrayLike,
    n_heads: int,
    n_kv_heads: int | None = None,
    context: ArrayLike | None = None,
    causal: bool = True,
    documents: ArrayLike | None = None,
    window: int | None = None,
    rotary: Any = None,
    epsilon: float = EPSILON,
    seen: dict[str, Array] | None = None,
    visible: Any = None,
    score: Any = None,
    rotary_fraction: float = 1.0,
    whole_norms: bool = False,
    scale: float | None = None,
) -> Array:
    """Twin of the module `MultiHeadAttention`: x [..., T, D] -> [..., T, D].

    Queries and keys are normalised where `params` has norms for them, each head or, with `whole_norms`, all heads'
    features together, and rotated where `rotary` is given. `seen` is filled with the intermediates.
    """
    context = x if context is None else context
    seen = {} if seen is None else seen
    groups = n_kv_heads or n_heads
    heads = {}
    for name, source, n in (("query", x, n_heads), ("key", context, groups), ("value", context, groups)):
        seen[name] = linear_map(params[name], source)
        normed = seen[name] if whole_norms else split_heads(seen[name], n)
        if f"{name}_norm" in params:
            normed = seen[f"{name}_norm"] = norm(params[f"{name}_norm"], normed, "rms_norm", epsilon)
        heads[name] = split_heads(normed, n) if whole_norms else normed
    if rotary is not None:
        heads |= {name: rotate_heads(heads[name], rotary, None, rotary_fraction) for name in ("query", "key")}
    q, k = _scale(heads["query"], scale) * heads["query"], repeat_heads(heads["key"], n_heads)
    seen["weights"] = attention_weights(q, k, _mask(causal, documents, window, visible, q.shape[-2]), score)
    return linear_map(params["output"], merge_heads(seen["weights"] @ repeat_heads(heads["value"], n_heads)))


@vjp
def multi_head_attention_vjp(
    params: Params,
    x: ArrayLike,
    n_heads: int,
    n_kv_heads: int | None = None,
    context: ArrayLike | None = None,
    causal: bool = True,
    documents: ArrayLike | None = None,
    window: int | None = None,
    rotary: Any = None,
    epsilon: float = EPSILON,
    cotangents: dict[str, Array] | None = None,
    visible: Any = None,
    score: Any = None,
    rotary_fraction: float = 1.0,
    whole_norms: bool = False,
    scale: float | None = None,
) -> Vjp:
    """The backward of each line of the forward, from the last to the first.

    `cotangents` is filled with the gradients at the intermediates.
    """
    cotangents = {} if cotangents is None else cotangents
    groups = n_kv_heads or n_heads
    source = x if context is None else context
    rotate = None if rotary is None else partial(rotate_heads_vjp, rotary=rotary, fraction=rotary_fraction)
    query, query_back = _head_vjp(params, "query", x, n_heads, rotate, epsilon, whole_norms, cotangents)
    key, key_back = _head_vjp(params, "key", source, groups, rotate, epsilon, whole_norms, cotangents)
    value, value_back = linear_map_vjp(params["value"], source)
    k, repeat_back = repeat_heads_vjp(key, n_heads)
    v = repeat_heads(split_heads(value, groups), n_heads)
    mask = _mask(causal, documents, window, visible, query.shape[-2])
    times = _scale(query, scale)
    attended, attention_back = scaled_dot_product_attention_vjp(times * query, k, v, mask, None, score)
    y, output_back = linear_map_vjp(params["output"], merge_heads(attended))

    def pullback(dy: Array) -> tuple[Params | Array | None, ...]:
        d_output, d_merged = output_back(dy)
        dq, dk, dv, *_ = attention_back(split_heads(d_merged, n_heads))
        cotangents["value"] = merge_heads(repeat_back(dv)[0])  # values are repeated as keys are
        d_value, from_value = value_back(cotangents["value"])
        d_key, from_key = key_back(repeat_back(dk)[0])
        d_query, dx = query_back(times * dq)
        d_params = d_query | d_key | {"value": d_value, "output": d_output}
        if context is None:
            return d_params, dx + from_key + from_value, *(None,) * 14
        return d_params, dx, None, None, from_key + from_value, *(None,) * 11

    return y, pullback


def _scale(q: Array, scale: float | None) -> float:
    """The factor of queries [..., K] with which q k / sqrt(K) becomes q k times the scale."""
    return 1.0 if scale is None else scale * q.shape[-1] ** 0.5


def _head_vjp(
    params: Params, name: str, x: ArrayLike, n: int, rotate: Any, epsilon: float, whole: bool,
    cotangents: dict[str, Array],
) -> Vjp:  # fmt: skip
    """Queries or keys [..., n, T, K]: the linear map, the norm if there is one, the rotation; and back through each."""
    y, map_back = linear_map_vjp(params[name], x)
    y = y if whole else split_heads(y, n)
    normed = f"{name}_norm" in params
    if normed:
        y, norm_back = norm_vjp(params[f"{name}_norm"], y, "rms_norm", epsilon)
    y = split_heads(y, n) if whole else y
    rotated, rotate_back = (y, lambda dy: (dy,)) if rotate is None else rotate(y)

    def pullback(dy: Array) -> tuple[dict[str, Any], Array]:
        d_params = {}
        dy = rotate_back(dy)[0]
        dy = merge_heads(dy) if whole else dy
        if normed:
            cotangents[f"{name}_norm"] = dy
            d_params[f"{name}_norm"], dy = norm_back(dy)[:2]
        cotangents[name] = dy if whole else merge_heads(dy)
        d_params[name], dx = map_back(cotangents[name])
        return d_params, dx

    return rotated, pullback
