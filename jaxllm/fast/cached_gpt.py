"""Reading token by token through the key/value cache (`jaxllm.cache`), so that each token is computed once.

The modules have the parameters of those that they extend. `CachedGPT` returns for the last token the logits that
`jaxllm.gpt.GPT` returns for the whole text. It reads a prompt at once, then one token at a time.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import optimization_barrier
from jaxtyping import Bool, Float, Int

from jaxllm.array import Array
from jaxllm.attention import (
    MultiHeadAttention,
    Score,
    causal_dot_product_attention,
    change_scores,
    merge_heads,
    repeat_heads,
)
from jaxllm.cache import Cache, LayerCache, Place, extend
from jaxllm.gpt import GPT, Block, check_tokens
from jaxllm.layers import Linear, softmax
from jaxllm.precision import at_least_float32


def grouped_attention(
    q: Float[Array, "*batch H T K"], keys: Float[Array, "*batch G K S"], values: Float[Array, "*batch G S V"],
    mask: Bool[Array, "*batch T S"], score: Score | None = None, t: Int[Array, "*batch T"] | None = None,
    s: Int[Array, "*batch S"] | None = None,
) -> Float[Array, "*batch H T V"]:  # fmt: skip
    """`scaled_dot_product_attention` in which each of G key and value heads serves H/G query heads, without copies.

    The keys are laid out as in the cache; all heads share the mask. Ainslie et al. 2023. A `score` changes the scores
    of queries at positions t and keys at positions s, which are then given.
    """
    *lead, heads, length, width = q.shape
    groups, slots, dtype = keys.shape[-3], keys.shape[-1], at_least_float32(q).dtype
    scores = jnp.matmul(q.reshape(*lead, groups, -1, width), keys, preferred_element_type=dtype) * width**-0.5
    if score is not None:
        places = t[..., None, :, None], s[..., None, None, :]  # type: ignore[index]
        scores = change_scores(scores.reshape(*lead, heads, length, slots), score, None, *places)
    scores = scores.reshape(*lead, groups, heads // groups, length, slots)
    seen = jnp.broadcast_to(mask[..., None, None, :, :], scores.shape)
    weights = softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min)).astype(values.dtype)
    return (weights.reshape(*lead, groups, -1, slots) @ values).reshape(*lead, heads, length, -1)


class CachedAttention(MultiHeadAttention):
    """Causal `MultiHeadAttention` of the tokens at a place, and the cache with their keys and values.

    `within` says whether attention stays within documents. What `visible` lets look ahead cannot be read token by token
    (`jaxllm.fast.attention.looks_ahead`).
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: Float[Array, "B T D"], cache: LayerCache, place: Place, within: bool = False
    ) -> tuple[Float[Array, "B T F"], LayerCache]:
        q, k, v = self.heads(x, x, place.positions)
        cache = extend(cache, k, v, place)
        if x.shape[-2] == 1:
            keys, values = optimization_barrier(cache)  # without it XLA copies the cache and updates both
            changes = () if self.score is None else (self.score, place.positions, place.all_positions)
            y = grouped_attention(q, keys, values, place.mask(self.window, self.visible, within), *changes)
        else:  # a prompt, read into an empty cache
            k, v = repeat_heads(k, self.n_heads), repeat_heads(v, self.n_heads)
            y = self.read_prompt(q, k, v, place, within)
        y = merge_heads(y)
        return Linear(self.features or x.shape[-1], self.use_bias, self.output_std, name="output")(y), cache

    @nn.nowrap
    def read_prompt(
        self, q: Float[Array, "B H T K"], k: Float[Array, "B H T K"], v: Float[Array, "B H T K"], place: Place,
        within: bool,
    ) -> Float[Array, "B H T K"]:  # fmt: skip
        """The attention of each head among the tokens of the prompts.

        Where slots are not positions, a rule and a score are given rows that begin at slot 0, padding behind them.
        """
        documents, options = place.documents[..., None, :], (self.window, self.visible, self.score)
        if self.visible is None and self.score is None:
            return causal_dot_product_attention(q, k, v, documents, *options)
        moved = jax.vmap(partial(jnp.roll, axis=-2))
        q, k, v, numbers = (moved(x, -place.start) for x in (q, k, v, documents[..., None]))
        own = numbers[..., 0] - 1 if within else None
        return moved(causal_dot_product_attention(q, k, v, own, *options), place.start)


class CachedBlock(Block):
    """`Block` of the tokens at a place, without dropout, and the cache with their keys and values."""

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: Float[Array, "B T D"], cache: LayerCache, place: Place
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        norm_1, attention, norm_2, mlp = self.parts(CachedAttention)
        (before_1, after_1), (before_2, after_2) = self.around(norm_1), self.around(norm_2)
        y, cache = attention(before_1(x), cache, place, self.config.separator is not None)
        residual = x + after_1(y)
        read = x if self.config.parallel_residual else residual
        return residual + after_2(mlp(before_2(read))), cache


class CachedGPT(GPT):
    """The logits of the last token that is read, and the cache extended by the tokens.

    Any number of tokens, padding included, may be read into an empty cache; after that tokens are read one by one. The
    caller keeps each row within the context. Raises InputError for tokens that are not [B, T] integers or more than the
    cache holds.
    """

    block: type[nn.Module] | None = CachedBlock

    def __call__(  # type: ignore[override]
        self, tokens: Int[Array, "B T"], cache: Cache
    ) -> tuple[Float[Array, "B V"], Cache]:
        check_tokens(tokens, cache.capacity, "the cache's capacity")
        place = cache.place(tokens, self.config.separator)
        n_before = cache.latest.shape[1]
        x, layers = self.embed(place.latest, place.positions, place.latest_documents, n_before), []
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x, extended = cast(CachedBlock, block)(x, layer, place)
            layers.append(extended)
        return self.logits(self.normed(x[:, -1])), cache.extended(layers, place)
