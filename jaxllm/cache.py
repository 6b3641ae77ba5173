"""The key/value cache: what attention keeps of the tokens read, so that each further token is read alone.

An explicit pytree of fixed shapes, handed in and given back, as in gemma; but rows of a batch are aligned at their
ends: a shorter prompt begins with padding, so that all rows write to the same slot, one small copy a layer, where
transformers' static cache scatters. Slots are never shifted (an update of a cache by itself is computed wrong by XLA on
a CPU up to jaxlib 0.12.0.1, openxla/xla#49176).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.config import GPTConfig


class LayerCache(NamedTuple):
    """Of one block: keys as they are compared, normed and turned, and values, each as attention's products read it."""

    keys: Array  # [B, G, K, S]
    values: Array  # [B, G, S, K]

    @property
    def capacity(self) -> int:
        """S, the number of slots."""
        return self.values.shape[-2]


class Place(NamedTuple):
    """Where the tokens that are being read stand."""

    slot: Array  # int32, of the first of them
    positions: Array  # [B, T] int32, in their rows
    visible: Array  # [B] int32, the first slot that the last of them may attend to

    def mask(self, cache: LayerCache, window: int | None) -> Array:
        """[B, 1, S] bool: which slots one token may attend to."""
        slots = jnp.arange(cache.capacity)
        near = slots <= self.slot if window is None else (slots <= self.slot) & (slots > self.slot - window)
        return (near[None] & (slots[None] >= self.visible[:, None]))[:, None]


class Cache(NamedTuple):
    """Keys and values of all blocks, in S slots of which `length` are filled."""

    layers: tuple[LayerCache, ...]
    start: Array  # [B] int32, the slot of each row's first token; those before hold padding
    visible: Array  # [B] int32, the first slot that a next token may attend to: the start, or the last separator's
    length: Array  # int32

    @classmethod
    def empty(cls, config: GPTConfig, start: Array, capacity: int, dtype: jnp.dtype | str = "float32") -> "Cache":
        """For rows [B] whose prompts will begin at slots `start`."""
        shape = (start.shape[0], config.kv_heads)
        keys, values = (config.head_dim, capacity), (capacity, config.head_dim)
        layers = tuple(
            LayerCache(jnp.zeros(shape + keys, dtype), jnp.zeros(shape + values, dtype)) for _ in range(config.n_layers)
        )
        start = start.astype(jnp.int32)
        return cls(layers, start, start, jnp.zeros((), jnp.int32))

    def place(self, tokens: Array, separator: int | None) -> Place:
        """That of the tokens [B, T] that are read next; a separator among them hides what was before it."""
        slots = self.length + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        positions = slots - self.start[:, None]
        visible = self.visible
        if separator is not None:
            begins = (tokens == separator) & (positions >= 0)
            visible = jnp.maximum(visible, jnp.where(begins, slots, 0).max(1))
        return Place(self.length, jnp.maximum(positions, 0), visible)

    def documents(self, tokens: Array, separator: int | None) -> Array:
        """Numbers [B, T] that part a first reading's padding from its tokens and, by the separator, documents."""
        slots = jnp.arange(tokens.shape[1])[None]
        begins = slots == self.start[:, None]
        if separator is not None:
            begins |= (slots > self.start[:, None]) & (tokens == separator)
        return jnp.cumsum(begins, axis=1, dtype=jnp.int32)

    def read(self, layers: list[LayerCache], place: Place) -> "Cache":
        """The cache after the tokens at the place have been read."""
        return Cache(tuple(layers), self.start, place.visible, self.length + place.positions.shape[1])


def extend(cache: LayerCache, keys: Array, values: Array, place: Place) -> LayerCache:
    """The cache with keys and values [B, G, T, K] at the place."""
    update = jax.lax.dynamic_update_slice_in_dim
    new_keys = jnp.swapaxes(keys, -1, -2).astype(cache.keys.dtype)
    new_values = values.astype(cache.values.dtype)
    return LayerCache(
        update(cache.keys, new_keys, place.slot, axis=3), update(cache.values, new_values, place.slot, axis=2)
    )
