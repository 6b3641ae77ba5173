"""The key/value cache: keys and values of the tokens that were read, so that each further token is read alone.

It is an explicit pytree of fixed shapes, an argument and a result. The rows of a batch are aligned at their ends: a
shorter prompt begins with padding, so that all rows write to the same slot, one small copy a layer. Padding is a
document of its own, number 0, which no token attends to. Slots are never shifted, because XLA on a CPU up to jaxlib
0.12.0.1 computes an update of a cache by itself wrong (openxla/xla#49176).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxllm.array import Array
from jaxllm.attention import Rule, visible
from jaxllm.config import GPTConfig


class LayerCache(NamedTuple):
    """One block's keys (normalised, rotated) and values, laid out as attention reads them."""

    keys: Float[Array, "B G K S"]
    values: Float[Array, "B G S K"]


class Place(NamedTuple):
    """Slots, positions and documents of the T tokens that are read."""

    slot: Int[Array, ""]  # of the first of them
    positions: Int[Array, "B T"]  # in their rows
    documents: Int[Array, "B T"]
    all_documents: Int[Array, "B S"]  # of all slots, these tokens included
    start: Int[Array, "B"]  # the slot of each row's first token
    latest: Int[Array, "B N+T"]  # these tokens and the N before them, of which n-grams are made
    latest_documents: Int[Array, "B N+T"]

    @property
    def all_positions(self) -> Int[Array, "B S"]:
        """The position of each slot in its row, negative for padding."""
        return jnp.arange(self.all_documents.shape[1]) - self.start[:, None]

    def mask(self, window: int | None, rule: Rule | None = None, within: bool = False) -> Bool[Array, "B T S"]:
        """Which slots each of the tokens may attend to (`jaxllm.attention.visible`).

        A rule is given positions in the row, and documents only where attention stays `within` them, as the model that
        reads the row alone gives them. Padding is never visible.
        """
        if rule is not None:
            own = self.documents[:, :, None] - 1 if within else None
            theirs = self.all_documents[:, None, :] - 1 if within else None
            seen = visible(self.positions[:, :, None], self.all_positions[:, None, :], own, theirs, rule=rule)
            return seen & (self.all_documents > 0)[:, None, :]
        t = self.slot + jnp.arange(self.documents.shape[1])
        s = jnp.arange(self.all_documents.shape[1])
        return visible(
            t[None, :, None], s[None, None, :], self.documents[:, :, None], self.all_documents[:, None, :], window
        )


class LaterPlace(Place):
    """The place of tokens that may attend to those that were read before, not to each other alone."""


class Cache(NamedTuple):
    """Keys and values of all blocks, in S slots of which `length` are filled."""

    layers: tuple[LayerCache, ...]
    start: Int[Array, "B"]  # the slot of each row's first token; those before hold padding
    documents: Int[Array, "B S"]  # 1 + the number of each filled slot's document, 0 where there is padding or nothing
    length: Int[Array, ""]
    latest: Int[Array, "B N"]  # the last tokens that were read, N = config.ngrams - 1

    @classmethod
    def empty(
        cls, config: GPTConfig, start: Int[Array, "B"], capacity: int, dtype: jnp.dtype | str = "float32"
    ) -> "Cache":
        """A cache of `capacity` slots for rows whose prompts will begin at slots `start`."""
        n_rows, groups, width = start.shape[0], config.kv_heads, config.head_dim
        layers = tuple(
            LayerCache(
                jnp.zeros((n_rows, groups, width, capacity), dtype), jnp.zeros((n_rows, groups, capacity, width), dtype)
            )
            for _ in range(config.n_layers)
        )
        documents = jnp.zeros((n_rows, capacity), jnp.int32)
        latest = jnp.zeros((n_rows, config.ngrams - 1), jnp.int32)
        return cls(layers, start.astype(jnp.int32), documents, jnp.zeros((), jnp.int32), latest)

    @property
    def capacity(self) -> int:
        """S, the number of slots."""
        return self.documents.shape[-1]

    def place(self, tokens: Int[Array, "B T"], separator: int | None, later: bool) -> Place:
        """The place of the tokens that are read next; each row begins document 1, and each separator the next."""
        slots = self.length + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        positions = slots - self.start[:, None]
        begins = positions == 0
        if separator is not None:
            begins = begins.astype(jnp.int32) + ((positions >= 0) & (tokens == separator))
        before = self.documents.max(axis=1, keepdims=True)  # numbers rise along a row
        documents = before + jnp.cumsum(begins, axis=1, dtype=jnp.int32)
        all_documents = jax.lax.dynamic_update_slice_in_dim(self.documents, documents, self.length, axis=1)
        latest = jnp.concatenate([self.latest, tokens], axis=1)
        slots = self.length + jnp.arange(-self.latest.shape[1], tokens.shape[1])  # below 0 as padding
        latest_documents = all_documents.at[:, slots].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        positions = jnp.maximum(positions, 0)
        kind = LaterPlace if later else Place
        return kind(self.length, positions, documents, all_documents, self.start, latest, latest_documents)

    def extended(self, layers: list[LayerCache], place: Place) -> "Cache":
        """The cache after the tokens at the place have been read into its layers."""
        n_read = place.positions.shape[1]
        length, latest = self.length + n_read, place.latest[:, n_read:]
        return Cache(tuple(layers), self.start, place.all_documents, length, latest)

    def with_first(self, n: Int[Array, ""], tokens: Int[Array, "B T"], before: "Cache") -> "Cache":
        """The cache after only the first n of the tokens, all of which were read into it when it was `before`.

        The slots of the others are free again: they are written before they are read.
        """
        length, latest = before.length + n, jnp.concatenate([before.latest, tokens], axis=1)
        latest = jax.lax.dynamic_slice_in_dim(latest, n, before.latest.shape[1], axis=1)
        documents = jnp.where(jnp.arange(self.capacity) < length, self.documents, 0)
        return Cache(self.layers, self.start, documents, length, latest)


def extend(
    cache: LayerCache, keys: Float[Array, "B G T K"], values: Float[Array, "B G T K"], place: Place
) -> LayerCache:
    """The cache with keys and values written at the place."""
    update = jax.lax.dynamic_update_slice_in_dim
    new_keys = jnp.swapaxes(keys, -1, -2).astype(cache.keys.dtype)
    new_values = values.astype(cache.values.dtype)
    return LayerCache(
        update(cache.keys, new_keys, place.slot, axis=3), update(cache.values, new_values, place.slot, axis=2)
    )
