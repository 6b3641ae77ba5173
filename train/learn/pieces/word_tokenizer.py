"""Piece 1: words and punctuation marks as ids. Most of its slips are in `word_tokenizer_slips`."""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.word import WordTokenizer

from ..piece import Arguments, Function, Piece, Slip
from .word_tokenizer_slips import ENCODE_SLIPS, VOCABULARY_SLIPS

TEXT = "The cat saw the dog--twice. Did it? It did, (so) they don't say: no_one!"
SHORT = "to be, or not to be"
_WORDS = ("a", "an", "Apple", "apple", "Zoo", "orange", "buy", "Please", "phone's", "pre-war", "ends--begins", "x_1")
_AFTER = ("", "", "", ",", ".", "!", "?", ":", ";", ")", '"', "'", " --", "\n")


def build_vocabulary(text: str) -> list[str]:
    """The words of a text in code point order, then the two special tokens."""
    return list(WordTokenizer.train(text).tokens)


def encode(text: str, vocabulary: list[str]) -> list[int]:
    """The ids of a text's words."""
    return WordTokenizer(vocabulary[:-2]).encode(text)


def decode(ids: list[int], vocabulary: list[str]) -> str:
    """The words of the ids, with one space between words and none before a mark."""
    return WordTokenizer(vocabulary[:-2]).decode(ids)


def _texts(rng: np.random.Generator) -> Iterator[str]:
    for n in (5, 9, 17):
        yield " ".join(rng.choice(_WORDS) + rng.choice(_AFTER) for _ in range(n))


def _vocabulary_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for text in ("b a", "b A a b", "it--is, is it?", "a-b don't", SHORT, TEXT, *_texts(rng)):
        yield {"text": text}


def _encode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    few = build_vocabulary("a b")
    for text in ("b a", "a c b", "B a", "a,b"):
        yield {"text": text, "vocabulary": few}
    several = build_vocabulary(TEXT + " a-b '")
    for text in ("The end--so.", f"no {END_OF_TEXT} yes", "a-b, don't", "one_one  dog\n", TEXT, "", *_texts(rng)):
        yield {"text": text, "vocabulary": several}


def _decode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    few = build_vocabulary("a b ,")
    for ids in ([1, 2], [2, 0, 1], [1, 4, 2, 3]):
        yield {"ids": ids, "vocabulary": few}
    for text in ('(so) no_one: it--yes? "no"!', "they don't; say.", *_texts(rng)):
        vocabulary = build_vocabulary(re.sub("[_-]+", " _ -- ", text))
        yield {"ids": [int(i) for i in rng.permutation(len(vocabulary))], "vocabulary": vocabulary}
    yield {"ids": [], "vocabulary": few}


def varied_decode(
    ids: list[int], vocabulary: list[str], *, between: str = " ", after: str = "", more: str = "", marks: bool = True,
    quotes: bool = True, apostrophes: bool = True, brackets: bool = True, colons: bool = True, both_sides: bool = False,
    first: int = 0,
) -> str:  # fmt: skip
    """`decode` with the mistakes that the keywords choose."""
    text = between.join(vocabulary[i - first] for i in ids) + (after if ids else "")
    joined = ",.?!" + '"' * quotes + "'" * apostrophes + "()" * brackets + ":;" * colons + more
    if not marks:
        return text
    return re.sub(rf"\s+([{re.escape(joined)}])" + (r"\s*" if both_sides else ""), r"\1", text)


DECODE_SLIPS = (
    Slip(
        "space-before-marks",
        "has a space before punctuation marks",
        "Each word is joined by a space, and a mark is a token like a word. The space before it must go.",
        'What should become of "a ," in the joined text?',
        partial(varied_decode, marks=False),
    ),
    Slip(
        "only-some-marks",
        "has no space before . , ? and !, but one before the other marks",
        "Colons, semicolons, quotes, brackets and apostrophes are marks as well. The lesson lists them all.",
        "Compare your list of marks with that of the lesson.",
        partial(varied_decode, quotes=False, apostrophes=False, brackets=False, colons=False),
    ),
    Slip(
        "space-before-quotes",
        "has a space before double quotes",
        "They are among the marks that lose the space before them. The lesson lists them all.",
        "Compare your list of marks with that of the lesson.",
        partial(varied_decode, quotes=False),
    ),
    Slip(
        "space-before-apostrophes",
        "has a space before apostrophes",
        "They are among the marks that lose the space before them. The lesson lists them all.",
        "Compare your list of marks with that of the lesson.",
        partial(varied_decode, apostrophes=False),
    ),
    Slip(
        "space-before-brackets",
        "has a space before brackets",
        "They are among the marks that lose the space before them, opening ones too. The lesson lists them all.",
        "Compare your list of marks with that of the lesson.",
        partial(varied_decode, brackets=False),
    ),
    Slip(
        "space-before-colons",
        "has a space before colons and semicolons",
        "They are among the marks that lose the space before them. The lesson lists them all.",
        "Compare your list of marks with that of the lesson.",
        partial(varied_decode, colons=False),
    ),
    Slip(
        "dashes-joined",
        "has no space before a dash or an underscore either",
        "These are tokens of their own, but not among the marks that lose their space. Splitting and joining use two "
        "lists.",
        "Is each sign at which you split also one that is joined?",
        partial(varied_decode, more="_-"),
    ),
    Slip(
        "no-space-after-marks",
        "has no space after punctuation marks",
        "Only the space before a mark is taken away. The next word begins after a space.",
        "On which side of the mark do you remove white space?",
        partial(varied_decode, both_sides=True),
    ),
    Slip(
        "no-spaces",
        "has no spaces between words",
        "The tokens hold no white space, since splitting threw it away. It must be put back between them.",
        "What stands between two words?",
        partial(varied_decode, between=""),
    ),
    Slip(
        "space-at-the-end",
        "ends with a space",
        "A space belongs between two words, not after each. At the end there is no next word.",
        "How many spaces lie between three words?",
        partial(varied_decode, after=" "),
    ),
    Slip(
        "ids-from-one",
        "equals the words for ids that count from 1",
        "Each id then gives the word before its own, and id 0 gives the last token. Ids count from 0.",
        "Which word has id 0?",
        partial(varied_decode, first=1),
    ),
)

PIECE = Piece(
    "word_tokenizer",
    "Word tokenizer",
    "A text is split into words and marks, and each is replaced by its number in a sorted vocabulary.",
    (
        Function("build_vocabulary", build_vocabulary, _vocabulary_cases, VOCABULARY_SLIPS),
        Function("encode", encode, _encode_cases, ENCODE_SLIPS),
        Function("decode", decode, _decode_cases, DECODE_SLIPS),
    ),
)
