"""Byte-pair encoding on UTF-8 bytes: learned here, encoded by tiktoken."""

import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

import tiktoken

from jaxllm.errors import InputError
from jaxllm.tokenizers import gpt2_files, textbook
from jaxllm.tokenizers.base import END_OF_TEXT, Tokenizer, join, parted, to_utf8, vocabulary_from
from jaxllm.tokenizers.merges import learn_merges
from jaxllm.tokenizers.own_pattern import check_pattern, encode_whole, matched
from jaxllm.tokenizers.parts import LONGEST
from jaxllm.tokenizers.patterns import PATTERNS
from jaxllm.tokenizers.pieces import count_pieces, split_pieces
from jaxllm.tokenizers.workers import check_processes, usable_cores
from jaxllm.validate import shown

PARALLEL = 2**17  # characters: longer texts are encoded in parts of this length, on all cores


class BPETokenizer(Tokenizer):
    """Tokens are byte strings; their order is the order in which pairs are merged.

    The 256 single bytes come first, in any order; a vocabulary that others trained may lack some, which `encode` then
    leaves out, as Hugging Face tokenizers do. The special tokens' ids follow the last token, or are those of the
    mapping; the tokens have the other ids, in order.

    `pattern` is the name in PATTERNS of the cut into pieces, or a regular expression that matches every character, for
    a vocabulary with all bytes. With `normalization` "NFC" a text is brought into that form of Unicode first, and
    `decode` gives it in that form.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_tokens: Sequence[str] | Mapping[str, int] = (END_OF_TEXT,),
        pattern: str = "gpt2",
        normalization: str | None = None,
    ) -> None:
        check_pattern(pattern)
        if normalization not in (None, "NFC"):
            raise InputError(f"normalization is {shown(normalization)}, but it must be 'NFC' or left out.")
        self.pattern, self.normalization = pattern, normalization
        names = list(special_tokens)
        if len(set(names)) != len(names) or "" in names:
            raise InputError(f"special tokens must be distinct and not empty, but they are {shown(names)}.")
        to_utf8("".join(names))
        self.tokens = tuple(tokens)
        if not isinstance(special_tokens, Mapping):
            special_tokens = {name: len(self.tokens) + i for i, name in enumerate(names)}
        self.special_tokens = dict(special_tokens)
        taken = set(self.special_tokens.values())
        if len(taken) < len(names) or not all(0 <= i < self.vocab_size for i in taken):
            raise InputError(
                f"ids of special tokens must be distinct and below {self.vocab_size}, but they are "
                f"{shown(list(self.special_tokens.values()))}."
            )
        ids = (i for i in range(self.vocab_size) if i not in taken)
        self.ranks = dict(zip(self.tokens, ids, strict=True))  # token to id, without the special tokens
        if pattern not in PATTERNS and self._absent:
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
        in that many `processes` (see `workers.in_processes`); the merges are the same for any number of them.
        Deterministic: of equally frequent pairs the one with the lowest ids is merged first. When the text has no
        pair left the vocabulary stays smaller and a UserWarning says so. `progress` is told the merges done.
        Raises InputError for empty text, a lone surrogate or a vocab_size below 256 + len(special_tokens).
        """
        check_processes(processes)
        cls.check_size(vocab_size, special_tokens)
        return cls.from_pieces(count_pieces(join(text), processes), vocab_size, special_tokens, progress)

    @classmethod
    def from_pieces(
        cls,
        pieces: Mapping[bytes, int],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """As `train`, from the pieces of the text and how often each occurs (`pieces.count_pieces`)."""
        n_merges = cls.check_size(vocab_size, special_tokens)
        if not pieces:
            raise InputError("the text is empty; byte-pair encoding needs text to learn from.")
        merges = learn_merges(pieces, n_merges, progress)
        tokens = [bytes([i]) for i in range(256)]
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])
        if len(merges) < n_merges:
            warnings.warn(
                f"the text has no more pairs after {len(merges)} merges: the vocabulary has "
                f"{len(tokens) + len(special_tokens)} ids, not {vocab_size}.",
                stacklevel=3,
            )
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

        Raises InputError naming the files and where to put them if they are neither given, cached nor in reach,
        or if their contents are not the published ones.
        """
        return cls(gpt2_files.read_tokens(vocab_bpe, encoder_json))

    @property
    def vocab_size(self) -> int:
        return len(self.tokens) + len(self.special_tokens)

    @property
    def end_of_text(self) -> int | None:
        return self.special_tokens.get(END_OF_TEXT)

    @cached_property
    def table(self) -> tuple[bytes, ...]:
        """Id to bytes, special tokens among them."""
        ids = {i: name.encode() for name, i in self.special_tokens.items()}
        return tuple(bytes_of for _, bytes_of in sorted(({i: t for t, i in self.ranks.items()} | ids).items()))

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        absent = {bytes([b]): self.vocab_size + i for i, b in enumerate(self._absent)}  # it wants every byte
        return tiktoken.Encoding(
            "jaxllm",
            pat_str=matched(self.pattern),
            mergeable_ranks=self.ranks | absent,
            special_tokens=self.special_tokens,
        )

    @cached_property
    def _absent(self) -> bytes:
        """The bytes that no token is."""
        return bytes(b for b in range(256) if bytes([b]) not in self.ranks)

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids. Special tokens written in the text are ordinary text unless named in `allowed_special`.

        A long text is encoded on all cores. Raises InputError for a lone surrogate or a name that is no special token.
        """
        return self.encode_parts(parted(text, self.special_tokens, allowed_special))

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of texts, each cut into pieces and merged by itself, and of special tokens given as ids."""
        return self._of_parts(parts, self._encode_long)

    def encode_slowly(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The same ids as `encode`, by `textbook.encode_piece`: for reading and for the tests.

        (A code point newer than one of the two regex libraries may be cut differently.)
        """
        parts = parted(text, self.special_tokens, allowed_special)
        encode_piece = partial(textbook.encode_piece, ranks=self.ranks)
        return self._of_parts(parts, lambda part: self._encode_by_piece(part, encode_piece))

    def _of_parts(self, parts: Iterable[str | int], encode: Callable[[str], list[int]]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if isinstance(part, str):
                ids += encode(unicodedata.normalize("NFC", part) if self.normalization else part)
            else:
                ids.append(part)
        return ids

    def encode_part(self, text: str, start: int) -> list[int]:
        if start >= LONGEST and self.pattern not in PATTERNS:
            raise InputError(
                f"a text of over {LONGEST:,} characters has to be cut, but where the tokenizer's own pattern allows it "
                "is not known; give the text in several documents."
            )
        return self.encode(text)

    def cut(self, text: str, size: int | None = None) -> Iterator[str]:
        return super().cut(text, size) if self.pattern in PATTERNS else iter([text])

    def _encode_long(self, text: str) -> list[int]:
        if len(text) <= PARALLEL:
            return self._encode(text)
        with ThreadPoolExecutor(usable_cores()) as pool:  # tiktoken works without Python's lock
            return list(chain.from_iterable(pool.map(self._encode, self.cut(text, PARALLEL))))

    def _encode(self, text: str) -> list[int]:
        if self.pattern not in PATTERNS:
            return encode_whole(self._tiktoken, text)
        if not self._absent or (raw := text.encode()).translate(None, self._absent) == raw:
            with suppress(ValueError):  # tiktoken's regex gives up on white space by the million; its merging does not
                return self._tiktoken.encode(text, disallowed_special=())  # `encode_ordinary` panics where this raises
        return self._encode_by_piece(text, self._tiktoken._encode_single_piece)

    def _encode_by_piece(self, text: str, encode: Callable[[bytes], list[int]]) -> list[int]:
        pieces = (piece.encode().translate(None, self._absent) for piece in split_pieces(text, self.pattern))
        return [i for piece in pieces if piece for i in encode(piece)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. Raises InputError for an id outside the vocabulary."""
        return b"".join(self.table[i] for i in self.check_ids(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD (a list of ids may stop within a character)."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def to_dict(self) -> dict[str, Any]:
        # One character per byte (Latin-1): exact, and readable where the token is ASCII.
        last = list(self.special_tokens.values()) == list(range(len(self.tokens), self.vocab_size))
        more = {
            "absent_bytes": self._absent.decode("latin-1"),
            "pattern": self.pattern if self.pattern != "gpt2" else "",
            "normalization": self.normalization,
        }
        return {
            "special_tokens": list(self.special_tokens) if last else self.special_tokens,
            "tokens": [token.decode("latin-1") for token in self.tokens],
            **{name: value for name, value in more.items() if value},  # nothing that a plain one does not need
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
        special: Any = fields.get("special_tokens")
        if not isinstance(special, dict):
            special = vocabulary_from(fields, "special_tokens")
        elif not all(type(i) is int for i in special.values()):
            raise InputError("the tokenizer file is damaged: the ids of 'special_tokens' must be integers.")
        return cls(tokens, special, fields.get("pattern", "gpt2"), fields.get("normalization"))
