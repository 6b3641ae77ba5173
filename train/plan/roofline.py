"""The time of a step by a stated model of chip and links.

- An instruction takes the longer of two times: its matrix products at the chip's peak, and the bytes that it reads and
  writes at the bandwidth of the chip's memory (the roofline model, Williams et al. 2009). One follows the other.
- Products on this machine reach the share of its peak that was measured for square matrices with as many operations
  per element. Other chips have no such figures, and their products run at the peak.
- A collective operation takes its bytes at the bandwidth of the links, in a ring. Between nodes of GPUs, the network
  adapters of a node share what crosses.
- The time of a step lies between two bounds: all transfers hidden behind computation, and none.

What is left out makes a step slower: products below a data sheet's peak, operations other than products that are bound
by arithmetic, latencies, launches, congestion, the loading of data, and evaluation, checkpoints and stops.
"""

from collections.abc import Iterable
from typing import Any

from .chips import Chip
from .costs import Cost

TIME_MODEL = """\
the time of a step is modelled:
  - an instruction takes the longer of its matrix products at the chip's peak and its traffic at the memory's bandwidth
  - on this machine products of small matrices reach a part of the peak, as measured for squares with as many
    operations per element
  - a collective takes the bytes that each device sends, in a ring, at the bandwidth of the links
  - the bounds of a step: all transfers hidden behind computation, and none; MFU is that of none
left out: products below a data sheet's peak, arithmetic other than products, latencies, launches, congestion, data,
evaluation, checkpoints and stops"""

Figures = dict[str, Any]  # numbers, and dicts of numbers


def spent(costs: Iterable[Cost], chip: Chip, dtype: str) -> Figures:
    """What a program costs each device of such chips: totals, and seconds by the model."""
    total = {"flops": 0.0, "memory_bytes": 0.0, "products_s": 0.0, "local_s": 0.0, "links_s": 0.0}
    sent: dict[str, float] = {}
    for one in costs:
        products_s = chip.products_s(one.flops, one.elements, dtype)
        total["flops"] += one.times * one.flops
        total["memory_bytes"] += one.times * one.memory
        total["products_s"] += one.times * products_s
        total["local_s"] += one.times * max(products_s, one.memory / chip.memory_per_s)
        if one.group is not None:
            name = f"{one.opcode} of {one.dtype} among {one.group.size}"
            sent[name] = sent.get(name, 0) + one.times * one.moved
            total["links_s"] += one.times * chip.links_s(one.moved, one.group)
    return total | {"sent_bytes": sent}


def extended(few: Figures, more: Figures, blocks: tuple[int, int], n: int) -> Figures:
    """The figures of a model of n blocks, on the line through those with `blocks` of them. No figure is below 0."""

    def at(a: float, b: float) -> float:
        return max(a + (b - a) * (n - blocks[0]) / (blocks[1] - blocks[0]), 0)

    return {
        name: extended(few.get(name, {}), value, blocks, n) if isinstance(value, dict) else at(few.get(name, 0), value)
        for name, value in (few | more).items()
        for value in [more.get(name, {} if isinstance(value, dict) else 0)]
    }
