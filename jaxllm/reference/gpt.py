"""Twin of `jaxllm.gpt`, in float64: the whole model on one page."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from jaxllm.reference import attention, embeddings, layers
from jaxllm.reference.layers import Array, Params


def block(config: Any, params: Params, x: Array, seen: dict[str, Array]) -> Array:
    """Twin of the module `Block`; `seen` is filled with the intermediates."""
    attended: dict[str, Array] = {}
    seen["norm_1"] = layers.norm(params["norm_1"], x, config.norm)
    seen["attention"] = attention.multi_head_attention(
        params["attention"], seen["norm_1"], config.n_heads, config.kv_heads, seen=attended
    )
    seen |= {f"attention/{name}": value for name, value in attended.items()}
    seen["residual_1"] = x + seen["attention"]
    seen["norm_2"] = layers.norm(params["norm_2"], seen["residual_1"], config.norm)
    seen["mlp/up"] = layers.linear(seen["norm_2"], **params["mlp"]["up"])
    seen["mlp"] = layers.mlp(params["mlp"], seen["norm_2"], config.activation)
    return seen["residual_1"] + seen["mlp"]


def forward_with_intermediates(
    config: Any, params: Mapping[str, Any], tokens: ArrayLike
) -> tuple[Array, dict[str, Array]]:
    """Logits [B, T, V] and every intermediate under the names of `jaxllm.gpt.apply_with_intermediates`.

    `config` is a GPTConfig; `params` the dict of the Linen model, as arrays of any kind; no dropout.
    """
    seen: dict[str, Array] = {}
    x = seen["token_embedding"] = embeddings.token_embedding(params["token_embedding"]["table"], tokens)
    x = embeddings.position_embedding(params.get("position_embedding", {}), x, config.position)
    seen["position_embedding"] = x
    for i in range(config.n_layers):
        inside: dict[str, Array] = {}
        x = block(config, params[f"block_{i}"], x, inside)
        seen |= {f"block_{i}/{name}": value for name, value in inside.items()}
        seen[f"block_{i}"] = x
    x = seen["norm_final"] = layers.norm(params["norm_final"], x, config.norm)
    if config.tie_embeddings:
        seen["logits"] = embeddings.token_logits(params["token_embedding"]["table"], x)
    else:
        seen["logits"] = layers.linear(x, **params["head"])
    return seen["logits"], seen


def forward(config: Any, params: Mapping[str, Any], tokens: ArrayLike) -> Array:
    """Logits: tokens [B, T] -> [B, T, V]."""
    return forward_with_intermediates(config, params, tokens)[0]
