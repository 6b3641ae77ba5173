"""The GPT: embeddings, pre-norm blocks of attention and MLP, a final norm, a head.

By default GPT-2 (Radford et al. 2019; shapes and initialisation as in the released weights); the options of GPTConfig
make it a Llama, Mistral, Qwen 3 or Gemma. The NumPy twin is `jaxllm.reference.gpt`. Modules return arrays only; what
they saw on the way is captured from outside (`apply_with_intermediates`), so that looking inside costs a training step
nothing.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import module as linen
from flax.linen.initializers import normal
from flax.traverse_util import flatten_dict
from jax import Array

from jaxllm.attention import MultiHeadAttention, document_numbers
from jaxllm.cache import Cache, LayerCache, Place
from jaxllm.config import GPTConfig
from jaxllm.embeddings import PositionEmbedding, TokenEmbedding
from jaxllm.fast.quantised_weights import parameter
from jaxllm.layers import INIT_STD, MLP, Dropout, Norm, linear, residual_std
from jaxllm.loss import head_loss, token_losses
from jaxllm.precision import at_least_float32
from jaxllm.utils.errors import InputError


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): [B, T, D] -> [B, T, D]; `documents` [B, T] as in attention.

    With a `cache` at a `place`: (x, the cache extended).
    """

    config: GPTConfig

    @nn.compact
    def __call__(
        self, x: Array, documents: Array | None = None, cache: LayerCache | None = None, place: Place | None = None
    ) -> Any:
        c = self.config
        attention = MultiHeadAttention(
            c.n_heads, c.n_kv_heads, use_bias=c.use_bias, dropout=c.dropout, output_std=residual_std(c.n_layers),
            head_dim=c.head_dim, window=c.sliding_window, rotary=c.rotary, qk_norm=c.qk_norm, epsilon=c.norm_epsilon,
            name="attention",
        )  # fmt: skip
        mlp = MLP(c.hidden_dim, c.activation, c.use_bias, residual_std(c.n_layers), name="mlp")
        norm_1, norm_2 = (Norm(c.norm, c.use_bias, c.norm_epsilon, name=f"norm_{i}") for i in (1, 2))
        y = attention(norm_1(x), documents=documents, cache=cache, place=place)
        y, cache = (y, None) if cache is None else y
        x = x + Dropout(c.dropout)(y)
        self.sow("intermediates", "residual_1", x)
        x = x + Dropout(c.dropout)(mlp(norm_2(x)))
        return x if cache is None else (x, cache)


class Head(nn.Module):
    """The output head that shares nothing, kernel [D, V]: x [..., D] -> logits [..., V], or with targets their loss."""

    vocab_size: int

    @nn.compact
    def __call__(self, x: Array, targets: Array | None = None, weights: Array | None = None) -> Array:
        kernel = parameter(self, "kernel", normal(INIT_STD), (x.shape[-1], self.vocab_size))
        if targets is None:
            return at_least_float32(linear(x, kernel))
        return head_loss(kernel.T, x, targets, weights)


class GPT(nn.Module):
    """tokens [B, T] int -> logits [B, T, V] float32 (float64 where the parameters are).

    With `config.separator` a document begins at each such token, and no token attends to another document. Positions
    are counted through, as in the training of Llama 3 (Grattafiori et al. 2024, section 3.2).

    With a `cache` (`jaxllm.cache`): the logits of the last token alone [B, V], and the cache after these. The first
    reading into an empty cache may be of any length, padding included; after that tokens come one by one. The caller
    sees to it that no row grows beyond the context.

    With `targets` [B, T]: the sum of the token losses, times `weights` [B, T] where given, by `head_loss`, which needs
    far less memory than the logits; with interceptors active, by the logits that they may change (`summed_loss`).

    `init(key, tokens)["params"]` is a plain nested dict; `apply({"params": params}, tokens)` is a pure
    function. `dtype` is that of the computation, None for the parameters' own; the parameters stay as they are,
    and so does the sum of gradients into the token table. Dropout is active where a key is given:
    `apply({"params": params}, tokens, rngs={"dropout": key})`.

    Raises InputError for tokens that are not [B, T] integers or longer than the context. Token values are
    data on the device and are not checked: one outside the vocabulary makes the logits of its row NaN.
    """

    config: GPTConfig
    dtype: str | None = None
    remat: bool = False  # the backward computes each block a second time instead of keeping what it saw
    # Every block from one trace: starts sooner, but dropout draws other masks than without. Interceptors, which could
    # not tell the blocks apart, turn it off.
    trace_once: bool = False

    @nn.compact
    def __call__(
        self, tokens: Array, targets: Array | None = None, weights: Array | None = None, cache: Cache | None = None
    ) -> Any:
        c = self.config
        block = nn.remat(Block) if self.remat else Block
        intercepted = bool(interceptors())
        if self.trace_once and not intercepted and not self.is_initializing():  # which would draw other numbers
            block = nn.jit(block)
        _check_tokens(tokens, c.context_length, cache)
        place = None if cache is None else cache.place(tokens, c.separator)
        embedding = TokenEmbedding(c.vocab_size, c.d_model, name="token_embedding")
        x = embedding(tokens)
        x = x * c.d_model**0.5 if c.scale_embeddings else x
        if c.rotary is None:
            positions = None if place is None else place.positions
            x = PositionEmbedding(c.context_length, c.position, name="position_embedding")(x, positions)
        x = Dropout(c.dropout)(x if self.dtype is None else x.astype(self.dtype))
        if cache is None or place is None:
            documents = None if c.separator is None else document_numbers(tokens, c.separator)
            for i in range(c.n_layers):
                x = block(c, name=f"block_{i}")(x, documents)
        else:
            layers, documents = [], cache.documents(tokens, c.separator)
            for i, layer in enumerate(cache.layers):
                x, layer = block(c, name=f"block_{i}")(x, documents, layer, place)
                layers.append(layer)
            x, cache = x[:, -1], cache.read(layers, place)
        x = Norm(c.norm, c.use_bias, c.norm_epsilon, name="norm_final")(x)
        if not c.tie_embeddings:
            out = Head(c.vocab_size, name="head")(x, None if intercepted else targets, weights)
        elif targets is None or intercepted:
            out = embedding.logits(x)
        else:
            out = head_loss(embedding.table, x, targets, weights)
        if targets is not None and intercepted:
            out = _sum(token_losses(out, targets), weights)
        return out if cache is None else (out, cache)


def _sum(losses: Array, weights: Array | None) -> Array:
    return (losses if weights is None else losses * weights).sum()


def interceptors() -> tuple[Any, ...]:
    """The functions given to `nn.intercept_methods` that are active in this thread; flax tells it nowhere else."""
    return tuple(linen._global_interceptor_stack)


def summed_loss(
    model: GPT, params: Any, tokens: Array, targets: Array, weights: Array | None = None, rngs: Any = None
) -> Array:
    """The sum of the token losses, times `weights` [B, T] where given: tokens and targets [B, T] int -> scalar.

    As `model.apply` with targets, but with interceptors active of the logits that `model.apply` returns without, so
    that one that changes them at the model itself is honoured too. `rngs` are those of `apply`.
    """
    if not interceptors():
        return cast(Array, model.apply({"params": params}, tokens, targets, weights, rngs=rngs))
    logits = cast(Array, model.apply({"params": params}, tokens, rngs=rngs))
    return _sum(token_losses(logits, targets), weights)


def _check_tokens(tokens: Array, context_length: int, cache: Cache | None) -> None:
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(f"tokens must be integers of shape [B, T], but they are {tokens.dtype} {tuple(tokens.shape)}.")
    if cache is not None:  # which may hold padding beside a whole context
        context_length = cache.layers[0].capacity
    if tokens.shape[1] > context_length:
        raise InputError(
            f"{tokens.shape[1]} tokens are more than the model's context_length = {context_length}; "
            "shorten them or use a model with a longer context."
        )


def apply_with_intermediates(model: GPT, params: dict, tokens: Array) -> tuple[Array, dict[str, Array]]:
    """Logits [B, T, V] and what every module returned on the way, by path.

    Keys: token_embedding, position_embedding (their sum), for each block block_0/norm_1,
    block_0/attention/query, .../key, .../value, .../weights [B, H, T, T], block_0/attention (its result),
    block_0/residual_1, block_0/norm_2, block_0/mlp/up, block_0/mlp, block_0 (its result), then norm_final, logits.
    """
    logits, state = model.apply({"params": params}, tokens, capture_intermediates=_is_named, mutable=["intermediates"])
    seen = {}
    for path, (value,) in flatten_dict(state["intermediates"]).items():
        path = path[:-1] if path[-1] == "__call__" else path
        seen["/".join(path) or "logits"] = value
    return logits, seen


def _is_named(module: nn.Module, method: str) -> bool:
    """Every module but dropout and last maps, whose result is their parent's."""
    return method == "__call__" and not isinstance(module, Dropout) and module.name not in ("output", "down", "head")


@lru_cache
def count_parameters(config: GPTConfig) -> int:
    """Number of parameters, by `jax.eval_shape` of a model of one block, since all are alike: no memory is spent."""
    model, tokens = GPT(replace(config, n_layers=1)), jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    return _size(params) + (config.n_layers - 1) * _size(params["block_0"])


def _size(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
