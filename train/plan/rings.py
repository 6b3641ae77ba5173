"""The devices among which a collective operation takes place, from the text of a compiled program."""

import re
from math import prod
from typing import NamedTuple

import numpy as np

LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}")
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=\w+\[([^\]]*)\][^{]*\{([^}]*)\}")
SIZED = re.compile(r"'([^']+)'=(\d+)")
PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


class Ring(NamedTuple):
    """A group of devices; all groups of an operation are alike."""

    ids: tuple[int, ...]  # of the first group

    @property
    def size(self) -> int:
        """The number of devices."""
        return len(self.ids)

    def on_one_node(self, per_node: float) -> int:
        """How many of its devices share a node with the first, where nodes have so many devices."""
        return sum(one // per_node == self.ids[0] // per_node for one in self.ids)


def ring_of(attributes: str, n_devices: int) -> Ring:
    """The first group of an operation with these attributes: listed, counted, or named by axes of a mesh.

    All devices where the attributes name none.
    """
    if found := LISTED.search(attributes):
        return Ring(tuple(_integers(found[1])))
    if found := COUNTED.search(attributes):
        shape, sizes, order = _integers(found[1]), _integers(found[2]), _integers(found[3] or "")
        ids = np.arange(prod(sizes)).reshape(sizes)
        return Ring(tuple(ids.transpose(order or range(len(sizes))).reshape(shape)[0].tolist()))
    if found := NAMED.search(attributes):
        return _along_axes(dict(SIZED.findall(found[1])), found[2])
    return Ring(tuple(range(n_devices)))


def _along_axes(mesh: dict[str, str], axes: str) -> Ring:
    """Along axes such as `'data', 'fsdp':(2)4`: whole ones, or the part of size 4 after the first 2 parts."""
    sizes: list[int] = []
    along: list[int] = []
    chosen = {name: (int(before or 1), int(size or mesh[name])) for name, before, size in PART.findall(axes)}
    for name, whole in mesh.items():
        before, size = chosen.get(name, (1, 1))
        if name in chosen:
            along.append(len(sizes) + 1)
        sizes += [before, size, int(whole) // (before * size)]
    ids = np.arange(prod(sizes)).reshape(sizes)
    return Ring(tuple(ids[tuple(slice(None) if i in along else 0 for i in range(len(sizes)))].flatten().tolist()))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
