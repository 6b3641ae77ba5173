"""Encoding text without special tokens by tiktoken, on all cores where the text is long."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial

import tiktoken

from jaxllm.tokenizers import textbook
from jaxllm.tokenizers.custom_pattern import encode_checked, for_tiktoken
from jaxllm.tokenizers.pre_tokenize import split_pieces
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import PATTERNS
from jaxllm.utils.processes import usable_cores

PARALLEL = 2**17  # characters: longer texts are encoded in chunks of this length, on all cores


class BPEEncoder:
    """Text to the ids of `ranks`, by the split pattern `pattern`.

    `absent` are the bytes that have no rank. They are left out of the ids.
    """

    def __init__(self, ranks: Mapping[bytes, int], pattern: str, vocab_size: int) -> None:
        self.ranks, self.pattern, self.vocab_size = ranks, pattern, vocab_size
        self.absent = bytes(b for b in range(256) if bytes([b]) not in ranks)

    def encode(self, text: str, chunks: Callable[[str, int], Iterator[str]]) -> Iterator[list[int]]:
        """The ids, those of each chunk in a list. `chunks(text, size)` cuts a long text."""
        if len(text) <= PARALLEL:
            yield self.encode_short(text)
            return
        with ThreadPoolExecutor(usable_cores()) as pool:  # tiktoken releases Python's lock
            yield from pool.map(self.encode_short, chunks(text, PARALLEL))

    def encode_short(self, text: str) -> list[int]:
        """The ids, in one thread."""
        if self.pattern not in PATTERNS:
            return encode_checked(self._tiktoken, text)
        if not self.absent or (raw := text.encode()).translate(None, self.absent) == raw:
            # tiktoken's regex, but not its merging, fails on a million white-space characters in a row. `encode` raises
            # ValueError there, `encode_ordinary` panics.
            with suppress(ValueError):
                return self._tiktoken.encode(text, disallowed_special=())
        return self._encode_pieces(text, self._tiktoken._encode_single_piece)

    def encode_by_textbook(self, text: str) -> Iterator[list[int]]:
        """The same ids by `textbook.encode_piece`, in one list."""
        yield self._encode_pieces(text, partial(textbook.encode_piece, ranks=self.ranks))

    def _encode_pieces(self, text: str, encode_piece: Callable[[bytes], list[int]]) -> list[int]:
        pieces = (piece.encode().translate(None, self.absent) for piece in split_pieces(text, self.pattern))
        return [i for piece in pieces if piece for i in encode_piece(piece)]

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        # tiktoken requires every byte. It also searches for special tokens where none is allowed, and without any its
        # search stops at every character.
        unused = {bytes([b]): self.vocab_size + i for i, b in enumerate(self.absent)}
        return tiktoken.Encoding(
            "jaxllm",
            pat_str=for_tiktoken(self.pattern),
            mergeable_ranks={**self.ranks, **unused},
            special_tokens={END_OF_TEXT: self.vocab_size + len(unused)},
        )
