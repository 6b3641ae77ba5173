"""From seconds to figures: medians and their spread, the ratio of two sides, the speed that a data sheet states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Figures = dict[str, Any]  # of a bench, as they are written as JSON

# Dense products in bfloat16 a second, from the makers' data sheets, by JAX's device_kind.
DATASHEET = {
    "NVIDIA A100-PCIE-40GB": 312e12, "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12, "NVIDIA GeForce RTX 4090": 165e12,
}  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """A median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = (float(q) for q in np.percentile(values, (10, 50, 90)))
        return cls(median, low, high)


def speed_ratio(ours: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]) -> Spread:
    """Our speed over the peer's, from the seconds of each step in each round; above 1, ours is faster.

    The ratio is taken within each round, whose two turns follow each other: a machine that is slower for a while is
    slower for both.
    """
    return Spread.of([float(np.median(p) / np.median(o)) for o, p in zip(ours, peer, strict=True)])


def datasheet_peak(device: str, dtype: str) -> float | None:
    """Operations a second in matrix products of that dtype by the data sheet; None if unknown."""
    return DATASHEET.get(device) if dtype == "bfloat16" else None
