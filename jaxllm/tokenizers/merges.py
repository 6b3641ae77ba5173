"""The merges behind a vocabulary, recovered from the ranks of its tokens."""

from collections.abc import Mapping

from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import visible


def merged_from(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The tokens that the token's bytes merge to when only lower ranks are allowed: two, for a token that was learned.

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
    """The pairs in the order in which they are merged. Raises InputError for a token that is not made of two others."""
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
