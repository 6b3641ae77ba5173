"""Batches of examples: what stands where in their arrays, and that they are a function of (seed, step)."""

from dataclasses import replace

import numpy as np
import pytest

from jaxllm import InputError
from train.tune.batches import NO_ROW, Answers, Preferences, Rows, draw, in_order, make_rows, packed_width
from train.tune.fitting import Group
from train.tune.packing import pack
from train.tune.rendered import Rendered


def text(first: int, n: int, learned: int = 1) -> Rendered:
    """The n ids from `first` on, of which the last ones are learned."""
    return Rendered("", np.arange(first, first + n, dtype=np.int32), np.arange(n) >= n - learned)


def one_each(n: int) -> Rows:
    """Rows whose first id is their number."""
    (rows,) = make_rows([[(text(i, 3),) for i in range(n)]], 8, False)
    return rows


def first_ids(rows: Rows, batch_size: int, seed: int, step: int, part: int = 0, parts: int = 1) -> list[int]:
    return draw(rows, batch_size, seed, step, part, parts)[0][:, 0].tolist()


def test_a_row_is_padded_on_the_right() -> None:
    rows, _ = make_rows([[(text(10, 4, 2),)], [(text(20, 3),)]], 6, False)
    inputs, targets = rows.take(np.array([0, NO_ROW]))
    assert inputs.tolist() == [[10, 11, 12, 0, 0, 0], [0] * 6] and inputs.dtype == np.int32
    assert isinstance(targets, Answers) and targets.documents is None and targets.positions is None
    assert targets.ids.tolist() == [[-1, 12, 13, -1, -1, -1], [-1] * 6] and targets.ids.dtype == np.int32


def test_packed_examples_are_documents_with_positions_of_their_own() -> None:
    (rows,) = make_rows([[(text(10, 4, 2),), (text(20, 3),), (text(30, 9),)]], 8, True)
    assert rows.rows == ((0, 1), (2,))
    inputs, targets = rows.take(np.array([0, 1, NO_ROW]))
    assert isinstance(targets, Answers)
    assert inputs[0].tolist() == [10, 11, 12, 20, 21, 0, 0, 0]
    assert targets.ids[0].tolist() == [-1, 12, 13, -1, 22, -1, -1, -1]
    assert targets.documents.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0] * 8, [0] * 8]
    assert targets.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [*range(8)], [*range(8)]]
    assert targets.documents.dtype == targets.positions.dtype == np.int32


def test_packed_rows_are_wider_where_that_saves_a_tenth() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(90, 131, 60)]  # a row of 144 holds one
    positions = {n: n * 144 * len(pack(lengths, n * 144)) for n in (1, 2, 4)}
    assert packed_width(lengths, 144, 8192) == 4 * 144 and positions[4] < 0.9 * positions[1] < positions[2]
    assert packed_width(lengths, 144, 4 * 144 - 1) == 144
    assert packed_width([*range(10, 140, 7)], 144, 8192) == 144


def test_packing_changes_no_example() -> None:
    """By their documents the examples come out of packed rows as they came out of rows of their own."""
    rng = np.random.default_rng(0)
    groups: list[Group] = [(text(100 * i, int(rng.integers(2, 9)), 2),) for i in range(20)]
    found = {}
    for packing in (False, True):
        (rows,) = make_rows([groups], 16, packing)
        inputs, targets = rows.take(np.arange(len(rows.rows)))
        assert isinstance(targets, Answers)
        documents = targets.documents if packing else np.zeros_like(inputs)
        found[packing] = sorted(
            [*inputs[r, d == n].tolist(), *ids[d == n].tolist()]
            for r, (d, ids) in enumerate(zip(documents, targets.ids, strict=True))
            for n in np.unique(d) if (ids[d == n] >= 0).any()
        )  # fmt: skip
    assert len(found[True]) == 20
    assert [[x for x in one if x > 0] for one in found[True]] == [[x for x in one if x > 0] for one in found[False]]


def test_rows_are_as_wide_as_the_longest_and_of_a_round_size() -> None:
    splits: list[list[Group]] = [[(text(0, 18),)], [(text(0, 35),)]]
    assert [rows.width for rows in make_rows(splits, 1000, False)] == [48, 48]
    assert [rows.width for rows in make_rows(splits, 40, False)] == [40, 40]
    assert [rows.width for rows in make_rows([splits[0] * 3], 1000, True)] == [64]


def test_a_pair_has_its_reference() -> None:
    group = (text(10, 4, 2), text(20, 3))
    (rows,) = make_rows([[group, group]], 4, False)
    inputs, targets = rows.take(np.array([1, NO_ROW]))
    assert isinstance(targets, Preferences) and targets.reference.dtype == np.float32
    assert inputs.tolist() == [[[10, 11, 12, 0], [20, 21, 0, 0]], [[0] * 4] * 2]
    assert targets.ids.tolist() == [[[-1, 12, 13, -1], [-1, 22, -1, -1]], [[-1] * 4] * 2]
    assert np.isnan(targets.reference[0]).all() and targets.reference[1].tolist() == [0, 0]  # none is known yet
    known = replace(rows, reference=np.array([[-1, -2], [-3, -4]], np.float32))
    _, targets = known.take(np.array([1, 0, NO_ROW]))
    assert isinstance(targets, Preferences) and targets.reference.tolist() == [[-3, -4], [-1, -2], [0, 0]]


def test_an_epoch_visits_each_row_once() -> None:
    rows = one_each(7)
    seen = [i for step in range(7) for i in first_ids(rows, 3, 5, step)]
    epochs = [seen[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and epochs[0] != sorted(epochs[0])
    assert first_ids(one_each(1), 3, 0, 2) == [0, 0, 0]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    rows = one_each(50)
    assert first_ids(rows, 8, 1, 3) == first_ids(rows, 8, 1, 3) != first_ids(rows, 8, 2, 3)
    assert first_ids(rows, 8, 1, 3) != first_ids(rows, 8, 1, 4)


def test_parts_are_the_batch() -> None:
    rows = one_each(5)
    parts = [i for part in range(3) for i in first_ids(rows, 6, 1, 2, part, 3)]
    assert parts == first_ids(rows, 6, 1, 2)
    with pytest.raises(InputError, match="a batch of 6 cannot be split into 4 parts with a part 0"):
        draw(rows, 6, 1, 2, 0, 4)
    with pytest.raises(InputError, match="into 3 parts with a part 3"):
        draw(rows, 6, 1, 2, 3, 3)


def test_evaluation_is_in_the_order_of_the_file_and_filled_at_its_end() -> None:
    batches = list(in_order(one_each(5), 2))
    assert [inputs[:, 0].tolist() for inputs, _ in batches] == [[0, 1], [2, 3], [4, 0]]
    assert {inputs.shape for inputs, _ in batches} == {(2, 8)}
    assert (batches[-1][1].ids[1] == -1).all() and sum(int((t.ids >= 0).sum()) for _, t in batches) == 5
