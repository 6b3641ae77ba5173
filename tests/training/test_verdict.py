"""The verdict on two groups of runs: against SciPy and published figures, and how often it is false."""

import numpy as np
import pytest
from scipy import stats

from train.runs.verdict import holm, interval, judge, p_value, paired, seeds_needed, unpaired

TRIALS = 20_000


def share(alarms: np.ndarray) -> float:
    return float(np.mean(alarms))


def off(rate: float = 0.05) -> float:
    """Four standard deviations of a share of so many trials."""
    return 4 * (rate * (1 - rate) / TRIALS) ** 0.5


def test_it_is_the_t_test_of_scipy(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(5, 4)), 0.5 + 3 * rng.normal(size=(5, 4))
    c = rng.normal(size=(5, 7))
    for ours, theirs in (
        (paired(a, b), stats.ttest_rel(a, b, axis=1)),
        (unpaired(a, c), stats.ttest_ind(a, c, axis=1, equal_var=False)),
    ):
        np.testing.assert_allclose(p_value(ours), theirs.pvalue, rtol=1e-10)
        np.testing.assert_allclose(interval(ours), theirs.confidence_interval(0.95), rtol=1e-10)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_false_alarms_are_5_in_100(seeds: int, rng: np.random.Generator) -> None:
    """In pairs, whatever the seeds do to both; without pairs at most that often, where both spread alike."""
    seed = 3 * rng.normal(size=(TRIALS, seeds))
    a, b = rng.normal(size=(2, TRIALS, seeds))
    assert abs(share(p_value(paired(seed + a, seed + b)) < 0.05) - 0.05) < off()
    assert 0.02 < share(p_value(unpaired(a, b)) < 0.05) < 0.05 + off()
    assert share(p_value(unpaired(3 * a, b)) < 0.05) < 0.055 + off()


def test_any_false_alarm_among_many_comparisons(rng: np.random.Generator) -> None:
    """Eight groups against one baseline: at most 5 in 100 by Holm's adjustment, about 30 without."""
    groups, baseline = rng.normal(size=(TRIALS, 8, 3)), rng.normal(size=(TRIALS, 1, 3))
    p = p_value(paired(groups, baseline))
    assert share(p.min(-1) < 0.05) > 0.25
    assert 0.04 < share(holm(p).min(-1) < 0.05) < 0.05 + off()


def test_holm_adjusts_as_published() -> None:
    """By hand, as R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).tolist() == []


def test_the_seeds_that_would_be_needed(rng: np.random.Generator) -> None:
    """Cohen 1988, table 2.4.1, and G*Power: for effects of 0.5 and 0.8 standard deviations, 34 and 15 pairs, 64 and
    26 in each group."""
    assert [seeds_needed(effect, 1.0) for effect in (0.5, -0.8)] == [34, 15]
    assert [seeds_needed(effect, 2**0.5, 2.0) for effect in (0.5, 0.8)] == [64, 26]
    assert 0.79 < share(p_value(paired(rng.normal(0.8, size=(TRIALS, 15)), 0)) < 0.05) < 0.85
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(1e-4, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2 and seeds_needed(1e9, 1e-9) == 2


def test_seeds_in_common_are_compared_in_pairs() -> None:
    baseline = {0: 4.0, 1: 5.0, 2: 6.0}
    better, worse, apart, few = judge(
        [{2: 5.91, 0: 3.9, 1: 4.89, 7: 9.0}, {3: 80.0, 4: 80.1, 2: 80.2}, {0: 4.1, 1: 4.9}, {0: 1.0}], baseline
    )
    assert few is None and better and worse and apart
    assert better.word == "better" and better.seeds == (0, 1, 2) and better.effect == pytest.approx(-0.1)
    assert better.low < better.effect < better.high < 0
    assert (
        worse.word == "worse" and worse.seeds == () and worse.counts == (3, 3) and worse.effect == pytest.approx(75.1)
    )
    assert apart.word == "not told apart" and apart.counts == (2, 2) and apart.needed is None
    alone = judge([{0: 4.0, 1: 4.95, 2: 5.97}], baseline)[0]
    assert alone and alone.word == "not told apart" and alone.adjusted_p == alone.p
    assert alone.needed == seeds_needed(-0.08 / 3, np.std([0, 0.05, 0.03], ddof=1)) == 10


def test_the_level_falls_with_the_number_of_comparisons() -> None:
    """A p-value of 0.03 is a verdict alone, and none beside another comparison that has none."""
    baseline, group = {0: 4.0, 1: 4.0, 2: 4.0}, {0: 3.91, 1: 3.93, 2: 3.95}
    (alone,), (beside, _) = judge([group], baseline), judge([group, {0: 4.1, 1: 4.0, 2: 3.9}], baseline)
    assert alone and beside and alone.p == beside.p and alone.word == "better"
    assert beside.word == "not told apart" and beside.adjusted_p == 2 * beside.p and (beside.needed or 0) > 3


def test_without_any_spread() -> None:
    same, lower = judge([{0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}], {0: 1.0, 1: 2.0})
    assert same and lower and (same.word, lower.word) == ("not told apart", "better")
    assert judge([{5: 1.0, 6: 1.0}], {0: 1.0, 1: 1.0})[0].p == 1  # type: ignore[union-attr]
