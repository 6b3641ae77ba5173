"""A tokenizer's vocabulary for reading: one token a line, of byte pairs with the two parts that were joined.

minbpe writes such a file beside its model; there a line break in a token breaks the line, here it is escaped.
"""

from collections.abc import Mapping

from jaxllm.tokenizers.base import Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.utils.errors import InputError


def visible(content: bytes) -> str:
    r"""Text with whatever is no UTF-8 or would not show as a character escaped.

    >>> visible("é\n".encode() + b"\xff")
    'é\\n\\xff'
    """
    text = content.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def vocabulary_text(tokenizer: Tokenizer) -> str:
    """A line for each id; of byte pairs `[ th][e] -> [ the] 300`."""
    if not isinstance(tokenizer, BPETokenizer):
        return "".join(f"[{visible(tokenizer.decode_bytes([i]))}] {i}\n" for i in range(tokenizer.vocab_size))
    kinds = dict.fromkeys(tokenizer.special_tokens.values(), " special")
    kinds |= dict.fromkeys(tokenizer.added.values(), " added")
    lines = []
    for i, token in enumerate(tokenizer.table):
        parts = merged_from(token, tokenizer.ranks) if len(token) > 1 and i not in kinds else []
        made = "".join(f"[{visible(part)}]" for part in parts) + " -> " if parts else ""
        lines.append(f"{made}[{visible(token)}] {i}{kinds.get(i, '')}\n")
    return "".join(lines)


def merged_from(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The parts that the token's bytes come to with lower ranks than its own: for a token that was learned, two.

    >>> ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257}
    >>> merged_from(b"the", ranks)
    [b'th', b'e']
    """
    own = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        rank, i = min((ranks.get(parts[i] + parts[i + 1], own), i) for i in range(len(parts) - 1))
        if rank >= own:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def merges_of(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    """The pairs in the order in which they are merged. Raises InputError for a token that no two others make."""
    merges = []
    for token in (token for token in tokenizer.tokens if len(token) > 1):
        parts = merged_from(token, tokenizer.ranks)
        if len(parts) != 2:
            raise InputError(
                f"token {tokenizer.ranks[token]}, {visible(token)!r}, is not two others merged, so there is no list of "
                "merges for this vocabulary."
            )
        merges.append((parts[0], parts[1]))
    return merges
