"""What every tokenizer is: text to ids and back, kept in one JSON file.

minbpe's three methods (train, encode, decode) and tiktoken's data model (ranks, pattern, special tokens);
unlike minbpe's own file, the JSON holds everything that changes an id, and nothing in it is executed.
"""

import codecs
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import regex

from jaxllm.tokenizers.parts import ENDS, cut, in_parts
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.validate import shown

FORMAT = "jaxllm tokenizer"
VERSION = 1
END_OF_TEXT = "<|endoftext|>"
# Special tokens that separate documents in published models: GPT-2 and Qwen, Llama 3, Llama 2 and Mistral, Gemma.
DOCUMENT_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
NOTHING: Mapping[str, int] = MappingProxyType({})


class Tokenizer(ABC):
    """Text to ids and back. Immutable; two tokenizers are equal where their files are."""

    kind: ClassVar[str]
    special_tokens: Mapping[str, int] = NOTHING  # found in a text where the caller allows it
    added: Mapping[str, int] = NOTHING  # found in any text

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids; they are 0 to vocab_size - 1."""

    @property
    def end_of_text(self) -> int | None:
        """The id of the token that separates documents; None where the tokenizer has none."""
        return None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of the text."""

    def encode_part(self, text: str, start: int) -> list[int]:
        """The ids of the part of a text that begins at character `start`, as `cut` made it.

        The ids of all parts, one after another, are those of the whole text.
        """
        return self.encode(text)

    def cut(self, text: str, size: int | None = None) -> Iterator[str]:
        """The text in parts for `encode_part`, of `size` characters (2**20 by default) or a little more.

        The last part may be continued by more text. A text without a place to cut stays whole.
        """
        return cut(text, size, self._ends, self.added)

    @property
    def _ends(self) -> "regex.Pattern[str]":
        """Where parts may end."""
        return ENDS

    def encode_stream(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of the texts joined, some at a time: those of `encode`, but of a text without white space for over
        2**24 characters, which is cut within words."""
        start = 0
        for part in in_parts(texts, self.cut):
            yield self.encode_part(part, start)
            start += len(part)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Raises InputError for an id outside the vocabulary."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of the ids in UTF-8, exact even where the ids begin or end within a character."""
        return self.decode(ids).encode()

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text whose ids they are: those of `decode`, but exact where they are no UTF-8."""
        return self.decode_bytes(ids)

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """`decode`, piece by piece as the ids come: never a part of a character, together the whole text.

        What never becomes a character is U+FFFD, as in `decode`. Raises InputError for an id outside the vocabulary.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            if text := decoder.decode(self.decode_bytes([i])):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The fields of the JSON file."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises InputError for damaged fields."""

    def ending_documents_with(self, name: str | None) -> Self:
        """This tokenizer with documents separated by the special token `name`, the end token that a model's files name.

        A chat model's file may name the token that ends an answer, such as Qwen's `<|im_end|>`. So a token of
        DOCUMENT_ENDS that the tokenizer has is kept, unless `name` is another of them. A name that is no special token
        changes nothing.
        """
        id_of = self.special_tokens.get(name or "")
        if id_of in (None, self.end_of_text) or (self.end_of_text is not None and name not in DOCUMENT_ENDS):
            return self
        return self.from_dict({**self.to_dict(), "end": name})

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as one JSON file. Raises OSError where it cannot be written; then there is none."""
        content = {"format": FORMAT, "version": VERSION, "kind": self.kind, **self.to_dict()}
        replace_file(Path(path), (json.dumps(content, ensure_ascii=True) + "\n").encode())

    def fingerprint(self) -> str:
        """sha256 of what `save` writes, in one fixed form: equal for equal tokenizers, whatever wrote their files."""
        content = json.dumps({"kind": self.kind, **self.to_dict()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def check_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids as a list of ints. Raises InputError for one outside the vocabulary."""
        checked = [int(i) for i in ids]
        for i in checked:
            if not 0 <= i < self.vocab_size:
                raise InputError(
                    f"id {i} is outside the vocabulary of {self.vocab_size} ids, 0 to {self.vocab_size - 1}."
                )
        return checked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and (self.kind, self.to_dict()) == (other.kind, other.to_dict())

    def __hash__(self) -> int:
        return hash((self.kind, self.vocab_size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


def vocabulary_from(fields: dict[str, Any], key: str) -> list[str]:
    """A list of distinct strings out of a tokenizer file."""
    tokens = fields.get(key)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"the tokenizer file is damaged: {key!r} must be a list of strings.")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"the tokenizer file is damaged: {key!r} holds a token twice.")
    to_utf8("".join(tokens))
    return tokens


def ids_from(fields: dict[str, Any], key: str) -> dict[str, int]:
    """Names and their ids out of a tokenizer file, where it has such a field."""
    given = fields.get(key, {})
    if not isinstance(given, dict) or not all(type(i) is int for i in given.values()):
        raise InputError(f"the tokenizer file is damaged: the ids of {key!r} must be integers.")
    return given


def end_from(fields: dict[str, Any]) -> str | None:
    """The name of the token that separates documents out of a tokenizer file, where it holds one."""
    end = fields.get("end")
    if end is not None and (not isinstance(end, str) or end not in fields["special_tokens"]):
        raise InputError(f"the tokenizer file is damaged: 'end' is {shown(end)}, which is no special token.")
    return end


def to_utf8(text: str) -> bytes:
    """The text's bytes. Raises InputError for a lone surrogate, which no UTF-8 can hold."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}; "
            "it is half of a character, remove or replace it."
        ) from None


def parted(
    text: str, special_tokens: Mapping[str, int], allowed: Collection[str], added: Mapping[str, int] = NOTHING
) -> list[str | int]:
    """The text cut at the special tokens that are allowed in it and at all added tokens, each of which becomes its id.

    The leftmost is found first, and of those that begin at one place the longest, as Hugging Face's `tokenizers` does.
    Raises InputError for a lone surrogate or a name that is no special token.

    >>> parted("a<b>", {"<b>": 7, "<": 8}, ["<b>"])
    ['a', 7]
    >>> parted("a<b>c", {"<b>": 7}, ["<b>"], {"<b>c": 9})
    ['a', 9]
    """
    to_utf8(text)
    for name in allowed:
        if name not in special_tokens:
            raise InputError(f"{name!r} is not a special token; there are {', '.join(special_tokens)}.")
    ids = {**added, **{name: special_tokens[name] for name in allowed}}
    parts = _finder(frozenset(ids)).split(text) if ids else [text]
    return [ids[part] if i % 2 else part for i, part in enumerate(parts) if part]


def parted_again(parts: Iterable[str | int], added: Mapping[str, int]) -> Iterator[str | int]:
    """The parts, of which the texts are cut at the added tokens; see `parted`."""
    for part in parts:
        yield from parted(part, NOTHING, (), added) if added and isinstance(part, str) else [part]


def document_end(special_tokens: Mapping[str, int], end: str | None) -> int | None:
    """The id of the special token that separates documents: `end`, or the first of DOCUMENT_ENDS that is there."""
    names = DOCUMENT_ENDS if end is None else (end, *DOCUMENT_ENDS)
    return next((special_tokens[name] for name in names if name in special_tokens), None)


@lru_cache(16)
def _finder(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile(f"({any_of(names)})")


def any_of(names: Collection[str]) -> str:
    """The regular expression of these texts, the longest where several begin alike: a tree, which is a hundred times as
    fast for Gemma's 6,400 as one after another.

    >>> any_of(["<b>", "<bc>", "x"])
    '(?:<b(?:>|c>)|x)'
    """
    return _tree(sorted(set(names))) if names else "(?!)"


def _tree(names: list[str], depth: int = 100) -> str:
    if depth == 0:  # many texts, each of which begins with the one before; one after another, the longest first
        return f"(?:{'|'.join(map(re.escape, reversed(names)))})"
    rest = names[1:] if names[0] == "" else names
    branches = []
    for _, group in groupby(rest, key=lambda name: name[0]):
        alike = list(group)
        prefix = os.path.commonprefix(alike)
        ends = [name[len(prefix) :] for name in alike]
        branches.append(re.escape(prefix) + (_tree(ends, depth - 1) if len(ends) > 1 else ""))
    return f"(?:{'|'.join(branches)})" + ("?" if rest is not names else "")


def join(text: str | Iterable[str]) -> Iterable[str]:
    """A text, or an iterable of texts, as an iterable of texts."""
    return [text] if isinstance(text, str) else text


def index(tokens: Sequence[str]) -> dict[str, int]:
    """Token to id."""
    return {token: i for i, token in enumerate(tokens)}
