"""The logit lens: the logits that the model would give if the stream ended at an inner block."""

from typing import Any

from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, float64, vjp
from jaxllm.reference.embeddings import token_logits, token_logits_vjp
from jaxllm.reference.layers import linear_map, linear_map_vjp, norm, norm_vjp
from jaxllm.reference.softcap import change_of_logits


def logit_lens(config: Any, params: Params, x: ArrayLike) -> Array:
    """norm(x) E^T / m with a tied table, norm(x) W / m with a head of its own: x [..., D] -> [..., V].

    m is `config.width_ratio`.
    """
    x = norm(params["norm_final"], x, config.norm, config.norm_epsilon) / config.width_ratio
    if config.tie_embeddings:
        logits = token_logits(params["token_embedding"]["table"], x)
    else:
        logits = linear_map(params["head"], x)
    change = change_of_logits(config)
    return logits if change is None else float64(change.function(logits))


@vjp
def logit_lens_vjp(config: Any, params: Params, x: ArrayLike) -> Vjp:
    """Back through the head, then through the norm."""
    x, norm_back = norm_vjp(params["norm_final"], x, config.norm, config.norm_epsilon)
    x = x / config.width_ratio
    if config.tie_embeddings:
        logits, head_back = token_logits_vjp(params["token_embedding"]["table"], x)
    else:
        logits, head_back = linear_map_vjp(params["head"], x)
    change = change_of_logits(config)
    logits, change_back = (logits, lambda dy: (dy,)) if change is None else change.vjp(logits)

    def pullback(dy: Array) -> tuple[None, Params, Array]:
        (dy,) = change_back(dy)
        d_head, d_normed = head_back(dy)
        d_norm, dx = norm_back(d_normed / config.width_ratio)[:2]
        head = {"token_embedding": {"table": d_head}} if config.tie_embeddings else {"head": d_head}
        return None, {"norm_final": d_norm, **head}, dx

    return logits, pullback
