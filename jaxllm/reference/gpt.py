"""The GPT: the block and the whole model, forward and backward."""

from typing import Any

from numpy.typing import ArrayLike

from jaxllm.reference import attention, embeddings, experts, layers, multi_head
from jaxllm.reference.arrays import Array, Params, Vjp, float64, vjp

Named = dict[str, Array]


def block(
    config: Any, params: Params, x: Array, documents: ArrayLike | None = None, seen: Named | None = None
) -> Array:
    """Twin of the module `Block`: x + attention(norm(x)), then x + mlp(norm(x)); [..., T, D] -> [..., T, D].

    `seen` is filled with the intermediates.
    """
    attended: Named = {}
    inside: Named = {}
    seen = {} if seen is None else seen
    seen["norm_1"] = layers.norm(params["norm_1"], x, config.norm, config.norm_epsilon)
    attention_out = multi_head.multi_head_attention(
        params["attention"], seen["norm_1"], config.n_heads, config.kv_heads, documents=documents, seen=attended,
        **_options(config),
    )  # fmt: skip
    seen |= {f"attention/{name}": value for name, value in attended.items()}
    seen["attention"] = attention_out
    seen["residual_1"] = x + attention_out
    seen["norm_2"] = layers.norm(params["norm_2"], seen["residual_1"], config.norm, config.norm_epsilon)
    mlp_out = _mlp(config, params["mlp"], seen["norm_2"], inside)
    seen |= {f"mlp/{name}": value for name, value in inside.items()}
    seen["mlp"] = mlp_out
    return seen["residual_1"] + seen["mlp"]


def _options(config: Any) -> dict[str, Any]:
    """The options of the attention that all blocks share."""
    return {
        "window": config.sliding_window, "rotary": config.rotary, "epsilon": config.norm_epsilon,
        "visible": config.visible, "score": config.score,
    }  # fmt: skip


def _mlp(config: Any, params: Params, x: Array, seen: Named) -> Array:
    """The MLP of a block, or its mixture of experts."""
    if not config.n_experts:
        return layers.mlp(params, x, config.activation, seen)
    return experts.mixture(params, x, config.n_experts_per_token, config.normalise_experts, config.activation, seen)


def _mlp_vjp(config: Any, params: Params, x: Array, cotangents: Named) -> Vjp:
    if not config.n_experts:
        return layers.mlp_vjp(params, x, config.activation, cotangents)
    options = config.n_experts_per_token, config.normalise_experts, config.activation
    return experts.mixture_vjp(params, x, *options, cotangents)


@vjp
def block_vjp(
    config: Any, params: Params, x: Array, documents: ArrayLike | None = None, cotangents: Named | None = None
) -> Vjp:
    """With y = x + f(norm(x)), dx is dy plus dy taken back through f and the norm; so for both halves of the block.

    `cotangents` is filled with the gradients at the intermediates, by name.
    """
    attended: Named = {}
    inside: Named = {}
    norm_1, norm_1_back = layers.norm_vjp(params["norm_1"], x, config.norm, config.norm_epsilon)
    attention_out, attention_back = multi_head.multi_head_attention_vjp(
        params["attention"], norm_1, config.n_heads, config.kv_heads, documents=documents, cotangents=attended,
        **_options(config),
    )  # fmt: skip
    residual = x + attention_out
    norm_2, norm_2_back = layers.norm_vjp(params["norm_2"], residual, config.norm, config.norm_epsilon)
    mlp_out, mlp_back = _mlp_vjp(config, params["mlp"], norm_2, inside)

    def pullback(dy: Array) -> tuple[None, Params, Array, None, None]:
        d_mlp, d_norm_2, *_ = mlp_back(dy)
        d_scale_2, through_mlp = norm_2_back(d_norm_2)[:2]
        d_residual = dy + through_mlp
        d_attention, d_norm_1, *_ = attention_back(d_residual)
        d_scale_1, through_attention = norm_1_back(d_norm_1)[:2]
        if cotangents is not None:
            cotangents["mlp"] = dy
            cotangents.update({f"mlp/{name}": value for name, value in inside.items()})
            cotangents["norm_2"], cotangents["residual_1"], cotangents["attention"] = d_norm_2, d_residual, d_residual
            cotangents.update({f"attention/{name}": value for name, value in attended.items()})
            cotangents["norm_1"] = d_norm_1
        d_params = {"norm_1": d_scale_1, "attention": d_attention, "norm_2": d_scale_2, "mlp": d_mlp}
        return None, d_params, d_residual + through_attention, None, None

    return residual + mlp_out, pullback


def forward_with_intermediates(config: Any, params: Params, tokens: ArrayLike) -> tuple[Array, Named]:
    """Logits [B, T, V], or [B, T, C] of a classifier, and every intermediate.

    Their names are those of `jaxllm.gpt.apply_with_intermediates`. `config` is a GPTConfig, `params` the nested dict of
    the Linen model with arrays of any kind, `tokens` [B, T]. There is no dropout.
    """
    seen: Named = {}
    x = seen["token_embedding"] = embeddings.token_embedding(params["token_embedding"]["table"], tokens)
    documents = _documents(config, tokens)
    if config.ngrams > 1:
        x = x + embeddings.ngram_embedding(params["ngram_embedding"]["table"], tokens, config.ngrams, documents)
        seen["ngram_embedding"] = x
    x = x * config.d_model**0.5 if config.scale_embeddings else x
    if config.adds_positions:
        x = embeddings.position_embedding(params.get("position_embedding", {}), x, config.position)
        seen["position_embedding"] = x
    carry: list[Array] = []
    for i in range(config.n_layers):
        inside: Named = {}
        if config.block is None:
            x = block(config, params[f"block_{i}"], x, documents, inside)
        else:
            x, *carry = _own_block(config, params[f"block_{i}"], x, carry, documents)
        seen |= {f"block_{i}/{name}": value for name, value in inside.items()}
        seen[f"block_{i}"] = x
    x = seen["norm_final"] = layers.norm(params["norm_final"], x, config.norm, config.norm_epsilon)
    x = x / config.width_ratio
    head = _head(config)
    if head is None:
        logits = embeddings.token_logits(params["token_embedding"]["table"], x)
    else:
        logits = layers.linear_map(params[head], x)
    seen["logits"] = logits if config.logits is None else float64(config.logits.function(logits))
    return seen["logits"], seen


def _own_block(config: Any, params: Params, x: Array, carry: Any, documents: Array | None) -> tuple[Array, ...]:
    """x and what follows it, by the twin of a user's block: (config, params, x, *carry, documents=None)."""
    out = config.block.function(config, params, x, *carry, documents=documents)
    return out if isinstance(out, tuple) else (out,)


def _head(config: Any) -> str | None:
    """The name of the map that makes logits; None where it is the token table."""
    if config.n_classes:
        return "classifier"
    return None if config.tie_embeddings else "head"


def _documents(config: Any, tokens: ArrayLike) -> Array | None:
    """The document of each token, where attention stays within documents."""
    return None if config.separator is None else attention.document_numbers(tokens, config.separator)


def forward(config: Any, params: Params, tokens: ArrayLike) -> Array:
    """Logits [B, T, V] of tokens [B, T]."""
    return forward_with_intermediates(config, params, tokens)[0]


@vjp
def forward_vjp(config: Any, params: Params, tokens: ArrayLike, cotangents: Named | None = None) -> Vjp:
    """The chain rule from the logits back to the tables; the gradients of the parameters are a dict like `params`.

    A tied table is used twice, as embedding and as head, so its gradient is the sum of both. `cotangents` is filled
    with the gradients at the intermediates, by name, in the order of the backward: from the logits down. There is none
    for a user's own block.
    """
    cotangents = {} if cotangents is None else cotangents
    table = params["token_embedding"]["table"]
    x, embedding_back = embeddings.token_embedding_vjp(table, tokens)
    documents, backs = _documents(config, tokens), []
    if config.ngrams > 1:
        table_of_ngrams = params["ngram_embedding"]["table"]
        ngrams, ngrams_back = embeddings.ngram_embedding_vjp(table_of_ngrams, tokens, config.ngrams, documents)
        x = x + ngrams
    scale = config.d_model**0.5 if config.scale_embeddings else 1.0
    x = x * scale
    if config.adds_positions:
        x, position_back = embeddings.position_embedding_vjp(params.get("position_embedding", {}), x, config.position)
    for i in range(config.n_layers):
        inside: Named = {}
        x, back = block_vjp(config, params[f"block_{i}"], x, documents, inside)
        backs.append((back, inside))
    x, norm_back = layers.norm_vjp(params["norm_final"], x, config.norm, config.norm_epsilon)
    x = x / config.width_ratio
    head = _head(config)
    if head is None:
        logits, head_back = embeddings.token_logits_vjp(table, x)
    else:
        logits, head_back = layers.linear_map_vjp(params[head], x)
    if config.logits is not None:
        logits, change_back = config.logits.vjp(logits)

    def pullback(dy: Array) -> tuple[None, Params, None, None]:
        cotangents["logits"] = dy
        dy = dy if config.logits is None else change_back(dy)[0]
        d_head, dx = head_back(dy)
        cotangents["norm_final"] = dx / config.width_ratio
        d_params: dict[str, Any] = {}
        d_params["norm_final"], dx = norm_back(cotangents["norm_final"])[:2]
        for i, (back, inside) in reversed([*enumerate(backs)]):
            cotangents[f"block_{i}"] = dx
            d_params[f"block_{i}"], dx = back(dx)[1:3]
            cotangents.update({f"block_{i}/{name}": value for name, value in inside.items()})
        if config.adds_positions:
            cotangents["position_embedding"] = dx
            d_positions, dx = position_back(dx)[:2]
            if config.position == "learned":
                d_params["position_embedding"] = d_positions
        dx = dx * scale
        if config.ngrams > 1:
            cotangents["ngram_embedding"] = dx
            d_params["ngram_embedding"] = {"table": ngrams_back(dx)[0]}
        cotangents["token_embedding"] = dx
        (d_table, _) = embedding_back(cotangents["token_embedding"])
        if head is not None:
            d_params[head] = d_head
        d_params["token_embedding"] = {"table": d_table + d_head if head is None else d_table}
        return None, d_params, None, None

    return logits, pullback
