"""Slips of how features are cut into heads and joined."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jaxllm.compare.foreign.slips.attending import Attending


def changes(config: Any, how: Attending) -> Iterator[tuple[str, str, Attending]]:
    """A name, a sentence and the attention of each slip."""
    if config.n_heads > 1:
        says = "equals ours with every n_heads-th feature in a head"
        yield "heads-by-feature", says, replace(how, split_by_feature=True)
        says = "equals ours with heads joined without moving the axis of positions"
        yield "heads-merged", says, replace(how, merge_reshaped=True)
        says = "equals ours with heads cut without moving the axis of positions"
        yield "heads-split", says, replace(how, split_reshaped=True)
        says = "equals ours with heads cut and joined without moving the axis of positions"
        yield "heads-split", says, replace(how, split_reshaped=True, merge_reshaped=True)
    if 1 < config.kv_heads < config.n_heads:
        says = "equals ours with the key heads tiled over the query heads, not each repeated"
        yield "heads-tiled", says, replace(how, tiled=True)
