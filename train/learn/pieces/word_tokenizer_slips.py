"""The slips of piece 1: of splitting, of the vocabulary's order and of unknown words."""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial

from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.word import UNKNOWN

from ..piece import Slip

SPECIAL = [END_OF_TEXT, UNKNOWN]
DASHED, UNDASHED = r"""([,.:;?_!"()']|--|\s)""", r"""([,.:;?_!"()']|\s)"""


def _split_by(pattern: str) -> Callable[[str], list[str]]:
    return lambda text: [part for part in re.split(pattern, text) if part.strip()]


SPLITS: dict[str, Callable[[str], list[str]]] = {
    "as told": _split_by(DASHED),
    "spaces": str.split,
    "no dashes": _split_by(UNDASHED),
    "hyphens": _split_by(r"""([,.:;?_!"()'-]|\s)"""),
    "no apostrophe": _split_by(r"""([,.:;?_!"()]|--|\s)"""),
    "no underscore": _split_by(r"""([,.:;?!"()']|--|\s)"""),
    "only spaces": _split_by(r"""([,.:;?_!"()']|--| )"""),
    "white space kept": lambda text: [part for part in re.split(DASHED, text) if part],
    "empty kept": lambda text: [part.strip() for part in re.split(DASHED, text)],
}


def varied_vocabulary(
    text: str, *, split: str = "as told", lower: bool = False, order: str = "sorted", special: str = "last"
) -> list[str]:
    """`build_vocabulary` with the mistakes that the keywords choose."""
    words = SPLITS[split](text.lower() if lower else text)
    orders: dict[str, Callable[[], list[str]]] = {
        "sorted": lambda: sorted(set(words)),
        "first seen": lambda: list(dict.fromkeys(words)),
        "by count": lambda: [word for word, _ in Counter(words).most_common()],
        "ignoring case": lambda: sorted(sorted(set(words)), key=str.lower),
        "repeated": lambda: sorted(words),
    }
    kept = orders[order]()
    if special == "sorted in":
        return sorted([*kept, *SPECIAL])
    return {
        "last": [*kept, *SPECIAL],
        "exchanged": [*kept, *reversed(SPECIAL)],
        "first": [*SPECIAL, *kept],
        "none": kept,
        "unknown only": [*kept, UNKNOWN],
    }[special]


def varied_encode(
    text: str,
    vocabulary: list[str],
    *,
    split: str = "as told",
    lower: bool = False,
    unknown: str = "last",
    first: int = 0,
) -> list[int]:
    """`encode` with the mistakes that the keywords choose."""
    n = len(vocabulary)
    ids = {word: i for i, word in enumerate(vocabulary, first)}
    other = {"last": n - 1 + first, "end of text": n - 2 + first, "one past": n + first, "zero": 0, "dropped": None}
    found = [ids.get(word, other[unknown]) for word in SPLITS[split](text.lower() if lower else text)]
    return [i for i in found if i is not None]


_SPLIT_EXPLAINED = {
    "spaces": (
        "split-at-spaces-only",
        "equals a split at white space alone, so that marks stay on their words",
        '"end" and "end." are then two words with nothing in common. The vocabulary grows, and most of it is rare.',
        'What happens to the full stop in "the end." when you split?',
    ),
    "no dashes": (
        "double-dash-not-split",
        "equals a split in which a double dash does not separate words",
        '"yes--no" is then one word that hardly occurs again. A double dash is a token of its own, as a mark is.',
        "Which two characters together count as one mark?",
    ),
    "hyphens": (
        "hyphen-split",
        "equals a split at every single hyphen",
        'A hyphenated word is one word, and a double dash is one token. Here each "-" has become a token.',
        'Compare what you do with "a-b" and with "a--b".',
    ),
    "no apostrophe": (
        "apostrophe-not-split",
        "equals a split in which the apostrophe is part of a word",
        "\"don't\" is three tokens here, since ' is among the marks. Left inside, each contraction is a word of its "
        "own.",
        "Go through the list of marks one by one.",
    ),
    "no underscore": (
        "underscore-not-split",
        "equals a split in which the underscore is part of a word",
        "It is among the marks at which a text is split. Two names that are joined by it would be a third word.",
        "Go through the list of marks one by one.",
    ),
    "only spaces": (
        "line-ends-not-split",
        "equals a split at spaces, but not at line ends",
        "A line end is white space as a space is. The last word of a line and the first of the next are two.",
        "Which characters are white space?",
    ),
    "white space kept": (
        "white-space-kept",
        "holds white space as tokens",
        "Spaces separate words and are no words. As tokens they take about half of every text.",
        "What stands between two words after the split, and should it stay?",
    ),
    "empty kept": (
        "empty-strings-kept",
        "holds empty strings as tokens",
        "A split between two neighbouring marks leaves an empty string. It is no word, and an id for it stands for "
        "nothing.",
        "Print the list right after the split.",
    ),
}


def _split_slips(varied: Callable[..., object], *names: str) -> tuple[Slip, ...]:
    return tuple(Slip(*_SPLIT_EXPLAINED[name], partial(varied, split=name)) for name in names)


VOCABULARY_SLIPS = (
    *_split_slips(varied_vocabulary, *_SPLIT_EXPLAINED),
    Slip(
        "not-sorted",
        "holds the words in the order in which they occur",
        "Ids then depend on the order of the text's sentences. Sorted words have the same ids however the text is "
        "ordered.",
        "In which order do the words come into the list?",
        partial(varied_vocabulary, order="first seen"),
    ),
    Slip(
        "sorted-by-count",
        "holds the words in the order of how often they occur",
        "Other tokenizers do this, but here the order is that of code points. Counts change with every text that is "
        "added.",
        "What is the key of the sort?",
        partial(varied_vocabulary, order="by count"),
    ),
    Slip(
        "sorted-ignoring-case",
        "is sorted as if all letters were small",
        'Code points put all capitals before all small letters, so "Zoo" is before "apple". A dictionary\'s order is '
        "another.",
        "What is the key of the sort?",
        partial(varied_vocabulary, order="ignoring case"),
    ),
    Slip(
        "repeats-kept",
        "holds a word as often as it occurs",
        "A word must have one id, and only the last of its places would be used. The table of vectors would be as "
        "long as the text.",
        "How many ids should a word have that occurs twice?",
        partial(varied_vocabulary, order="repeated"),
    ),
    Slip(
        "lower-case",
        "holds the words in small letters",
        'Capitals are lost, and no model can learn to write them. "Apple" and "apple" are two words.',
        "Which step changes the letters?",
        partial(varied_vocabulary, lower=True),
    ),
    Slip(
        "unknown-not-last",
        "holds the two special tokens in the other order",
        "The unknown token is the last id, after the end of text. Code that takes the last id for unknown words "
        "breaks.",
        "Read the order of the last two tokens again.",
        partial(varied_vocabulary, special="exchanged"),
    ),
    Slip(
        "special-tokens-first",
        "has the special tokens before the words",
        "All words then have ids that are two too large. The special tokens come after the last word.",
        "Where does the list of words begin?",
        partial(varied_vocabulary, special="first"),
    ),
    Slip(
        "special-tokens-sorted-in",
        "has the special tokens sorted among the words",
        'The sign "<" lies between the marks and the letters, so the special tokens land there. They belong after '
        "all words.",
        "Which comes first: sorting, or adding the special tokens?",
        partial(varied_vocabulary, special="sorted in"),
    ),
    Slip(
        "no-special-tokens",
        "lacks the special tokens",
        "A word outside the vocabulary then has no id. Nor can the end of a document be written.",
        "Count the entries that do not come from the text.",
        partial(varied_vocabulary, special="none"),
    ),
    Slip(
        "no-end-of-text",
        "lacks the token for the end of a text",
        "A model learns from that token where a document stops. Without it the ends of documents run together.",
        "Count the entries that do not come from the text.",
        partial(varied_vocabulary, special="unknown only"),
    ),
)

ENCODE_SLIPS = (
    *_split_slips(
        varied_encode,
        "spaces",
        "no dashes",
        "no apostrophe",
        "no underscore",
        "only spaces",
        "white space kept",
        "empty kept",
    ),
    Slip(
        "lower-case",
        "equals the ids of the text in small letters",
        "A capital word is then looked up under another name, and is often unknown. The vocabulary keeps capitals.",
        "Which step changes the letters?",
        partial(varied_encode, lower=True),
    ),
    Slip(
        "unknown-dropped",
        "leaves out the words that are not in the vocabulary",
        "The text closes up over the gap, and the model sees neighbours that never were. An unknown word keeps its "
        "place.",
        "How many ids should a text of three words have?",
        partial(varied_encode, unknown="dropped"),
    ),
    Slip(
        "unknown-is-end-of-text",
        "has the id of the end of text for unknown words",
        "Every unknown word would end the document. The two special tokens have different ids.",
        "Which of the last two ids is which?",
        partial(varied_encode, unknown="end of text"),
    ),
    Slip(
        "unknown-past-the-end",
        "has an id for unknown words that is one past the vocabulary",
        "No row of the embedding table belongs to that id. The vocabulary already holds a token for unknown words.",
        "What is the largest id of a vocabulary of five tokens?",
        partial(varied_encode, unknown="one past"),
    ),
    Slip(
        "unknown-is-zero",
        "has id 0 for unknown words",
        "Id 0 is a real word or mark, and unknown words would be read as it. There is a token for them.",
        "Which token stands for words that you do not know?",
        partial(varied_encode, unknown="zero"),
    ),
    Slip(
        "ids-from-one",
        "has ids that count from 1",
        "Ids are rows of a table, and rows count from 0. The last id would have no row.",
        "Which id has the first word of the vocabulary?",
        partial(varied_encode, first=1),
    ),
)
