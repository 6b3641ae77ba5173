"""Notes on standard error: a line each time. Other warnings are unchanged."""

import warnings

import pytest

from jaxllm.utils.errors import Note
from train.notes import notes_printed

pytestmark = pytest.mark.newest


def test_a_note_is_printed_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    with notes_printed():
        for _ in range(2):
            warnings.warn(Note("of one place"), stacklevel=1)
    assert capsys.readouterr() == ("", "note: of one place\n" * 2)
    with pytest.raises(Note):  # as before
        warnings.warn(Note("of one place"), stacklevel=1)


def test_other_warnings_are_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="no note"), notes_printed():
        warnings.warn("no note", stacklevel=1)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserWarning, match="no note"), notes_printed():  # warnings are errors in these tests
        warnings.warn("no note", stacklevel=1)
