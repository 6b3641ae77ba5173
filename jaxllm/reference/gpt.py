"""The GPT: the block and the whole model, forward and backward."""

from typing import Any

from numpy.typing import ArrayLike

from jaxllm.reference import attention, embeddings, experts, layers, multi_head
from jaxllm.reference.arrays import Array, Params, Vjp, float64, vjp
from jaxllm.reference.softcap import change_of_logits, change_of_scores

Named = dict[str, Array]


def block(
    config: Any, params: Params, x: Array, documents: ArrayLike | None = None, seen: Named | None = None, layer: int = 0
) -> Array:
    """Twin of the module `Block`: x + attention(norm(x)), then x + mlp(norm(x)); [..., T, D] -> [..., T, D].

    `config` is that of the model, and `layer` the number of the block. `seen` is filled with the intermediates.
    """
    attended: Named = {}
    inside: Named = {}
    seen = {} if seen is None else seen

    def attention(y: Array) -> Array:
        options = _options(config, layer) | {"documents": documents, "seen": attended}
        return multi_head.multi_head_attention(params["attention"], y, config.n_heads, config.kv_heads, **options)

    def mlp(y: Array) -> Array:
        return _mlp(config, params["mlp"], y, inside)

    added = _half(config, params, ("norm_1", "attention"), attention, x, seen, attended)
    seen["residual_1"] = x + added
    read = x if config.parallel_residual else seen["residual_1"]
    return seen["residual_1"] + _half(config, params, ("norm_2", "mlp"), mlp, read, seen, inside)


def _half(config: Any, params: Params, names: tuple[str, str], f: Any, x: Array, seen: Named, inside: Named) -> Array:
    """f(norm(x)), norm(f(x)) or norm(f(norm(x))), for a function f with the intermediates `inside`."""
    norm, name = names
    if config.norm_place != "after":
        x = seen[norm] = layers.norm(params[norm], x, config.norm, config.norm_epsilon)
    y = f(x)
    seen.update({f"{name}/{key}": value for key, value in inside.items()})
    seen[name] = y
    if config.norm_place != "before":
        last = _last_norm(config, norm)
        y = seen[last] = layers.norm(params[last], y, config.norm, config.norm_epsilon)
    return y


def _last_norm(config: Any, norm: str) -> str:
    """The name of the norm of a result: the only one, or the second."""
    return norm if config.norm_place == "after" else f"{norm}_after"


def _options(config: Any, layer: int) -> dict[str, Any]:
    """The options of a block's attention."""
    window, rotary = config.sliding_window, config.rotary
    if config.layer_pattern is not None:
        kind = (config.layer_pattern * (layer + 1))[layer]
        window = window if kind == "L" else None
        if kind == "L" and rotary is not None and config.rope_local_base is not None:
            rotary = rotary._replace(base=config.rope_local_base, factor=1.0, scale=1.0)  # no scaling
    if config.rotary_pattern is not None and (config.rotary_pattern * (layer + 1))[layer] == "N":
        rotary = None
    return {
        "window": window, "rotary": rotary, "epsilon": config.norm_epsilon, "visible": config.visible,
        "score": change_of_scores(config), "rotary_fraction": config.rotary_fraction,
        "whole_norms": config.qk_norm == "whole", "scale": config.attention_scale,
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
    config: Any, params: Params, x: Array, documents: ArrayLike | None = None, cotangents: Named | None = None,
    layer: int = 0,
) -> Vjp:  # fmt: skip
    """With y = x + f(x), dx is dy plus dy taken back through f, its norms included; so for both halves of the block.

    In parallel, dy goes back through both halves, and each adds to dx. `cotangents` is filled with the gradients at the
    intermediates, by name.
    """
    attended: Named = {}
    inside: Named = {}
    found = {} if cotangents is None else cotangents

    def attention(y: Array) -> Vjp:
        options = _options(config, layer) | {"documents": documents, "cotangents": attended}
        return multi_head.multi_head_attention_vjp(params["attention"], y, config.n_heads, config.kv_heads, **options)

    def mlp(y: Array) -> Vjp:
        return _mlp_vjp(config, params["mlp"], y, inside)

    added, attention_back = _half_vjp(config, params, ("norm_1", "attention"), attention, x, found, attended)
    residual = x + added
    read = x if config.parallel_residual else residual
    added, mlp_back = _half_vjp(config, params, ("norm_2", "mlp"), mlp, read, found, inside)

    def pullback(dy: Array) -> tuple[None, Params, Array, None, None, None]:
        d_mlp, through_mlp = mlp_back(dy)
        found["residual_1"] = dy if config.parallel_residual else dy + through_mlp
        d_attention, through_attention = attention_back(found["residual_1"])
        dx = found["residual_1"] + through_attention
        dx = dx + through_mlp if config.parallel_residual else dx
        return None, d_attention | d_mlp, dx, None, None, None

    return residual + added, pullback


def _half_vjp(
    config: Any, params: Params, names: tuple[str, str], f_vjp: Any, x: Array, found: Named, inside: Named
) -> Vjp:
    """`_half`, and its backward to the gradients of its parameters and of x; `found` is filled with cotangents."""
    norm, name = names
    if config.norm_place != "after":
        x, before_back = layers.norm_vjp(params[norm], x, config.norm, config.norm_epsilon)
    y, f_back = f_vjp(x)
    last = _last_norm(config, norm)
    if config.norm_place != "before":
        y, after_back = layers.norm_vjp(params[last], y, config.norm, config.norm_epsilon)

    def pullback(dy: Array) -> tuple[Params, Array]:
        d_params: dict[str, Any] = {}
        if config.norm_place != "before":
            found[last] = dy
            d_params[last], dy = after_back(dy)[:2]
        found[name] = dy
        d_params[name], dy = f_back(dy)[:2]
        found.update({f"{name}/{key}": value for key, value in inside.items()})
        if config.norm_place != "after":
            found[norm] = dy
            d_params[norm], dy = before_back(dy)[:2]
        return d_params, dy

    return y, pullback


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
            x = block(config, params[f"block_{i}"], x, documents, inside, i)
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
    change = change_of_logits(config)
    seen["logits"] = logits if change is None else float64(change.function(logits))
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
        x, back = block_vjp(config, params[f"block_{i}"], x, documents, inside, i)
        backs.append((back, inside))
    x, norm_back = layers.norm_vjp(params["norm_final"], x, config.norm, config.norm_epsilon)
    x = x / config.width_ratio
    head = _head(config)
    if head is None:
        logits, head_back = embeddings.token_logits_vjp(table, x)
    else:
        logits, head_back = layers.linear_map_vjp(params[head], x)
    change = change_of_logits(config)
    if change is not None:
        logits, change_back = change.vjp(logits)

    def pullback(dy: Array) -> tuple[None, Params, None, None]:
        cotangents["logits"] = dy
        dy = dy if change is None else change_back(dy)[0]
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
