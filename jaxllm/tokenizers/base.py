"""The interface of every tokenizer: text to ids and back, saved as one JSON file.

The file holds everything that the ids depend on, and nothing in it is executed.
"""

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import regex

from jaxllm.tokenizers.chunks import BEFORE_SPACES, BOUNDARIES, chunk_text, rechunk
from jaxllm.tokenizers.special_tokens import DOCUMENT_ENDS, NO_STRIPS, NO_TOKENS, without_spaces
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import replace_file
from jaxllm.utils.utf8 import to_utf8

FORMAT = "jaxllm tokenizer"
VERSION = 1


class Tokenizer(ABC):
    """Text to ids and back. Tokenizers are immutable, and two are equal where their files are."""

    kind: ClassVar[str]
    special_tokens: Mapping[str, int] = NO_TOKENS  # found in a text where the caller allows it
    added: Mapping[str, int] = NO_TOKENS  # found in any text
    strips: Mapping[str, str] = NO_STRIPS  # the sides on which some of both take white space

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

    def encode_chunk(self, text: str, start: int) -> list[int]:
        """The ids of one of the `chunks` of a text, which begins at character `start` of the text.

        The ids of all chunks, joined, are the ids of the whole text.
        """
        return self.encode(text)

    def chunks(self, text: str, size: int | None = None) -> Iterator[str]:
        """The text in chunks for `encode_chunk`, of `size` characters (2**20 by default) or a little more.

        More text may follow the last chunk. A text without a boundary stays whole.
        """
        return chunk_text(text, size, self._boundaries, self.added)

    @property
    def _boundaries(self) -> "regex.Pattern[str]":
        """Where chunks may end: not within white space, if a token takes it."""
        return BEFORE_SPACES if self.strips else BOUNDARIES

    def without_spaces(self, parts: Iterable[str | int]) -> list[str | int]:
        """Texts and ids of tokens, without the white space that the tokens take and without empty texts."""
        return [part for part in without_spaces(parts, self.strips_by_id) if part != ""] if self.strips else [*parts]

    @cached_property
    def strips_by_id(self) -> dict[int, str]:
        """`strips` by the ids of the tokens."""
        ids = {**self.special_tokens, **self.added}
        return {ids[name]: side for name, side in self.strips.items()}

    def encode_stream(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of the texts joined, some at a time.

        They are the ids of `encode`, except for a text with over 2**24 characters without white space, which is cut
        within words.
        """
        start = 0
        for chunk in rechunk(texts, self.chunks):
            yield self.encode_chunk(chunk, start)
            start += len(chunk)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Raises InputError for an id outside the vocabulary."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of the ids in UTF-8, exact even where the ids begin or end within a character."""
        return self.decode(ids).encode()

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text that `decode` returns, exact also where they are not UTF-8."""
        return self.decode_bytes(ids)

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `decode`, piece by piece as the ids arrive, in whole characters only.

        Bytes that form no character become U+FFFD, as in `decode`. Raises InputError for an id outside the vocabulary.
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

        The end token in a chat model's files may be the one that ends an answer, such as Qwen's `<|im_end|>`. So if the
        tokenizer has a token of DOCUMENT_ENDS, that one is kept unless `name` is another of them. A name that is not a
        special token changes nothing.
        """
        id_of = self.special_tokens.get(name or "")
        if id_of in (None, self.end_of_text) or (self.end_of_text is not None and name not in DOCUMENT_ENDS):
            return self
        return self.from_dict({**self.to_dict(), "end": name})

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as one JSON file. Raises OSError where that fails; an older file then stays."""
        content = {"format": FORMAT, "version": VERSION, "kind": self.kind, **self.to_dict()}
        replace_file(Path(path), (json.dumps(content, ensure_ascii=True) + "\n").encode())

    def fingerprint(self) -> str:
        """sha256 of the tokenizer's fields in a canonical form: equal for equal tokenizers, however they were saved."""
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
    """A list of distinct strings, a field of a tokenizer file. Raises InputError for anything else."""
    tokens = fields.get(key)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"the tokenizer file is damaged: {key!r} must be a list of strings.")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"the tokenizer file is damaged: {key!r} holds a token twice.")
    to_utf8("".join(tokens))
    return tokens


def ids_from(fields: dict[str, Any], key: str) -> dict[str, int]:
    """Names and their ids, an optional field of a tokenizer file. Raises InputError for anything else."""
    given = fields.get(key, {})
    if not isinstance(given, dict) or not all(type(i) is int for i in given.values()):
        raise InputError(f"the tokenizer file is damaged: the ids of {key!r} must be integers.")
    return given


def end_from(fields: dict[str, Any]) -> str | None:
    """The name of the token that separates documents, an optional field of a tokenizer file. Raises InputError."""
    end = fields.get("end")
    if end is not None and (not isinstance(end, str) or end not in fields["special_tokens"]):
        raise InputError(f"the tokenizer file is damaged: 'end' is {shown(end)}, which is no special token.")
    return end


def strips_from(fields: dict[str, Any]) -> dict[str, str]:
    """Sides by name of a token, an optional field of a tokenizer file. Raises InputError for anything else."""
    strips = fields.get("strips", {})
    if not isinstance(strips, dict) or not all(isinstance(side, str) for side in strips.values()):
        raise InputError("the tokenizer file is damaged: 'strips' must be a table of sides by token.")
    return strips


def as_texts(text: str | Iterable[str]) -> Iterable[str]:
    """A text, or an iterable of texts, as an iterable of texts."""
    return [text] if isinstance(text, str) else text


def token_to_id(tokens: Sequence[str]) -> dict[str, int]:
    """Each token and its position, which is its id."""
    return {token: i for i, token in enumerate(tokens)}
