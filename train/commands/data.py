"""`jaxllm data`: prepare and verify."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxllm.data.shard_writer import prepare_shards, separator_of
from jaxllm.data.shards import Index, read_index, verify
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.processes import usable_cores
from jaxllm.utils.utf8 import visible

from ..progress import counted
from .tokenizer import open_tokenizer


def prepare_command(
    sources: Sequence[str], tokenizer: str, out: str, field: str, validation: float, processes: int | None
) -> None:
    """Tokenizes into shards, with progress, and prints what there is."""
    processes = usable_cores() if processes is None else processes
    opened = open_tokenizer(tokenizer)
    with counted("tokenizing, million characters", None) as tell:
        index = prepare_shards(sources, opened, out, field, validation, processes, lambda done: tell(done // 10**6))
    print("\n".join([*describe(out, index), f"documents are separated by {describe_separator(opened)}"]))
    if not index.documents["validation"]:
        print("note: no document is for validation; the last tenth of the tokens will be, or raise --validation")


def describe(folder: str | Path, index: Index) -> list[str]:
    """What is in it."""
    lines = [f"{folder}: {index.characters:,} characters, {index.vocab_size:,} ids, {index.dtype}"]
    for split, shards in index.splits.items():
        count = sum(shard.count for shard in shards)
        lines.append(
            f"{split:<10} {index.documents[split]:>12,} documents {count:>15,} tokens {len(shards):>6,} shards"
        )
    return lines


def describe_separator(tokenizer: Tokenizer) -> str:
    """What stands between two documents, in words."""
    ids = separator_of(tokenizer)
    if tokenizer.end_of_text is not None:
        return f"the token {visible(tokenizer.decode_bytes(ids))}, id {ids[0]}"
    return f"{'a newline' if ids else 'nothing'}, because the tokenizer has no end token"


def verify_command(folder: str) -> None:
    """Reads everything; prints what there is."""
    index = read_index(folder)
    size = sum(shard.count for split in index.splits.values() for shard in split) * np.dtype(index.dtype).itemsize
    with counted("reading, bytes", size) as tell:
        verify(folder, index, tell)
    print("\n".join([*describe(folder, index), "every shard is as it was written"]))
