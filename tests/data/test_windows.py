"""Input-target pairs, the split, batches as a function of (seed, step), and evaluation batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.data import (
    batch,
    evaluation_batches,
    input_target_pairs,
    split_ids,
    windows_per_epoch,
)

IDS = np.arange(1000)


@given(n=st.integers(2, 60), length=st.integers(1, 20), stride=st.integers(1, 25))
def test_pairs_are_windows_and_their_successors(n: int, length: int, stride: int) -> None:
    ids = np.arange(n) * 7
    if n < length + 1:
        with pytest.raises(InputError, match=f"the text has {n} tokens"):
            input_target_pairs(ids, length, stride)
        return
    inputs, targets = input_target_pairs(ids, length, stride)
    starts = range(0, n - length, stride)
    assert inputs.tolist() == [ids[i : i + length].tolist() for i in starts]
    assert targets.tolist() == [ids[i + 1 : i + length + 1].tolist() for i in starts]
    assert inputs.dtype == targets.dtype == np.int32


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (4, 0), (-1, 1)])
def test_pairs_check_their_sizes(length: int, stride: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        input_target_pairs(IDS, length, stride)


def test_split_is_nine_to_one_and_in_order() -> None:
    train, validation = split_ids(IDS, 10)
    assert (len(train), len(validation)) == (900, 100)
    np.testing.assert_array_equal(np.concatenate([train[:], validation[:]]), IDS)


@pytest.mark.parametrize(
    ("n", "length", "parts"), [(1000, 900, (900, 100)), (10, 1, (9, 1)), (0, 1, (0, 0)), (11, 10, (9, 2))]
)
def test_split_of_a_text_shorter_than_the_context(n: int, length: int, parts: tuple[int, int]) -> None:
    message = f"the text has {n} tokens, {parts[0]} to train on and {parts[1]} to validate on.*needs {length + 1} and 2"
    with pytest.raises(InputError, match=message):
        split_ids(IDS[:n], length)


@given(
    n=st.integers(2, 200), length=st.integers(1, 20), size=st.integers(1, 7), seed=st.integers(0, 2**32 - 1),
    first=st.integers(0, 50),
)  # fmt: skip
def test_an_epoch_visits_each_window_once(n: int, length: int, size: int, seed: int, first: int) -> None:
    if n < length + 1:
        return
    ids = np.arange(n)
    per_epoch = windows_per_epoch(n, length)
    rows = [batch(ids, length, size, seed, step) for step in range(first + -(-3 * per_epoch // size))]
    inputs, targets = (np.concatenate([r[i] for r in rows]) for i in (0, 1))
    np.testing.assert_array_equal(targets, inputs + 1)  # ids count up, so targets are the ids that follow
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(length))
    for epoch in range(2):
        starts = np.sort(inputs[epoch * per_epoch : (epoch + 1) * per_epoch, 0])
        assert (np.diff(starts) == length).all()  # as many windows as fit, none twice, none overlapping
    assert targets.max() <= n - 1
    assert per_epoch >= max(1, (n - 1) // length - 1)


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    once = [batch(IDS, 8, 4, 3, step)[0] for step in range(100)]
    for step in reversed(range(100)):  # in another order, with other calls between
        batch(IDS, 8, 4, 4, step)
        np.testing.assert_array_equal(batch(IDS, 8, 4, 3, step)[0], once[step])
    assert (batch(IDS, 8, 4, 4, 0)[0] != once[0]).any()
    per_epoch = windows_per_epoch(1000, 8)
    orders = np.concatenate(once)[:, 0]
    assert (orders[:per_epoch] != orders[per_epoch : 2 * per_epoch]).any()


def test_a_batch_of_too_few_ids() -> None:
    with pytest.raises(InputError, match="8 tokens are too few for a window of 8"):
        batch(IDS[:8], 8, 4, 0, 0)


def test_epochs_begin_at_different_offsets() -> None:
    offsets = {batch(IDS, 8, 1, 0, epoch * windows_per_epoch(1000, 8))[0][0, 0] % 8 for epoch in range(40)}
    assert len(offsets) == 8


@given(n=st.integers(2, 100), length=st.integers(1, 9), size=st.integers(1, 5))
def test_evaluation_sees_every_target_once(n: int, length: int, size: int) -> None:
    seen = []
    for inputs, targets, weights in evaluation_batches(np.arange(n), length, size):
        assert inputs.shape == targets.shape == weights.shape == (size, length)
        seen += targets[weights == 1].tolist()
        np.testing.assert_array_equal(inputs[weights == 1] + 1, targets[weights == 1])
        assert set(np.unique(weights)) <= {0, 1}
    assert seen == list(range(1, n))


@pytest.mark.parametrize(("n", "length", "size"), [(1, 3, 2), (6, 3, 2), (7, 3, 2), (13, 4, 1)])
def test_evaluation_windows_that_begin_with_a_token(n: int, length: int, size: int) -> None:
    """Each window of targets follows that token, and the first id is a target like the others."""
    ids, predicted = np.arange(10, 10 + n), []
    for inputs, targets, weights in evaluation_batches(ids, length, size, begin=7):
        assert inputs.shape == targets.shape == weights.shape == (size, length)
        np.testing.assert_array_equal(inputs[:, 0], 7)
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        predicted += targets[weights == 1].tolist()
    assert predicted == ids.tolist()
