"""Names of arrays, and errors on one line."""

import errno

import numpy as np
import pytest

from train.runs.arrays import named, reason, shapes

pytestmark = pytest.mark.newest


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (OSError("of a library"), "of a library"),
        (ValueError("over\n  two lines"), "over two lines"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("\x1b[31m"), "\\x1b[31m"),
    ],
)
def test_an_error_is_one_line(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_an_error_has_an_end() -> None:
    assert len(reason(ValueError("x" * 10**6))) < 1000


def test_arrays_are_named_by_their_path() -> None:
    tree = {"params": {"block_0": {"kernel": np.zeros((2, 3))}}, "step": np.zeros(())}
    assert shapes(tree) == {"params/block_0/kernel": (2, 3), "step": ()}
    assert [name for name, _ in named(tree)] == [*shapes(tree)]
