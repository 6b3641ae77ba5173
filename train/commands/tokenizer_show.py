"""What `jaxllm tokenizer show` prints: the first merges of a tokenizer, or the pieces of a text."""

from collections import Counter

from jaxllm.tokenizers import BPETokenizer, Tokenizer
from jaxllm.tokenizers.merges import merged_from
from jaxllm.utils.utf8 import visible

from ..pieces import print_coloured


def show_vocabulary(tokenizer: Tokenizer, top: int) -> None:
    """Print the first `top` merges, or tokens where there are no merges."""
    merges = _merges(tokenizer)
    first = "merges" if merges else "tokens"
    print(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} ids; its first {first}:")
    for i in (merges or list(range(tokenizer.vocab_size)))[:top]:
        print(f"{i:>8}  {_made(tokenizer, i)}")


def show_text(tokenizer: Tokenizer, text: str, top: int) -> None:
    """Print the pieces of a text, its size, and its `top` most frequent tokens."""
    ids = tokenizer.encode(text)
    _print_pieces(tokenizer, ids)
    n_bytes = len(text.encode())
    each = f", {n_bytes / len(ids):.3f} bytes per token" if ids else ""
    print(f"{len(ids):,} tokens, {n_bytes:,} bytes{each}")
    for i, count in Counter(ids).most_common(top):
        print(f"{count:>8}  {_made(tokenizer, i)} {i}")


def _merges(tokenizer: Tokenizer) -> list[int]:
    """The ids of tokens that were merged, in the order of the merges."""
    if not isinstance(tokenizer, BPETokenizer):
        return []
    return [tokenizer.ranks[token] for token in tokenizer.tokens if len(token) > 1]


def _made(tokenizer: Tokenizer, i: int) -> str:
    """`[ th][e] -> [ the]`, or `[e]` for a token that was not merged."""
    token = tokenizer.decode_bytes([i])
    learned = isinstance(tokenizer, BPETokenizer) and tokenizer.ranks.get(token) == i  # not special or added
    parts = merged_from(token, tokenizer.ranks) if isinstance(tokenizer, BPETokenizer) and learned else []
    before = "".join(f"[{visible(part)}]" for part in parts) + " -> " if len(parts) > 1 else ""
    return f"{before}[{visible(token)}]"


def _print_pieces(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Print pieces coloured on a terminal, elsewhere separated by bars. Line breaks are shown and made."""
    pieces = [visible(tokenizer.decode_bytes([i])).replace("\\n", "\\n\n") for i in ids]
    print_coloured([(piece, number) for number, piece in enumerate(pieces)], between="|")
