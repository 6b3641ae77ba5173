"""Notes in a terminal: each a line, as often as it comes; other warnings stay what they are."""

import warnings

import pytest

from jaxllm.utils.errors import Note
from train.notes import notes_printed

pytestmark = pytest.mark.newest


def test_a_note_is_printed_as_often_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with notes_printed():
        for _ in range(2):
            warnings.warn(Note("of one place"), stacklevel=1)
    assert capsys.readouterr() == ("", "note: of one place\n" * 2)
    with pytest.raises(Note):  # as it was before
        warnings.warn(Note("of one place"), stacklevel=1)


def test_other_warnings_are_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="no note"), notes_printed():
        warnings.warn("no note", stacklevel=1)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserWarning, match="no note"), notes_printed():  # these tests make errors of warnings
        warnings.warn("no note", stacklevel=1)
