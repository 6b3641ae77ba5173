"""Whether one group of runs has a lower loss than another: the difference over seeds, its interval, a verdict.

The losses of a group differ from seed to seed, so a difference of means is judged by that spread. With at least two
common seeds the test is the t-test of the differences within pairs (Student 1908): a seed gives both the same order of
the data, and what that does to both losses cancels. Otherwise it is the t-test for unequal variances (Welch 1947). Both
are two-sided, at 5 %. Where several groups are compared with one baseline, p-values are adjusted by Holm 1979, so that
the probability of one false verdict or more is at most 5 % in all. Intervals are of each comparison alone.

Arrays have the seeds on their last axis; the functions are vectorised over the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05  # of the tests, and what intervals leave out
POWER = 0.8  # probability of a verdict, for the number of seeds that would be needed
MOST_SEEDS = 10_000  # looked for
APART = "not told apart"

Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """An estimated difference of means, its standard error, and the degrees of freedom of that."""

    effect: Floats
    error: Floats
    degrees: Floats


@dataclass(frozen=True)
class Verdict:
    """A group's mean final loss minus the baseline's, its interval, and the p-value."""

    effect: float
    low: float
    high: float
    p: float  # of this comparison alone
    seeds: tuple[int, ...]  # common to both, if they were compared in pairs
    counts: tuple[int, int]  # runs of the group and of the baseline that took part
    adjusted_p: float = 1.0
    needed: int | None = None  # seeds for each group, for a power of 80 % if the effect is as observed; None: too many

    @property
    def word(self) -> str:
        """better, worse, or not told apart."""
        if self.adjusted_p >= LEVEL:
            return APART
        return "better" if self.effect < 0 else "worse"


def paired(losses: ArrayLike, baseline: ArrayLike) -> Difference:
    """The mean of the differences [..., n] of pairs: error s / sqrt(n), n - 1 degrees of freedom. Student 1908."""
    differences = np.asarray(losses, np.float64) - np.asarray(baseline, np.float64)
    n = differences.shape[-1]
    return Difference(
        differences.mean(-1), differences.std(-1, ddof=1) / np.sqrt(n), np.full(differences.shape[:-1], n - 1.0)
    )


def unpaired(losses: ArrayLike, baseline: ArrayLike) -> Difference:
    """The difference of the means of [..., n] and [..., m]; degrees of freedom by Welch 1947, equation 28."""
    a, b = np.asarray(losses, np.float64), np.asarray(baseline, np.float64)
    of_a, of_b = a.var(-1, ddof=1) / a.shape[-1], b.var(-1, ddof=1) / b.shape[-1]
    below = of_a**2 / (a.shape[-1] - 1) + of_b**2 / (b.shape[-1] - 1)
    least = np.full(below.shape, min(a.shape[-1], b.shape[-1]) - 1.0)  # where nothing varies
    degrees = np.divide((of_a + of_b) ** 2, below, out=least, where=below > 0)
    return Difference(a.mean(-1) - b.mean(-1), np.sqrt(of_a + of_b), degrees)


def p_value(difference: Difference) -> Floats:
    """The two-sided p-value of no difference, by Student's t; without any spread 0, or 1 for no difference."""
    from scipy.special import stdtr

    effect, error, degrees = map(np.asarray, difference)
    none = np.where(effect == 0, 0.0, np.inf)
    t = np.divide(np.abs(effect), error, out=none, where=error > 0)
    return np.asarray(2 * stdtr(degrees, -t))


def interval(difference: Difference) -> tuple[Floats, Floats]:
    """The lower and upper bound that hold the true difference with 95 % probability, for this comparison alone."""
    from scipy.special import stdtrit

    half = stdtrit(difference.degrees, 1 - LEVEL / 2) * difference.error
    return difference.effect - half, difference.effect + half


def holm(p: ArrayLike) -> Floats:
    """The p-values [..., m], adjusted: in rising order the running maximum of (m - k) p_k, k from 0. Holm 1979."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1), -1)
    return adjusted


def seeds_needed(effect: float, spread: float, degrees_per_seed: float = 1.0, level: float = LEVEL) -> int | None:
    """The fewest seeds n for each group for which the t-test at `level` finds `effect` with a probability of 80 %.

    The standard error is `spread` / sqrt(n), with `degrees_per_seed` (n - 1) degrees of freedom d. The power is
    P(t' > t_d(1 - level / 2)), t' of the non-central t-distribution around effect / error (Cohen 1988, section 2.3).
    None beyond MOST_SEEDS, and without an effect.
    """
    from scipy.special import nctdtr, stdtrit

    def enough(n: int) -> bool:
        degrees = degrees_per_seed * (n - 1)
        missed = nctdtr(degrees, abs(effect) * n**0.5 / spread, stdtrit(degrees, 1 - level / 2))
        return not missed > 1 - POWER  # NaN where the effect is too many errors large to count

    if effect == 0 or (spread > 0 and not enough(MOST_SEEDS)):
        return None
    low, high = 1, 2 if spread == 0 else MOST_SEEDS  # the power grows with n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def judge(groups: Sequence[Mapping[int, float]], baseline: Mapping[int, float]) -> list[Verdict | None]:
    """A verdict on each group's losses by seed against the baseline's; None where a group has too few seeds for one."""
    verdicts = [_compared(group, baseline) for group in groups]
    tested = [verdict for verdict in verdicts if verdict]
    adjusted = iter(holm([verdict.p for verdict in tested]))
    return [
        verdict and replace(verdict, adjusted_p=float(next(adjusted)), needed=_needed(group, baseline, len(tested)))
        for group, verdict in zip(groups, verdicts, strict=True)
    ]


def _common(group: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[int, ...]:
    """The seeds for a test in pairs; none if there are fewer than two."""
    common = tuple(sorted(group.keys() & baseline.keys()))
    return common if len(common) > 1 else ()


def _compared(group: Mapping[int, float], baseline: Mapping[int, float]) -> Verdict | None:
    """The comparison before the adjustment."""
    seeds = _common(group, baseline)
    if seeds:
        difference = paired([group[s] for s in seeds], [baseline[s] for s in seeds])
        counts = (len(seeds), len(seeds))
    elif min(len(group), len(baseline)) > 1:
        difference, counts = unpaired([*group.values()], [*baseline.values()]), (len(group), len(baseline))
    else:
        return None
    low, high = interval(difference)
    return Verdict(float(difference.effect), float(low), float(high), float(p_value(difference)), seeds, counts)


def _needed(group: Mapping[int, float], baseline: Mapping[int, float], comparisons: int) -> int | None:
    """The seeds for this effect and this spread, at the level that Holm's adjustment asks of the smallest p-value."""
    seeds, level = _common(group, baseline), LEVEL / comparisons
    if seeds:
        differences = [group[s] - baseline[s] for s in seeds]
        return seeds_needed(float(np.mean(differences)), float(np.std(differences, ddof=1)), level=level)
    a, b = (np.var([*of.values()], ddof=1) for of in (group, baseline))
    effect = float(np.mean([*group.values()]) - np.mean([*baseline.values()]))
    per_seed = float((a + b) ** 2 / (a**2 + b**2)) if a + b > 0 else 2.0
    return seeds_needed(effect, float(np.sqrt(a + b)), per_seed, level)
