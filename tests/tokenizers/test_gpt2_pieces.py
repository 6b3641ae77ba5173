"""GPT-2's pieces by arrays of characters: the same as by the regular expression."""

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.tokenizers import textbook
from jaxllm.tokenizers.gpt2_pieces import (
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    SURROGATE,
    count_gpt2_pieces,
    kinds,
    piece_starts,
)
from jaxllm.tokenizers.pre_tokenize import split_pieces
from tests.tokenizers.test_pre_tokenize import HARD, SCRIPTS

anything = st.characters(exclude_categories=("Cs",))
hard = st.text(st.sampled_from("'sdmtlver A1!  \n\t\0\x1c\x85\xa0\u3000é½東🙂\u0301\U00018000"), max_size=40)


def pieces_of(texts: Sequence[str]) -> list[str]:
    """The pieces of all texts, in order, as `piece_starts` finds them."""
    joined = "".join(text + SURROGATE for text in texts) + SURROGATE * 2
    starts, _ = piece_starts(np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4"))
    pieces = [joined[i:j] for i, j in zip(starts, [*starts[1:], len(joined)], strict=True)]
    return [piece for piece in pieces if SURROGATE not in piece]


@pytest.mark.parametrize(("alphabet", "length"), [("' \n\u3000sdmtlverx1!", 3), ("' \nslv e1!", 4), ("' \ntl!", 6)])
def test_every_short_text(alphabet: str, length: int) -> None:
    """All texts of a few characters, of each kind and of each contraction, side by side."""
    texts = ["".join(text) for text in product(alphabet, repeat=length)]
    texts += [text[:-1] for text in texts[:: len(alphabet)]]
    assert pieces_of(texts) == [piece for text in texts for piece in split_pieces(text)]


@pytest.mark.parametrize(
    ("kind", "pattern"), [(SPACE, r"\s"), (LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (OTHER, r"[^\s\p{L}\p{N}]")]
)
def test_every_character_has_the_kind_that_regex_finds(kind: int, pattern: str) -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert [chr(i) for i in np.flatnonzero(kinds() == kind)] == regex.findall(pattern, every)


@given(st.lists(st.text(anything) | hard, max_size=5))
@example([*HARD, SCRIPTS])
@example([textbook.__doc__ or "", *("x" * n + "é" * m for n in range(18) for m in range(4))])  # of about 7 and 15 bytes
@example([" beginningly beginnings beginningly beginnings" * 2])  # alike in the first eight bytes
@example(["'", "s", "'l", "l", " ", " x", "", "", "a'"])  # a piece never spans two texts
def test_counts_are_those_of_the_regular_expression(texts: list[str]) -> None:
    assert pieces_of(texts) == [piece for text in texts for piece in split_pieces(text)]
    assert count_gpt2_pieces(texts) == Counter(piece.encode() for text in texts for piece in split_pieces(text))


def test_nothing_and_half_a_character() -> None:
    assert count_gpt2_pieces([]) == count_gpt2_pieces([""]) == Counter()
    with pytest.raises(InputError, match="lone surrogate, .* at position 1"):
        count_gpt2_pieces(["fine", "a\ud800"])
