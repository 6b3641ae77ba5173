"""Byte-pair encoding on UTF-8 bytes: merges are learned by `bpe_training`, text is encoded by `bpe_encoding`."""

import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from jaxllm.tokenizers.base import Tokenizer, as_texts, end_from, ids_from, strips_from, vocabulary_from
from jaxllm.tokenizers.bpe_encoding import BPEEncoder
from jaxllm.tokenizers.bpe_training import learn_merges
from jaxllm.tokenizers.chunks import LONGEST_CHUNK
from jaxllm.tokenizers.custom_pattern import check_pattern
from jaxllm.tokenizers.pre_tokenize import count_pieces
from jaxllm.tokenizers.special_tokens import (
    END_OF_TEXT,
    NO_STRIPS,
    NO_TOKENS,
    check_strips,
    document_end,
    split_at_added,
    split_at_tokens,
)
from jaxllm.tokenizers.split_patterns import PATTERNS
from jaxllm.tokenizers.textbook import tokens_of
from jaxllm.utils.errors import InputError, Note, shown
from jaxllm.utils.processes import check_processes
from jaxllm.utils.utf8 import to_utf8


class BPETokenizer(Tokenizer):
    """Tokens are byte strings; their order is the order in which pairs are merged.

    The 256 single bytes come first, in any order. A published vocabulary may lack some of them, which `encode` then
    leaves out, as Hugging Face tokenizers do. Special tokens given as names have the ids after the last token; given as
    a mapping they have its ids, and the tokens have the remaining ids in order.

    `pattern` splits text into pieces: a name in PATTERNS, or a regular expression that matches every character, for a
    vocabulary with all bytes. With `normalization` "NFC" a text is first brought into that form of Unicode, so `decode`
    returns it in that form.

    `added` tokens are not special: they are found in any text, before it is split into pieces. Those that are also in
    `normalized` are found last, in the normalized text. `end` names the special token that separates documents, where
    it is not the first of DOCUMENT_ENDS. `strips` says which special and added tokens take the white space beside them,
    and on which of SIDES. Raises InputError for names or ids that do not fit together.
    """

    kind = "bpe"
    special_tokens: dict[str, int]
    added: dict[str, int]

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_tokens: Sequence[str] | Mapping[str, int] = (END_OF_TEXT,),
        pattern: str = "gpt2",
        normalization: str | None = None,
        added: Mapping[str, int] = NO_TOKENS,
        normalized: Collection[str] = (),
        end: str | None = None,
        strips: Mapping[str, str] = NO_STRIPS,
    ) -> None:
        check_pattern(pattern)
        if normalization not in (None, "NFC"):
            raise InputError(f"normalization is {shown(normalization)}, but it must be 'NFC' or left out.")
        self.pattern, self.normalization = pattern, normalization
        names = [*special_tokens, *added]
        if len(set(names)) != len(names) or "" in names:
            raise InputError(f"special and added tokens must be distinct and not empty, but they are {shown(names)}.")
        to_utf8("".join(names))
        self.tokens = tuple(tokens)
        if not isinstance(special_tokens, Mapping):
            special_tokens = {name: len(self.tokens) + i for i, name in enumerate(special_tokens)}
        self.special_tokens, self.added = dict(special_tokens), dict(added)
        self.normalized, self.end = tuple(sorted(normalized)), end
        if unknown := [name for name in self.normalized if name not in self.added]:
            raise InputError(f"normalized names {shown(unknown[0])}, but the added tokens are {shown(list(added))}.")
        self.strips = dict(strips)
        check_strips(self.strips, names)
        taken = {*self.special_tokens.values(), *self.added.values()}
        if len(taken) < len(names) or not all(0 <= i < self.vocab_size for i in taken):
            raise InputError(
                f"ids of special and added tokens must be distinct and below {self.vocab_size}, but they are "
                f"{shown([*self.special_tokens.values(), *self.added.values()])}."
            )
        ids = (i for i in range(self.vocab_size) if i not in taken)
        self.ranks = dict(zip(self.tokens, ids, strict=True))  # token to id, without special and added tokens
        if pattern not in PATTERNS and self._encoder.absent:
            raise InputError(f"pattern is {shown(pattern)}, a regular expression, which needs a token for each byte.")

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        progress: Callable[[int], None] | None = None,
        processes: int = 1,
    ) -> Self:
        """Learn `vocab_size - 256 - len(special_tokens)` merges from a text or an iterable of texts.

        An iterable is read once and not kept: memory grows with the number of different words only. They are counted
        in that many threads, with the same merges for any number of `processes`. Among equally frequent pairs the one
        with the lowest ids is merged first. If no pair is left the vocabulary stays smaller and a UserWarning says so.
        `progress` is called with the number of merges so far.
        Raises InputError for empty text, a lone surrogate or a vocab_size below 256 + len(special_tokens).
        """
        check_processes(processes)
        cls.check_size(vocab_size, special_tokens)
        return cls.from_pieces(count_pieces(as_texts(text), processes), vocab_size, special_tokens, progress)

    @classmethod
    def from_pieces(
        cls,
        pieces: Mapping[bytes, int],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """As `train`, from the pieces of the text and how often each occurs (`pre_tokenize.count_pieces`)."""
        n_merges = cls.check_size(vocab_size, special_tokens)
        if not pieces:
            raise InputError("the text is empty; byte-pair encoding needs text to learn from.")
        merges = learn_merges(pieces, n_merges, progress)
        tokens = tokens_of(merges)
        if len(merges) < n_merges:
            note = f"the text has no more pairs after {len(merges)} merges: the vocabulary has"
            warnings.warn(Note(f"{note} {len(tokens) + len(special_tokens)} ids, not {vocab_size}."), stacklevel=3)
        return cls(tokens, special_tokens)

    @staticmethod
    def check_size(vocab_size: int, special_tokens: Sequence[str] = (END_OF_TEXT,)) -> int:
        """The number of merges that the vocabulary takes. Raises InputError where there is no room for the bytes."""
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise InputError(
                f"tokenizer.vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} special tokens "
                f"need at least {least}."
            )
        return vocab_size - least

    @classmethod
    def gpt2(cls, vocab_bpe: str | Path | None = None, encoder_json: str | Path | None = None) -> Self:
        """GPT-2's 50,257 tokens, from the two published files or, without them, through tiktoken's cache.

        Raises InputError for files that are not the published ones and, naming them and where to put them, for files
        that are neither given, cached nor can be downloaded.
        """
        from jaxllm.tokenizers.formats.gpt2_files import read_tokens  # formats are built on the tokenizers

        return cls(read_tokens(vocab_bpe, encoder_json))

    @property
    def vocab_size(self) -> int:
        return len(self.tokens) + len(self.special_tokens) + len(self.added)

    @property
    def end_of_text(self) -> int | None:
        return document_end(self.special_tokens, self.end)

    @cached_property
    def table(self) -> tuple[bytes, ...]:
        """Id to bytes, special and added tokens included."""
        names = {i: name.encode() for name, i in (self.special_tokens | self.added).items()}
        return tuple(content for _, content in sorted(({i: token for token, i in self.ranks.items()} | names).items()))

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids. Special tokens written in the text are ordinary text unless named in `allowed_special`.

        A long text is encoded on all cores. Raises InputError for a lone surrogate or a name that is no special token.
        """
        return self._encode_parts(self._split(text, allowed_special), self._encode_text)

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of texts, each split into pieces and merged by itself, and of special tokens given as ids."""
        found = self.without_spaces(split_at_added(parts, self._found_first))
        return self._encode_parts(found, self._encode_text)

    def encode_slowly(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The same ids as `encode`, by `textbook.encode_piece`: for reading and for the tests.

        (A code point newer than one of the two regex libraries may be split differently.)
        """
        return self._encode_parts(self._split(text, allowed_special), self._encoder.encode_by_textbook)

    def _split(self, text: str, allowed_special: Collection[str]) -> list[str | int]:
        return self.without_spaces(split_at_tokens(text, self.special_tokens, allowed_special, self._found_first))

    @cached_property
    def _found_first(self) -> dict[str, int]:
        """The added tokens that are found in the text as it is given."""
        return {name: self.added[name] for name in self.added.keys() - set(self.normalized)}

    @cached_property
    def _found_last(self) -> dict[str, int]:
        """The added tokens that are found in the normalized text, in their normalized form."""
        return {self._normalize(name): self.added[name] for name in self.normalized}

    def _normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.normalization else text

    def _encode_parts(self, parts: Iterable[str | int], encode: Callable[[str], Iterable[list[int]]]) -> list[int]:
        ids: list[int] = []
        normal = (self._normalize(part) if isinstance(part, str) else part for part in parts)
        for part in self.without_spaces(split_at_added(normal, self._found_last)):
            for some in encode(part) if isinstance(part, str) else [[part]]:
                ids += some
        return ids

    def _encode_text(self, text: str) -> Iterator[list[int]]:
        return self._encoder.encode(text, self.chunks)

    @cached_property
    def _encoder(self) -> BPEEncoder:
        return BPEEncoder(self.ranks, self.pattern, self.vocab_size)

    def encode_chunk(self, text: str, start: int) -> list[int]:
        if start >= LONGEST_CHUNK and self.pattern not in PATTERNS:
            raise InputError(
                f"a text of over {LONGEST_CHUNK:,} characters has to be cut, but it is not known where the "
                "tokenizer's custom pattern allows that; give the text in several documents."
            )
        return self.encode(text)

    def chunks(self, text: str, size: int | None = None) -> Iterator[str]:
        return super().chunks(text, size) if self.pattern in PATTERNS else iter([text])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. Raises InputError for an id outside the vocabulary."""
        return b"".join(self.table[i] for i in self.check_ids(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text. Bytes that are not UTF-8 become U+FFFD: a list of ids may end within a character."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        # One character per byte (Latin-1): exact, and readable where the token is ASCII.
        last = list(self.special_tokens.values()) == list(range(len(self.tokens), self.vocab_size))
        optional = {
            "absent_bytes": self._encoder.absent.decode("latin-1"),
            "pattern": self.pattern if self.pattern != "gpt2" else "",
            "normalization": self.normalization,
            "added": self.added,
            "normalized": list(self.normalized),
            "end": self.end,
            "strips": self.strips,
        }
        return {
            "special_tokens": list(self.special_tokens) if last else self.special_tokens,
            "tokens": [token.decode("latin-1") for token in self.tokens],
            **{name: value for name, value in optional.items() if value},  # absent where it is the default
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        try:
            tokens = [token.encode("latin-1") for token in vocabulary_from(fields, "tokens")]
        except UnicodeEncodeError:
            raise InputError("the tokenizer file is damaged: 'tokens' holds a character above U+00FF.") from None
        absent = fields.get("absent_bytes", "")
        if not isinstance(absent, str) or {token for token in tokens if len(token) <= 1} != {
            bytes([b]) for b in range(256) if chr(b) not in absent
        }:
            raise InputError(
                "the tokenizer file is damaged: 'tokens' must hold each of the 256 bytes that is not in 'absent_bytes'."
            )
        from_field = ids_from if isinstance(fields.get("special_tokens"), dict) else vocabulary_from
        normalized = vocabulary_from(fields, "normalized") if "normalized" in fields else ()
        return cls(
            tokens, from_field(fields, "special_tokens"), fields.get("pattern", "gpt2"), fields.get("normalization"),
            ids_from(fields, "added"), normalized, end_from(fields), strips_from(fields),
        )  # fmt: skip
