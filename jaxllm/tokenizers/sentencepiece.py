"""Byte pairs over characters, with bytes for what no token covers: the tokenizers of Llama 2, Mistral and Gemma.

SentencePiece gives each token a score and merges the pair whose token has the best; Hugging Face lists the pairs in
that order, and llama.cpp keeps the scores. Here it is the list. All of them merge whole texts; since no token goes on
from most characters to a space, a text is cut there first, and each different word is merged once.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Self

import regex

from jaxllm.tokenizers.base import (
    Tokenizer,
    document_end,
    end_from,
    index,
    parted,
    parted_again,
    to_utf8,
    vocabulary_from,
)
from jaxllm.utils.errors import InputError
from jaxllm.utils.validate import shown

SPACE = "▁"  # stands for a space in tokens
# What is put before a text: nothing; a space before each part between special tokens; and, where it does not begin
# with one, before each part or before the first. (tokenizers: Prepend, and Metaspace's prepend_scheme)
PREFIXES = ("none", "part", "always", "first")
LONGEST_WORD = 32  # characters; of longer ones the ids are not kept
BYTES = [f"<0x{b:02X}>" for b in range(256)]


class SentencePieceTokenizer(Tokenizer):
    """`tokens` by id; `merges` as pairs of ids, of which the first that is met in a text is merged first.

    `special_tokens` are tokens that only the caller or a chat template writes; `added` ones are found in any text,
    before anything is merged. The 256 tokens `<0x00>` to `<0xFF>` must be there. `end` names the special token that
    separates documents, where it is not the first of DOCUMENT_ENDS. Raises InputError for a merge that makes no token,
    and for names that are none.
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
    ) -> None:
        self.tokens, self.merges, self.prefix, self.end = tuple(tokens), tuple(merges), prefix, end
        to_utf8("".join(self.tokens))
        self._ids = index(self.tokens)
        missing = next((name for name in (*BYTES, *special_tokens, *added) if name not in self._ids), None)
        if missing is not None or prefix not in PREFIXES:
            what = f"there is no token {shown(missing)}" if missing is not None else f"prefix is {shown(prefix)}"
            raise InputError(
                f"{what}, but a SentencePiece tokenizer needs 256 bytes and a prefix of {', '.join(PREFIXES)}."
            )
        self.special_tokens = {name: self._ids[name] for name in special_tokens}
        self.added: dict[str, int] = {name: self._ids[name] for name in added}
        # Of a pair: its place in the list, and what it becomes. Special tokens never come of merging.
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            joined = self._ids.get(self.tokens[left] + self.tokens[right])
            if joined is None:
                raise InputError(f"merge {rank:,} makes {shown(self.tokens[left] + self.tokens[right])}, no token.")
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
        return self._of_parts(parted(text, self.special_tokens, allowed_special, self.added))

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of texts, each merged by itself, and of special tokens given as ids."""
        return self._of_parts(parted_again(parts, self.added))

    def encode_part(self, text: str, start: int) -> list[int]:
        return self._of_parts(parted_again([text], self.added), goes_on=start > 0)

    def _of_parts(self, parts: Iterable[str | int], goes_on: bool = False) -> list[int]:
        """As `encode_parts`, without looking for added tokens; no space is put before a first text that goes on."""
        ids: list[int] = []
        for piece in parts:
            if isinstance(piece, str):
                written = piece.replace(" ", SPACE)
                for word in self._cut.split(written if goes_on else self._prefixed(written, first=not ids)):
                    ids += self._merge(word) if len(word) > LONGEST_WORD else self._kept(word)
            else:
                ids.append(piece)
            goes_on = False
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, with the space that `encode` may have put before the first."""
        return b"".join(self.table[i] for i in self.check_ids(ids))

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text, without the space that `encode` may have put before it.

        By the prefixes "always" and "first" a text that begins with a space has the ids of the text without it, and
        comes back so, as in tokenizers.
        """
        return self.decode_bytes(ids).removeprefix(b"" if self.prefix == "none" else b" ")

    def decode(self, ids: Iterable[int]) -> str:
        """The text, without the space that `encode` may have put before it; what is no UTF-8 becomes U+FFFD."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        stream = super().decode_stream(ids)
        for text in stream:  # the first
            yield text.removeprefix(" ") if self.prefix != "none" else text
            break
        yield from stream

    @cached_property
    def table(self) -> tuple[bytes, ...]:
        """Id to bytes, special tokens among them."""
        bytes_of = {name: bytes([b]) for b, name in enumerate(BYTES)}
        return tuple(bytes_of.get(token) or token.replace(SPACE, " ").encode() for token in self.tokens)

    def _prefixed(self, text: str, first: bool) -> str:
        wanted = self.prefix != "none" and (first or self.prefix != "first")
        return SPACE + text if wanted and (self.prefix == "part" or not text.startswith(SPACE)) else text

    @cached_property
    def _cut(self) -> "regex.Pattern[str]":
        """Before a space, unless one stands after that character within a token."""
        before = self._before_spaces
        return regex.compile(
            f"(?<=[^{regex.escape(''.join(sorted(before)))}])(?={SPACE})" if before else f"(?={SPACE})"
        )

    @cached_property
    def _ends(self) -> "regex.Pattern[str]":
        """As `_cut`, in a text as it is given."""
        before = self._before_spaces | ({" "} if SPACE in self._before_spaces else set())
        return regex.compile(f"[^{regex.escape(''.join(sorted(before)))}](?= )" if before else "(?s:.)(?= )")

    @cached_property
    def _before_spaces(self) -> set[str]:
        """The characters after which a space stands within a token."""
        made = (self.tokens[i] for _, i in self._ranks.values())
        return {a for token in made if SPACE in token for a, b in pairwise(token) if b == SPACE}

    @cached_property
    def _kept(self) -> Any:
        return lru_cache(2**16)(self._merge)

    def _merge(self, word: str) -> list[int]:
        """Characters, or bytes where they are no tokens, and then merges: a heap of pairs, and lists that link what is
        left to its neighbours."""
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
                continue  # one of the two was merged meanwhile
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
        return cls(tokens, pairs, special, added, str(fields.get("prefix")), end_from(fields))
