"""Byte-pair encoding on UTF-8 bytes: learned here, encoded by tiktoken."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import regex
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str  # GPT2_PATTERN, written to match faster

from jaxllm.errors import InputError
from jaxllm.tokenizers import gpt2_files, textbook
from jaxllm.tokenizers.base import END_OF_TEXT, Tokenizer, join, to_utf8, vocabulary_from
from jaxllm.tokenizers.merges import learn_merges

# GPT-2's split: contractions, a word, number or run of marks with the space before it, white space.
# Merges never cross a piece. (openai/gpt-2, src/encoder.py)
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PIECE = regex.compile(GPT2_PATTERN)


class BPETokenizer(Tokenizer):
    """Tokens are byte strings; the id of one is its rank, the order in which pairs are merged.

    `tokens[0:256]` are the single bytes, in any order; the special tokens' ids follow the last token.
    """

    kind = "bpe"

    def __init__(self, tokens: Sequence[bytes], special_tokens: Sequence[str] = (END_OF_TEXT,)) -> None:
        if len(set(special_tokens)) != len(special_tokens) or "" in special_tokens:
            raise InputError(f"special tokens must be distinct and not empty, but they are {list(special_tokens)}.")
        self.tokens = tuple(tokens)
        self.special_tokens = {name: len(self.tokens) + i for i, name in enumerate(special_tokens)}

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Learn `vocab_size - 256 - len(special_tokens)` merges from a text or an iterable of texts.

        Deterministic: of equally frequent pairs the one with the lowest ids is merged first. When the text has no
        pair left the vocabulary stays smaller and a UserWarning says so. `progress` is told the merges done.
        Raises InputError for empty text, a lone surrogate or a vocab_size below 256 + len(special_tokens).
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise InputError(
                f"tokenizer.vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} special tokens "
                f"need at least {256 + len(special_tokens)}."
            )
        pieces = Counter(piece.encode() for part in join(text) for piece in split_pieces(part))
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
                stacklevel=2,
            )
        return cls(tokens, special_tokens)

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

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """Token to id, without the special tokens."""
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            "jaxllm", pat_str=r50k_pat_str, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
        )

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids. Special tokens written in the text are ordinary text unless named in `allowed_special`.

        Raises InputError for a lone surrogate or a name that is no special token.
        """
        to_utf8(text)
        allowed = self._known(allowed_special)
        try:
            return self._tiktoken.encode(text, allowed_special=allowed, disallowed_special=())
        except ValueError:  # tiktoken's regex gives up on white space by the million; its merging does not
            return self._encode_by_piece(text, allowed, self._tiktoken.encode_ordinary)

    def encode_slowly(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The same ids as `encode`, by `textbook.encode_piece`: for reading and for the tests.

        (A code point newer than one of the two regex libraries may be cut differently.)
        """

        def encode_piece(piece: str) -> list[int]:
            return textbook.encode_piece(piece.encode(), self.ranks)

        return self._encode_by_piece(text, self._known(allowed_special), encode_piece)

    def _encode_by_piece(self, text: str, allowed: set[str], encode: Callable[[str], list[int]]) -> list[int]:
        special = sorted(allowed, key=len, reverse=True)
        parts = regex.split("(" + "|".join(map(regex.escape, special)) + ")", text) if special else [text]
        ids: list[int] = []
        for part in parts:
            if part in allowed:
                ids.append(self.special_tokens[part])
            else:
                ids += [i for piece in split_pieces(part) for i in encode(piece)]
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. Raises InputError for an id outside the vocabulary."""
        special = [name.encode() for name in self.special_tokens]
        table = (*self.tokens, *special)
        return b"".join(table[i] for i in self.check_ids(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD (a list of ids may stop within a character)."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _known(self, names: Collection[str]) -> set[str]:
        for name in names:
            if name not in self.special_tokens:
                raise InputError(f"{name!r} is not a special token; there are {', '.join(self.special_tokens)}.")
        return set(names)

    def to_dict(self) -> dict[str, Any]:
        # One character per byte (Latin-1): exact, and readable where the token is ASCII.
        return {
            "special_tokens": list(self.special_tokens),
            "tokens": [token.decode("latin-1") for token in self.tokens],
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        try:
            tokens = [token.encode("latin-1") for token in vocabulary_from(fields, "tokens")]
        except UnicodeEncodeError:
            raise InputError("the tokenizer file is damaged: 'tokens' holds a character above U+00FF.") from None
        if {token for token in tokens if len(token) <= 1} != {bytes([i]) for i in range(256)}:
            raise InputError("the tokenizer file is damaged: 'tokens' must hold each of the 256 bytes.")
        return cls(tokens, vocabulary_from(fields, "special_tokens"))


def split_pieces(text: str) -> Iterator[str]:
    """The pieces within which merges happen. Raises InputError for a lone surrogate.

    >>> list(split_pieces("It's  here"))
    ['It', "'s", ' ', ' here']
    """
    to_utf8(text)
    return (match.group() for match in _PIECE.finditer(text))
