"""Examples that are longer than a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import InputError
from train.tune.fitting import Group, cut, fit, length
from train.tune.rendered import Rendered


def text(mask: str, label: int | None = None, where: str = "line 1") -> Rendered:
    """Ids 0, 1, ..., of which those under an x are learned."""
    return Rendered(where, np.arange(len(mask), dtype=np.int32), np.array([c == "x" for c in mask]), label)


def shown(group: Group | None) -> list[str] | None:
    """Each text's ids, with a * after those that are learned."""
    return group and [
        " ".join(f"{i}{'*' * learned}" for i, learned in zip(one.ids, one.learned.tolist(), strict=True))
        for one in group
    ]


FITS, LONG, WHOLE = (text("..xx"),), (text("....xx", where="line 2"),), (text(".xxxxx"),)


def test_what_is_too_long_is_refused_cut_or_dropped_and_counted() -> None:
    groups = [FITS, LONG, WHOLE]
    assert fit(groups, 5, "refuse").groups == groups
    message = r'line 2 has 5 tokens, more than the 3 of a row \(of 3 examples 2 are longer\); .* "cut" or "drop"'
    with pytest.raises(InputError, match=message):
        fit(groups, 3, "refuse")
    dropped = fit(groups, 3, "drop")
    assert dropped.groups == [FITS] and (dropped.cut, dropped.dropped) == (0, 2)
    shorter = fit(groups, 3, "cut")  # of the third no whole answer fits
    assert [shown(group) for group in shorter.groups] == [shown(FITS), ["2 3 4* 5*"]]
    assert (shorter.cut, shorter.dropped) == (1, 1)


def test_a_cut_takes_the_question_from_the_left() -> None:
    assert shown(cut((text(".....xx"),), 4)) == ["2 3 4 5* 6*"]
    assert shown(cut((text(".....xx"),), 4, begin=1)) == ["0 3 4 5* 6*"]  # the begin token stays
    assert shown(cut((text(".xxx.xx"),), 4)) == ["2 3 4 5* 6*"]  # an answer without its beginning is not learned
    assert shown(cut((text(".xx.xx"),), 4, begin=1)) == ["0 2 3 4* 5*"]
    assert cut((text(".....xx"),), 1) is None  # no question is left
    assert cut((text(".....xx"),), 2, begin=1) is None  # only the begin token is left of it


def test_both_answers_keep_the_same_question() -> None:
    pair = text("....xx"), text("....xxx")
    assert shown(cut(pair, 4)) == ["2 3 4* 5*", "2 3 4* 5* 6*"]
    assert cut((text("....x"), text("....xxxxxx")), 4) is None


def test_of_a_labelled_text_the_beginning_stays() -> None:
    assert shown(cut((text("....x", label=2),), 3)) == ["0 1 2*"]
    assert shown(fit([(text("..x", label=2),)], 3, "refuse").groups[0]) == ["0 1 2*"]


@given(st.text(".x", min_size=2, max_size=12), st.integers(1, 6), st.integers(0, 1))
def test_a_cut_example_fits_and_learns_whole_answers(mask: str, window: int, begin: int) -> None:
    one = text(f"{'.' * begin}{mask}")
    if length((one,)) <= window:
        return
    shorter = cut((one,), window, begin)
    if shorter is None:
        return
    (left,) = shorter
    assert len(left.inputs) == window and left.ids[-1] == one.ids[-1] and (not begin or left.ids[0] == 0)
    starts = [i for i in np.flatnonzero(left.learned) if not left.learned[i - 1]]
    assert starts and all(not one.learned[left.ids[i] - 1] and i > begin for i in starts)
