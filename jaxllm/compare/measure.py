"""How far one tensor is from its reference: errors on the tensor's own scale, and whether they are within tolerance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm.compare.trees import named_leaves
from jaxllm.utils.errors import listed

MOST = 40  # names in a message
CANCELS = 10  # a scale of more than this times the largest value is noted


@dataclass(frozen=True)
class Comparison:
    """One tensor against its reference; a row of the report."""

    stage: str
    name: str
    shape: tuple[int, ...]
    max_abs: float  # the largest error; inf where a value is missing or NaN, or where the shapes differ
    relative: float  # max_abs over the scale: the largest absolute value of the reference, or of its terms
    ulp: float  # max_abs in units in the last place of the scale, in the dtype of the computation
    tolerance: float  # of the relative error
    jump: bool = False  # the first place where the error is far above all errors before
    note: str = ""
    compared: bool = True  # False: there is no reference, so the errors and the tolerance are NaN

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance; False where nothing was compared."""
        return self.relative <= self.tolerance

    @property
    def failed(self) -> bool:
        """Whether the error is beyond tolerance; False where nothing was compared."""
        return self.compared and not self.passed

    @property
    def verdict(self) -> str:
        """The word in the report's row."""
        return ("ok" if self.passed else "BEYOND") if self.compared else "held to nothing"

    @property
    def share(self) -> float:
        """The error as a fraction of the tolerance; 0 where nothing was compared."""
        if self.relative == 0 or not self.compared:
            return 0.0
        return self.relative / self.tolerance if self.tolerance else math.inf


def measure(
    stage: str, name: str, got: Any, want: Any, tolerance: float, dtype: str, scale: float | None = None
) -> Comparison:
    """The comparison of an array `got`, computed in `dtype`, with its reference `want`.

    Errors are relative to `scale`, by default the largest finite absolute value of `want`; a note says where `scale`
    is far more than that. Where the scale is 0, too small for the dtype or infinite, errors are absolute. Equal
    infinities agree, and NaN agrees with NaN, but a tensor that is NaN throughout fails. NaN in one of the two alone is
    an error of inf.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return _failed(stage, name, got.shape, tolerance, f"the reference has shape {want.shape}")
    both_nan = np.isnan(got) & np.isnan(want)
    if both_nan.all() and both_nan.size:
        return _failed(stage, name, got.shape, tolerance, "nothing but NaN in both")
    with np.errstate(invalid="ignore"):
        error = np.where((got == want) | both_nan, 0.0, np.abs(got - want))
    max_abs = float(np.nan_to_num(error, nan=math.inf, posinf=math.inf).max(initial=0.0))
    own = largest(want)
    scale = own if scale is None else scale
    note = f"its terms cancel to {own / scale:.0e} of their size" if own * CANCELS < scale else ""
    scale = scale if float(jnp.finfo(dtype).tiny) <= scale < math.inf else 1.0
    ulp = float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(scale))
    note = f"{both_nan.sum()} NaN in both" if both_nan.any() else note
    return Comparison(stage, name, got.shape, max_abs, max_abs / scale, max_abs / ulp, tolerance, note=note)


def _failed(stage: str, name: str, shape: tuple[int, ...], tolerance: float, note: str) -> Comparison:
    """A comparison beyond any tolerance, with the reason as its note."""
    return Comparison(stage, name, shape, math.inf, math.inf, math.inf, tolerance, note=note)


def held_to_nothing(stage: str, got: Any, note: str, root: str = "") -> list[Comparison]:
    """A row for each leaf of what was computed but has no reference; `note` says why. Names begin with `root`."""
    nan = math.nan
    return [
        Comparison(stage, name, np.shape(leaf), nan, nan, nan, nan, note=note, compared=False)
        for name, leaf in named_leaves(got, root).items()
    ]


def compare_trees(
    stage: str,
    got: Any,
    want: Any,
    tolerance: float,
    dtype: str,
    root: str = "",
    scales: Mapping[str, float] | None = None,
) -> list[Comparison]:
    """A comparison for each leaf, in the order of `want`.

    The scale of a leaf is its largest value, or the number in `scales` under its name where that is larger. Names
    begin with `root`. Raises ValueError where a leaf is in one tree only.
    """
    ours, theirs = named_leaves(got, root), named_leaves(want, root)
    if ours.keys() != theirs.keys():
        here, there = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        both = [name for name in ours if name in theirs]
        raise ValueError(
            f"{stage}: only ours has [{listed(here, MOST)}], only the reference has [{listed(there, MOST)}], and both "
            f"have [{listed(both, MOST)}]; both must hold the same arrays."
        )
    at_least = scales or {}
    return [
        measure(stage, name, ours[name], leaf, tolerance, dtype, max(largest(leaf), at_least.get(name, 0.0)))
        for name, leaf in theirs.items()
    ]


def largest(x: Any) -> float:
    """The largest finite absolute value, 0 where there is none."""
    x = np.asarray(x, np.float64)
    return float(np.abs(x, where=np.isfinite(x), out=np.zeros(np.shape(x))).max(initial=0.0))
