"""From text to batches.

`sources`, `folders` and `documents` read text, `shard_writer` and `shards` keep a corpus as ids on disk. `windows` are
the input-target pairs of the textbook, `batches` the batches of training as a function of (seed, step), whose order is
a `permutation` and whose rows may be a `mixture` of corpora. `id_sequences` is what all of them read ids from, and
`own_output` recognises the files that jaxllm itself wrote. The README beside this file is for users.
"""

from jaxllm.data.batches import batch, evaluation_batches, split_ids, windows_per_epoch
from jaxllm.data.documents import read_documents, read_source
from jaxllm.data.mixture import mixture
from jaxllm.data.sources import NAMED_CORPORA
from jaxllm.data.windows import input_target_pairs

__all__ = [
    "NAMED_CORPORA", "batch", "evaluation_batches", "input_target_pairs", "mixture", "read_documents", "read_source",
    "split_ids", "windows_per_epoch",
]  # fmt: skip
