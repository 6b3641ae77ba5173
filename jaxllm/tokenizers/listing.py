"""A tokenizer's vocabulary for reading: one token a line and, for byte pairs, the two tokens that were merged."""

from jaxllm.tokenizers.base import Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.merges import merged_from
from jaxllm.utils.utf8 import visible


def vocabulary_text(tokenizer: Tokenizer) -> str:
    """A line for each id, in order; for byte pairs `[ th][e] -> [ the] 300`. Line breaks in tokens are escaped."""
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
