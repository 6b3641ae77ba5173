"""The shuffled order, batches split between processes, mixtures: all functions of (seed, step)."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.data import batch, mixture, windows_per_epoch
from jaxllm.data.mixture import CYCLE
from jaxllm.data.permutation import ROUNDS, permute


def keys(*seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)


@example(5, 0)
@given(st.one_of(st.integers(1, 30), st.integers(1, 5000)), st.integers(0, 2**32 - 1))
def test_every_number_comes_once(n: int, seed: int) -> None:
    order = permute(np.arange(n), n, keys(seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(
        permute(np.arange(n)[::-1], n, keys(seed)), order[::-1]
    )  # also one position at a time


@pytest.mark.parametrize("n", [2**40 + 7, 10**12])
def test_large_numbers(n: int) -> None:
    places = np.arange(n - 1000, n)
    order = permute(places, n, keys(1))
    assert len(np.unique(order)) == 1000 and order.min() >= 0 and order.max() < n
    assert abs(np.mean(order / n) - 0.5) < 0.05


def test_the_order_is_well_mixed() -> None:
    """No correlation with the position, the neighbour or another key; each of the 24 orders of four equally often."""
    n, orders = 10_000, [permute(np.arange(10_000), 10_000, keys(seed)) for seed in range(2)]
    for other in (np.arange(n), np.roll(orders[0], 1), orders[1]):
        assert abs(np.corrcoef(orders[0], other)[0, 1]) < 0.04  # four standard deviations
    assert abs((np.diff(orders[0]) % 2).mean() - 0.5) < 0.03
    counts = np.zeros(24)
    for seed in range(2400):
        order = permute(np.arange(4), 4, keys(seed))
        counts[sum(int((order[i + 1 :] < order[i]).sum()) * f for i, f in enumerate((6, 2, 1)))] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 58  # chi-squared, 23 degrees of freedom: one in 10,000


def test_the_order_is_the_same_in_every_version() -> None:
    """Of numbers, windows and a mixture: a run continues with its own batches when a later version resumes it."""
    assert permute(np.arange(12), 12, np.arange(1, ROUNDS + 1, dtype=np.uint64)).tolist() == [
        3, 5, 1, 6, 7, 0, 9, 10, 8, 2, 4, 11,
    ]  # fmt: skip
    for step, starts in ((2, [30, 6, 34]), (9, [7, 3, 19])):
        assert batch(np.arange(50), 4, 3, 7, step)[0][:, 0].tolist() == starts
    both = mixture([np.arange(50), np.arange(100, 160)], [1, 3])
    assert batch(both, 4, 6, 7, 2)[0][:, 0].tolist() == [38, 119, 14, 155, 22, 2]


def test_processes_share_a_batch() -> None:
    ids = np.arange(1000)
    for step in (0, 7, 31):
        whole = batch(ids, 8, 12, 3, step)
        for n in (1, 2, 3, 12):
            parts = [batch(ids, 8, 12, 3, step, process, n) for process in range(n)]
            for i in (0, 1):
                np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])
    for process, n in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(InputError, match=f"a batch of 12 cannot be split into {n} parts"):
            batch(ids, 8, 12, 3, 0, process, n)


SOURCES = [np.arange(0, 1000), np.arange(10_000, 13_000), np.arange(50_000, 50_100)]


def test_a_mixture_holds_each_source_as_often_as_its_weight_says() -> None:
    mixed = mixture(SOURCES, [6, 3, 1])
    assert mixed.quotas == (614, 307, 103) and sum(mixed.quotas) == CYCLE
    inputs = np.concatenate([batch(mixed, 4, 64, 0, step)[0] for step in range(CYCLE // 64)])
    which = np.searchsorted([10_000, 50_000], inputs[:, 0], "right")
    assert np.bincount(which).tolist() == [614, 307, 103]
    assert np.count_nonzero(np.diff(which)) > 400  # not one source after the other: 553 changes are expected


def test_a_mixture_visits_each_sources_windows_once_an_epoch() -> None:
    mixed = mixture(SOURCES, [0.5, 0.25, 0.25])
    first = np.concatenate([batch(mixed, 4, 32, 5, step)[0][:, 0] for step in range(200)])
    for low, high, source in ((0, 1000, 0), (10_000, 13_000, 1), (50_000, 50_100, 2)):
        starts = first[(first >= low) & (first < high)]
        n = windows_per_epoch(len(SOURCES[source]), 4)
        for epoch in range(len(starts) // n):
            assert len(set(starts[epoch * n : (epoch + 1) * n].tolist())) == n


def test_a_mixture_needs_no_state() -> None:
    mixed = mixture(SOURCES, [1, 1, 2])
    once = [batch(mixed, 4, 8, 2, step)[1] for step in range(300)]
    for step in (299, 0, 128, 127):
        np.testing.assert_array_equal(batch(mixed, 4, 8, 2, step)[1], once[step])
    assert (batch(mixed, 4, 8, 3, 0)[1] != once[0]).any()


@pytest.mark.parametrize(
    ("weights", "message"), [([1, 0, 1], "above 0"), ([1, -1, 1], "above 0"), ([1, 1, 1e-6], "below 1/1,024"), ([1, 1, float("nan")], "above 0")]
)  # fmt: skip
def test_weights_are_checked(weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixture(SOURCES, weights)
