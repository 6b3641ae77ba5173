"""From text to batches: sources, input-target pairs, the split, batches as a function of (seed, step)."""

from jaxllm.data.batches import batch, evaluation_batches, split_ids, windows_per_epoch
from jaxllm.data.documents import read_documents, read_source
from jaxllm.data.mixture import mixture
from jaxllm.data.sources import NAMED
from jaxllm.data.windows import input_target_pairs

__all__ = [
    "NAMED", "batch", "evaluation_batches", "input_target_pairs", "mixture", "read_documents", "read_source",
    "split_ids", "windows_per_epoch",
]  # fmt: skip
