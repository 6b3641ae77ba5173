"""Twins of `jaxllm.fast.cached_gpt`, in float64."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp
from jaxllm.reference.attention import repeat_heads_vjp, scaled_dot_product_attention_vjp


def grouped_attention(
    q: ArrayLike, keys: ArrayLike, values: ArrayLike, mask: ArrayLike, score: Any = None, t: ArrayLike | None = None,
    s: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Each key and value head repeated for the query heads that it serves; the mask is that of all heads."""
    return grouped_attention_vjp(q, keys, values, mask, score, t, s)[0]


@vjp
def grouped_attention_vjp(
    q: ArrayLike, keys: ArrayLike, values: ArrayLike, mask: ArrayLike, score: Any = None, t: ArrayLike | None = None,
    s: ArrayLike | None = None,
) -> Vjp:  # fmt: skip
    """A key or value head gathers what the query heads that it serves send back."""
    n_heads = np.shape(q)[-3]
    k, key_back = repeat_heads_vjp(float64(keys).swapaxes(-1, -2), n_heads)
    v, value_back = repeat_heads_vjp(values, n_heads)
    placed = None if score is None else _at(score, np.asarray(t)[..., None, :, None], np.asarray(s)[..., None, None, :])
    out, back = scaled_dot_product_attention_vjp(q, k, v, np.asarray(mask)[..., None, :, :], None, placed)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dq, dk, dv, *_ = back(dy)
        return dq, key_back(dk)[0].swapaxes(-1, -2), value_back(dv)[0], *(None,) * 4

    return out, pullback


def _at(score: Any, t: Array, s: Array) -> Any:
    """The score at these positions, whatever positions it is given."""
    return SimpleNamespace(
        function=lambda x, head, *_: score.function(x, head, t, s), vjp=lambda x, head, *_: score.vjp(x, head, t, s)
    )
