"""Chips as data: what each computes, holds and sends, by its maker's own figures.

A TPU's links join it to its neighbours on a torus. A GPU's join it to the others of its node, and each GPU has a
network adapter to other nodes. Bytes a second over links are those that a chip sends in a ring: on a torus both ways
along one axis, which is two of its links; by NVLink half of the stated rate, which counts both directions.

Google's pages give the rate of all links of a TPU in both directions, 4 in a flat torus, 6 in a deep one; for v4 they
give none, so it is that of Austin et al. 2025, "How to Scale Your Model". The sources of a GPU are NVIDIA's data sheets
and its guides to DGX systems: for each GPU, DGX A100 has a ConnectX-6 of 200 Gb/s, later ones a ConnectX-7 of 400 Gb/s.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from jaxllm.utils.errors import InputError, nearest

from .rings import Ring

TERA, GIGA = 10**12, 10**9
SHEETS, DGX = "NVIDIA's data sheets of", "docs.nvidia.com/dgx"
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
DEEP = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16",
}  # fmt: skip


class Curve(NamedTuple):
    """A figure that was measured at some places, and lies on lines between them, over the logarithm of the place."""

    places: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, place: float) -> float:
        """The value at a place; beyond the outermost ones theirs."""
        return float(np.interp(math.log(place), np.log(self.places), self.values))


@dataclass(frozen=True)
class Chip:
    """One device, with peaks that no program quite reaches."""

    name: str
    platform: Literal["tpu", "gpu", "cpu"]
    flops_per_s: float  # of matrix products of bfloat16, dense
    float32_flops_per_s: float  # of those of float32 in JAX's default precision: a TPU's by bfloat16, a GPU's by TF32
    memory: float  # bytes
    memory_per_s: float  # bytes read or written
    links_per_s: float  # bytes sent in a ring
    per_node: float  # devices that the links join
    network_per_s: float  # bytes that each device sends to other nodes
    source: str
    topologies: tuple[tuple[int, str], ...] = ()  # of a TPU: numbers of chips, each with the usual shape of a slice
    accelerator: str = ""  # of a TPU: how its maker names a slice, with the number of cores for {}
    cores: int = 1
    reached: Curve = Curve((1,), (1,))  # share of the peak of products by their operations per element: always all

    def peak(self, dtype: str) -> float:
        """Operations a second of matrix products of a dtype of training."""
        return self.flops_per_s if dtype == "bfloat16" else self.float32_flops_per_s

    def products_s(self, flops: int, elements: int, dtype: str) -> float:
        """The seconds of matrix products with so many operations on so many elements of operands and results."""
        return flops / (self.peak(dtype) * self.reached.at(flops / elements)) if flops else 0.0

    def links_s(self, moved: float, group: Ring) -> float:
        """The seconds in which each device of a group sends so many bytes in a ring.

        Where the group has several nodes, all adapters of a node share what crosses between nodes.
        """
        together = group.on_one_node(self.per_node)
        within = moved / self.links_per_s if together > 1 else 0.0
        if together == group.size:
            return within
        nodes, n = group.size / together, group.size
        across = moved * (1 - 1 / nodes) / (1 - 1 / n) / together
        return max(within, across / self.network_per_s)


def _tpu(
    name: str, teraflops: float, gigabytes: float, memory: float, link: float, shapes: dict[int, str],
    accelerator: str, cores: int = 1, links: str = "",
) -> Chip:  # fmt: skip
    return Chip(
        name, "tpu", teraflops * TERA, teraflops * TERA, gigabytes * GIGA, memory * GIGA, 2 * link * GIGA, math.inf, 0,
        f"cloud.google.com/tpu/docs/{name}{links}", tuple(shapes.items()), accelerator, cores,
    )  # fmt: skip


def _gpu(
    name: str, teraflops: float, gigabytes: float, memory: float, nvlink: float, adapter: float, source: str
) -> Chip:
    return Chip(
        name, "gpu", teraflops * TERA, teraflops / 2 * TERA, gigabytes * GIGA, memory * GIGA, nvlink / 2 * GIGA, 8,
        adapter / 8 * GIGA, source,
    )  # fmt: skip


CHIPS = {
    chip.name: chip
    for chip in (
        # teraFLOP/s, GB, GB/s, GB/s of one link in one direction
        _tpu("v4", 275, 34.36, 1200, 45, DEEP, "v4-{}", 2, ", links jax-ml.github.io/scaling-book/tpus"),  # 32 GiB
        _tpu("v5e", 197, 16, 819, 50, FLAT, "v5litepod-{}"),
        _tpu("v5p", 459, 95, 2765, 100, DEEP, "v5p-{}", 2),
        _tpu("v6e", 918, 32, 1638, 100, FLAT, "v6e-{}"),
        # teraFLOP/s, GB, GB/s, NVLink in GB/s of both directions, network adapter in Gb/s
        _gpu("a100", 312, 80, 2039, 600, 200, f"{SHEETS} A100 80GB SXM and of DGX A100"),
        _gpu("h100", 989.4, 80, 3350, 900, 400, f"{SHEETS} H100 SXM, {DGX}-basepod"),
        _gpu("h200", 989.4, 141, 4800, 900, 400, f"{SHEETS} H200 SXM, {DGX}-basepod"),
        _gpu("b200", 2250, 180, 8000, 1800, 400, f"{SHEETS} HGX B200, {DGX}/dgxb200-user-guide"),
    )
}
KINDS = (*CHIPS, "cpu")


def topology_of(chip: Chip, shape: str, n_devices: int) -> str:
    """The shape of a TPU's slice, such as "4x8": the given one, or the usual one for the number of devices.

    Raises InputError for a shape that does not exist, or that has another number of chips.
    """
    usual = dict(chip.topologies)
    if not shape:
        if n_devices not in usual:
            close = sorted(usual, key=lambda n: abs(math.log(n / n_devices)))[:2]
            raise InputError(
                f"--devices is {n_devices:,}, but a slice of {chip.name} has {', '.join(map(str, usual))} chips; the "
                f"nearest are {' and '.join(map(str, sorted(close)))}."
            )
        return usual[n_devices]
    if shape not in usual.values():
        raise InputError(f"{chip.name} has no topology {shape!r}; {nearest(shape, usual.values())}")
    if math.prod(map(int, shape.split("x"))) != n_devices:
        raise InputError(
            f"--devices is {n_devices:,}, but the topology {shape} has {math.prod(map(int, shape.split('x')))} chips; "
            "make them the same, or leave the shape out."
        )
    return shape


def shared(chip: Chip, n_devices: int) -> Chip:
    """One of several virtual devices that share the peaks of a machine."""
    return replace(
        chip, flops_per_s=chip.flops_per_s / n_devices, float32_flops_per_s=chip.float32_flops_per_s / n_devices,
        memory=chip.memory / n_devices, memory_per_s=chip.memory_per_s / n_devices,
        links_per_s=chip.links_per_s / n_devices,
    )  # fmt: skip
