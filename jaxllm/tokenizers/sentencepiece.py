"""Byte pairs over characters, with bytes for characters that no token covers: as in Llama 2, Mistral and Gemma.

SentencePiece gives each token a score and merges the pair whose token has the best one. Hugging Face lists the pairs in
that order, as here; llama.cpp keeps the scores. Merging is defined on the whole text. But after most characters no
token continues with a space, so the text is split there first, and each different word is merged once.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Self

import regex

from jaxllm.tokenizers.base import Tokenizer, end_from, strips_from, token_to_id, vocabulary_from
from jaxllm.tokenizers.special_tokens import (
    NO_STRIPS,
    WHITE_SPACE,
    check_strips,
    document_end,
    split_at_added,
    split_at_tokens,
)
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.utf8 import to_utf8

SPACE = "▁"  # stands for a space in tokens
# Where `encode` adds a space: "none", nowhere; "part", before each part of the text between special tokens; "always"
# and "first", before each part or the first one, unless it begins with a space. (Hugging Face tokenizers: the
# normalizer Prepend, and Metaspace's prepend_scheme)
PREFIXES = ("none", "part", "always", "first")
LONGEST_WORD = 32  # characters; the ids of longer words are not cached
BYTES = [f"<0x{b:02X}>" for b in range(256)]


class SentencePieceTokenizer(Tokenizer):
    """`tokens` are in the order of their ids, `merges` are pairs of ids in the order in which they are merged.

    `special_tokens` are tokens that only the caller or a chat template writes; `added` ones are found in any text,
    before anything is merged. The 256 tokens `<0x00>` to `<0xFF>` are required. `prefix` is one of PREFIXES. `end`
    names the special token that separates documents, where it is not the first of DOCUMENT_ENDS. `strips` says which
    special and added tokens take the white space beside them, and on which of SIDES. Raises InputError for a merge that
    makes no token, and for special and added tokens that are not among the tokens.
    """

    kind = "sentencepiece"
    special_tokens: dict[str, int]
    added: dict[str, int]

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Iterable[tuple[int, int]],
        special_tokens: Collection[str] = (),
        added: Collection[str] = (),
        prefix: str = "part",
        end: str | None = None,
        strips: Mapping[str, str] = NO_STRIPS,
    ) -> None:
        self.tokens, self.merges, self.prefix, self.end = tuple(tokens), tuple(merges), prefix, end
        to_utf8("".join(self.tokens))
        self._ids = token_to_id(self.tokens)
        missing = next((name for name in (*BYTES, *special_tokens, *added) if name not in self._ids), None)
        if missing is not None or prefix not in PREFIXES:
            what = f"there is no token {shown(missing)}" if missing is not None else f"prefix is {shown(prefix)}"
            raise InputError(
                f"{what}, but a SentencePiece tokenizer needs 256 bytes and a prefix of {', '.join(PREFIXES)}."
            )
        self.special_tokens = {name: self._ids[name] for name in special_tokens}
        self.added: dict[str, int] = {name: self._ids[name] for name in added}
        self.strips = dict(strips)
        check_strips(self.strips, {*special_tokens, *added})
        # A pair's position in the list, and the id that it becomes. Merging never makes a special token.
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            joined = self._ids.get(self.tokens[left] + self.tokens[right])
            if joined is None:
                raise InputError(
                    f"merge {rank:,} makes {shown(self.tokens[left] + self.tokens[right])}, which is not a token."
                )
            if self.tokens[joined] not in self.special_tokens:
                self._ranks[left, right] = rank, joined

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def end_of_text(self) -> int | None:
        return document_end(self.special_tokens, self.end)

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids. Special tokens written in the text are ordinary text unless named in `allowed_special`.

        Raises InputError for a lone surrogate or a name that is no special token.
        """
        return self._encode_parts(split_at_tokens(text, self.special_tokens, allowed_special, self.added))

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of texts, each merged by itself, and of special tokens given as ids."""
        return self._encode_parts(split_at_added(parts, self.added))

    def encode_chunk(self, text: str, start: int) -> list[int]:
        return self._encode_parts(split_at_added([text], self.added), continues=start > 0)

    def _encode_parts(self, parts: Iterable[str | int], continues: bool = False) -> list[int]:
        """As `encode_parts`, without looking for added tokens.

        `continues` says that the first part continues a text, so no space is added before it.
        """
        ids: list[int] = []
        for part in self.without_spaces(parts):
            if isinstance(part, str):
                written = part.replace(" ", SPACE)
                for word in self._word_starts.split(written if continues else self._prefixed(written, first=not ids)):
                    ids += self._merge(word) if len(word) > LONGEST_WORD else self._merge_cached(word)
            else:
                ids.append(part)
            continues = False
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, with the space that `encode` may have added at the beginning."""
        return b"".join(self.table[i] for i in self.check_ids(ids))

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text, without the space that `encode` may have added at the beginning.

        With the prefixes "always" and "first" a text that begins with a space has the same ids as without it, so it is
        decoded without it, as in Hugging Face tokenizers.
        """
        return self.decode_bytes(ids).removeprefix(b"" if self.prefix == "none" else b" ")

    def decode(self, ids: Iterable[int]) -> str:
        """The text, without the space that `encode` may have added; bytes that are not UTF-8 become U+FFFD."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        stream = super().decode_stream(ids)
        for text in stream:  # the first
            yield text.removeprefix(" ") if self.prefix != "none" else text
            break
        yield from stream

    @cached_property
    def table(self) -> tuple[bytes, ...]:
        """Id to bytes, special tokens included."""
        bytes_of = {name: bytes([b]) for b, name in enumerate(BYTES)}
        return tuple(bytes_of.get(token) or token.replace(SPACE, " ").encode() for token in self.tokens)

    def _prefixed(self, text: str, first: bool) -> str:
        wanted = self.prefix != "none" and (first or self.prefix != "first")
        return SPACE + text if wanted and (self.prefix == "part" or not text.startswith(SPACE)) else text

    @cached_property
    def _word_starts(self) -> "regex.Pattern[str]":
        """Before a space, unless a token has a space after the character before it."""
        before = self._before_spaces
        return regex.compile(
            f"(?<=[^{regex.escape(''.join(sorted(before)))}])(?={SPACE})" if before else f"(?={SPACE})"
        )

    @cached_property
    def _boundaries(self) -> "regex.Pattern[str]":
        """The same places as `_word_starts`, in a text with its own spaces."""
        before = self._before_spaces | ({" "} if SPACE in self._before_spaces else set())
        before |= {*WHITE_SPACE} if self.strips else set()
        return regex.compile(f"[^{regex.escape(''.join(sorted(before)))}](?= )" if before else "(?s:.)(?= )")

    @cached_property
    def _before_spaces(self) -> set[str]:
        """The characters that have a space after them within a token."""
        made = (self.tokens[i] for _, i in self._ranks.values())
        return {a for token in made if SPACE in token for a, b in pairwise(token) if b == SPACE}

    @cached_property
    def _merge_cached(self) -> Any:
        return lru_cache(2**16)(self._merge)

    def _merge(self, word: str) -> list[int]:
        """The ids of a word: of its characters (or bytes, for characters that are not tokens), merged.

        A heap holds the pairs by rank. `after` and `before` link each remaining id to its neighbours.
        """
        ids = [i for character in word for i in self._of_character(character)]
        after, before = [*range(1, len(ids)), -1], [*range(-1, len(ids) - 1)]
        heap: list[tuple[int, int, int, int]] = []

        def push(i: int, j: int) -> None:
            if i >= 0 <= j and (found := self._ranks.get((ids[i], ids[j]))):
                heapq.heappush(heap, (found[0], i, ids[i], ids[j]))

        for i in range(len(ids) - 1):
            push(i, i + 1)
        while heap:
            _, i, left, right = heapq.heappop(heap)
            j = after[i]
            if ids[i] != left or j < 0 or ids[j] != right:
                continue  # one of the two has been merged since
            ids[i], ids[j] = self._ranks[left, right][1], -1
            after[i] = after[j]
            if after[i] >= 0:
                before[after[i]] = i
            push(before[i], i)
            push(i, after[i])
        return [i for i in ids if i >= 0]

    def _of_character(self, character: str) -> list[int]:
        if character in self._ids and character not in self.special_tokens:
            return [self._ids[character]]
        return [self._ids[BYTES[b]] for b in character.encode()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": list(self.tokens),
            "merges": [list(pair) for pair in self.merges],
            "special_tokens": list(self.special_tokens),
            "added": list(self.added),
            "prefix": self.prefix,
            **({"end": self.end} if self.end else {}),
            **({"strips": self.strips} if self.strips else {}),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        tokens, special, added = (vocabulary_from(fields, key) for key in ("tokens", "special_tokens", "added"))
        merges, possible = fields.get("merges"), range(len(tokens))
        if not isinstance(merges, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(type(i) is int and i in possible for i in pair)
            for pair in merges
        ):
            raise InputError("the tokenizer file is damaged: 'merges' must be a list of pairs of ids.")
        pairs = [(left, right) for left, right in merges]
        return cls(tokens, pairs, special, added, str(fields.get("prefix")), end_from(fields), strips_from(fields))
