"""Which examples share a row."""

from hypothesis import given
from hypothesis import strategies as st

from train.tune.packing import pack


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(12, 20))
def test_every_example_is_in_one_row_that_holds_it(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(0 < one <= capacity for one in filled)
    assert rows == sorted(sorted(row) for row in rows)
    # No two rows would fit into one, so at most one row is half empty.
    assert all(a + b > capacity for i, a in enumerate(filled) for b in filled[:i])


def test_each_example_goes_where_it_leaves_least_room() -> None:
    assert pack([6, 5, 3, 4], 10) == [[0, 3], [1, 2]]
    assert pack([7, 6, 3], 10) == [[0, 2], [1]]
    assert pack([4, 4], 8) == [[0, 1]]
    assert pack([], 8) == []
