"""One word or punctuation mark, one id."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Self

from jaxllm.tokenizers.base import Tokenizer, as_texts, token_to_id, vocabulary_from
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import to_utf8

UNKNOWN = "<|unk|>"
# White space separates words; each of these marks, and a double dash, is a token of its own.
_SPLIT = re.compile(r"""([,.:;?_!"()']|--|\s)""")
_SPACE_BEFORE_MARK = re.compile(r"""\s+([,.:;?!"()'])""")


def split_words(text: str) -> list[str]:
    """`"Hello, world--yes."` -> `["Hello", ",", "world", "--", "yes", "."]`."""
    return [word for part in _SPLIT.split(text) if (word := part.strip())]


class WordTokenizer(Tokenizer):
    """The vocabulary is words in code point order, then `<|endoftext|>` and `<|unk|>`, which stands for other words.

    Rules and ids are those of Raschka's "Build a Large Language Model (From Scratch)", chapter 2. White space is lost:
    decoding puts one space between words and none before a punctuation mark.
    """

    kind = "word"

    def __init__(self, words: Iterable[str]) -> None:
        self.tokens = (*words, END_OF_TEXT, UNKNOWN)
        self._ids = token_to_id(self.tokens)

    @classmethod
    def train(cls, text: str | Iterable[str], vocab_size: int | None = None) -> Self:
        """All words that occur, or the `vocab_size - 2` most frequent ones (ties: code point order).

        Raises InputError for text without words and for a vocabulary without room for one.
        """
        counts: dict[str, int] = {}
        for part in as_texts(text):
            to_utf8(part)
            for word in split_words(part):
                counts[word] = counts.get(word, 0) + 1
        for special in (END_OF_TEXT, UNKNOWN):
            counts.pop(special, None)
        if not counts:
            raise InputError("the text holds no words; a word tokenizer needs at least one.")
        if vocab_size is not None and vocab_size < 3:
            raise InputError(f"tokenizer.vocab_size is {vocab_size}, but one word and two special tokens need 3.")
        kept = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size and vocab_size - 2]
        return cls(sorted(kept))

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def end_of_text(self) -> int:
        return self._ids[END_OF_TEXT]

    def encode(self, text: str, allowed_special: Collection[str] = (END_OF_TEXT,)) -> list[int]:
        """The ids. A word outside the vocabulary becomes `<|unk|>`.

        As in the book, `<|endoftext|>` in the text is the special token; with `allowed_special=()` it is a word.
        """
        for name in set(allowed_special) - {END_OF_TEXT, UNKNOWN}:
            raise InputError(f"{name!r} is not a special token; there are {END_OF_TEXT}, {UNKNOWN}.")
        unknown = self._ids[UNKNOWN]
        refused = {END_OF_TEXT, UNKNOWN} - set(allowed_special)
        return [unknown if word in refused else self._ids.get(word, unknown) for word in split_words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        return _SPACE_BEFORE_MARK.sub(r"\1", " ".join(self.tokens[i] for i in self.check_ids(ids)))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """As in the base class; a word comes with the space before it."""
        before = ""
        for i in ids:
            yield _SPACE_BEFORE_MARK.sub(r"\1", before + self.tokens[self.check_ids([i])[0]])
            before = " "

    def to_dict(self) -> dict[str, Any]:
        return {"words": list(self.tokens[:-2])}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        words = vocabulary_from(fields, "words")
        if {END_OF_TEXT, UNKNOWN} & set(words):
            raise InputError("the tokenizer file is damaged: 'words' holds a special token.")
        return cls(words)
