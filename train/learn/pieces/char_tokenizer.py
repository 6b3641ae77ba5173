"""Piece 2: characters as ids."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from jaxllm.tokenizers.char import CharTokenizer

from ..piece import Arguments, Function, Piece, Slip

TEXT = "Please buy an apple,\nan Orange and a Zebra: 3 €!"
_CHARACTERS = np.array(list("abcxyz ABCXYZ\n\t.,!0189äß€語🙂"))


def build_vocabulary(text: str) -> list[str]:
    """The characters of a text, in code point order."""
    return list(CharTokenizer.train(text).characters)


def encode(text: str, vocabulary: list[str]) -> list[int]:
    """The id of each character."""
    return CharTokenizer(vocabulary).encode(text)


def decode(ids: list[int], vocabulary: list[str]) -> str:
    """The characters of the ids."""
    return CharTokenizer(vocabulary).decode(ids)


def varied_vocabulary(
    text: str, *, order: str = "sorted", lower: bool = False, without_spaces: bool = False, more: bool = False
) -> list[str]:
    """`build_vocabulary` with the mistakes that the keywords choose."""
    characters = list("".join(text.split()) if without_spaces else text)
    if lower:
        characters = [character.lower() for character in characters]
    orders: dict[str, Callable[[], list[str]]] = {
        "sorted": lambda: sorted(set(characters)),
        "first seen": lambda: list(dict.fromkeys(characters)),
        "by count": lambda: [character for character, _ in Counter(characters).most_common()],
        "ignoring case": lambda: sorted(sorted(set(characters)), key=str.lower),
        "repeated": lambda: sorted(characters),
        "descending": lambda: sorted(set(characters), reverse=True),
    }
    return orders[order]() + (["<|endoftext|>", "<|unk|>"] if more else [])


def varied_encode(
    text: str, vocabulary: list[str], *, first: int = 0, without_spaces: bool = False, ids: str = "of the vocabulary"
) -> list[int]:
    """`encode` with the mistakes that the keywords choose."""
    text = "".join(text.split()) if without_spaces else text
    if ids == "code points":
        return [ord(character) for character in text]
    if ids == "bytes":
        return list(text.encode())
    table = list(dict.fromkeys(text)) if ids == "of the text" else vocabulary
    return [table.index(character) + first for character in text]


def varied_decode(ids: list[int], vocabulary: list[str], *, first: int = 0, between: str = "", by: str = "id") -> str:
    """`decode` with the mistakes that the keywords choose."""
    if by == "code point":
        return "".join(map(chr, ids))
    return between.join(vocabulary[i - first] for i in (reversed(ids) if by == "reversed id" else ids))


def _texts(rng: np.random.Generator) -> Iterator[str]:
    yield from ("b", "ba", "bAab", "b a\n", "aé", TEXT)
    for n in (7, 13, 40):
        yield "".join(rng.choice(_CHARACTERS, n))


def _vocabulary_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield from ({"text": text} for text in _texts(rng))


def _encode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"text": "b", "vocabulary": ["a", "b"]}
    for text in _texts(rng):
        yield {"text": text, "vocabulary": build_vocabulary(text + "!a é")}
    yield {"text": "", "vocabulary": ["a", "b"]}


def _decode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for ids in ([1], [1, 0]):
        yield {"ids": ids, "vocabulary": ["a", "b"]}
    for text in _texts(rng):
        vocabulary = build_vocabulary(text)
        yield {"ids": [int(i) for i in rng.integers(len(vocabulary), size=5)], "vocabulary": vocabulary}
    yield {"ids": [], "vocabulary": ["a", "b"]}


VOCABULARY_SLIPS = (
    Slip(
        "not-sorted",
        "holds the characters in the order in which they occur",
        "Ids then depend on how the text begins. Sorted characters have the same ids however the text is ordered.",
        "In which order do the characters come into the list?",
        partial(varied_vocabulary, order="first seen"),
    ),
    Slip(
        "sorted-by-count",
        "holds the characters in the order of how often they occur",
        "Here the order is that of code points. Counts change with every text that is added.",
        "What is the key of the sort?",
        partial(varied_vocabulary, order="by count"),
    ),
    Slip(
        "sorted-ignoring-case",
        "is sorted as if all letters were small",
        'Code points put all capitals before all small letters, so "Z" is before "a". A dictionary\'s order is '
        "another.",
        "What is the key of the sort?",
        partial(varied_vocabulary, order="ignoring case"),
    ),
    Slip(
        "sorted-downwards",
        "is sorted from the largest code point to the smallest",
        "The id of a character is its rank, and ranks count from the smallest. Here the last character has id 0.",
        "Which character should have id 0?",
        partial(varied_vocabulary, order="descending"),
    ),
    Slip(
        "repeats-kept",
        "holds a character as often as it occurs",
        "A character must have one id. As it is, the vocabulary is as long as the text.",
        "How many ids should a character have that occurs twice?",
        partial(varied_vocabulary, order="repeated"),
    ),
    Slip(
        "lower-case",
        "holds small letters in the place of capitals",
        'Capitals are lost, and no model can learn to write them. "A" and "a" are two characters.',
        "Which step changes the letters?",
        partial(varied_vocabulary, lower=True),
    ),
    Slip(
        "white-space-left-out",
        "lacks spaces and line ends",
        "White space is text as well, and a model must learn where words end. Without it a text cannot be encoded.",
        "Which characters of the text does the vocabulary not have?",
        partial(varied_vocabulary, without_spaces=True),
    ),
    Slip(
        "special-tokens-added",
        "has the special tokens of the word tokenizer at its end",
        "Every character that occurs has an id, so this piece needs no special tokens. They are in piece 1.",
        "Which entries are longer than one character?",
        partial(varied_vocabulary, more=True),
    ),
)

ENCODE_SLIPS = (
    Slip(
        "ids-from-one",
        "has ids that count from 1",
        "Ids are rows of a table, and rows count from 0. The last id would have no row.",
        "Which id has the first character of the vocabulary?",
        partial(varied_encode, first=1),
    ),
    Slip(
        "code-points",
        "equals the code points of the characters",
        "A code point can be as large as a million, and a table with so many rows is mostly unused. The id of a "
        "character is its place in the vocabulary.",
        "What have you used the vocabulary for?",
        partial(varied_encode, ids="code points"),
    ),
    Slip(
        "bytes",
        "equals the bytes of the text in UTF-8",
        "Bytes come in piece 3. Here an id is the place of a character in the vocabulary.",
        "What have you used the vocabulary for?",
        partial(varied_encode, ids="bytes"),
    ),
    Slip(
        "vocabulary-of-this-text",
        "has ids that are counted in the order of this text",
        "Another text would give the same characters other ids. The vocabulary alone decides.",
        "What have you used the vocabulary for?",
        partial(varied_encode, ids="of the text"),
    ),
    Slip(
        "white-space-skipped",
        "leaves out spaces and line ends",
        "White space has ids as letters do. Left out, it cannot come back when the ids are decoded.",
        "How many ids should a text of five characters have?",
        partial(varied_encode, without_spaces=True),
    ),
)

DECODE_SLIPS = (
    Slip(
        "ids-from-one",
        "equals the characters for ids that count from 1",
        "Each id then gives the character before its own, and id 0 gives the last. Ids count from 0.",
        "Which character has id 0?",
        partial(varied_decode, first=1),
    ),
    Slip(
        "spaces-between",
        "has a space between characters",
        "Words lose their white space when they are split, but characters do not. Spaces are characters of the text.",
        "What do you put between two characters?",
        partial(varied_decode, between=" "),
    ),
    Slip(
        "lines-between",
        "has a line end between characters",
        "Each character then stands on a line of its own. Line ends are characters of the text.",
        "What do you put between two characters?",
        partial(varied_decode, between="\n"),
    ),
    Slip(
        "code-points",
        "takes the ids as code points",
        "An id is a place in the vocabulary. The character with code point 1 is not the one with id 1.",
        "What have you used the vocabulary for?",
        partial(varied_decode, by="code point"),
    ),
    Slip(
        "backwards",
        "has the characters in the reverse order",
        "The first id is the first character. Text is read from the left.",
        "At which end of the text do you add a character?",
        partial(varied_decode, by="reversed id"),
    ),
)

PIECE = Piece(
    "char_tokenizer",
    "Character tokenizer",
    "A vocabulary of single characters is small and knows every word, at the price of long sequences.",
    (
        Function("build_vocabulary", build_vocabulary, _vocabulary_cases, VOCABULARY_SLIPS),
        Function("encode", encode, _encode_cases, ENCODE_SLIPS),
        Function("decode", decode, _decode_cases, DECODE_SLIPS),
    ),
)
