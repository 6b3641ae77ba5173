"""The log-probabilities that the base gives to the answers of each pair: computed once, kept in the run's folder.

DPO compares the model with its base at each step (Rafailov et al. 2023, equation 7). The base does not change, so its
log-probabilities of all pairs are computed before the first step, and no second model is held while training. The file
holds the key that they were computed for: another base or other pairs make another key, and they are computed again.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxllm.gpt import GPT, traced_once
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors
from jaxllm.utils.errors import InputError, NonFiniteError

from ..runs.imported_weights import checksum
from .data import TuneData
from .objectives import log_probs

FILE = "reference.safetensors"
FORMAT = {"format": "jaxllm reference log-probabilities", "version": "1"}
SPLITS = ("train", "validation")
LogProbs = dict[str, NDArray[np.float32]]  # [N, 2] of each split: of the chosen and of the rejected answer


def with_reference(
    data: TuneData, model: GPT, base: Callable[[], Any], folder: Path, key: Mapping[str, str], rows: int
) -> TuneData:
    """The data with the base's log-probabilities, read from the folder if they are there for this key, else computed.

    `base` returns the base's parameters and is called only to compute. The key names what they depend on; the ids of
    the pairs, which a chat template decides too, and the dtype of the computation are added here. `rows` is the number
    of pairs computed at a time; of several processes the first writes the file. Raises NonFiniteError for a base that
    computes NaN or infinity, and OSError if the file cannot be written.
    """
    sizes = {"train": len(data.train.rows), "validation": len(data.validation.rows)}
    key = {**key, "pairs": data.fingerprint(), "dtype": str(model.dtype)}
    found = read_log_probs(folder / FILE, key, sizes)
    if found is None:
        params = base()
        found = {split: of_pairs(model, params, data.batches(split, rows), sizes[split]) for split in SPLITS}
        if jax.process_index() == 0:
            write_log_probs(folder / FILE, key, found)
    return data.with_reference(found["train"], found["validation"])


def of_pairs(model: GPT, params: Any, batches: Iterable[tuple[Any, Any]], n: int) -> NDArray[np.float32]:
    """The log-probabilities [n, 2] of the pairs of batches, whose last one may be filled with further rows.

    Raises NonFiniteError if one is NaN or infinite.
    """
    computed = jax.jit(lambda params, inputs, ids: log_probs(traced_once(model), params, inputs, ids))
    found = [np.asarray(computed(params, inputs, targets.ids), np.float32) for inputs, targets in batches]
    values = np.concatenate(found)[:n]
    if not np.isfinite(values).all():
        pair = int(np.flatnonzero(~np.isfinite(values).all(-1))[0])
        raise NonFiniteError(
            f"the base gives an answer of pair {pair + 1:,} a log-probability that is not finite; look for NaN in its "
            "weights, or compute in float32."
        )
    return values


def write_log_probs(path: Path, key: Mapping[str, str], found: LogProbs) -> None:
    """Write them with their key; the file appears only when it is complete. Raises OSError."""
    write_tensors(path, found, _metadata(key, found))


def _metadata(key: Mapping[str, str], found: LogProbs) -> dict[str, str]:
    return FORMAT | {f"of {name}": value for name, value in key.items()} | {"sha256": checksum(found)}


def read_log_probs(path: Path, key: Mapping[str, str], sizes: Mapping[str, int]) -> LogProbs | None:
    """What `write_log_probs` wrote for this key and so many pairs; None if the file is absent, damaged or of another.

    It only saves time, so it is never an error.
    """
    try:
        header = read_header(path)
        found = {name: np.array(read_tensor(path, tensor)) for name, tensor in header.tensors.items()}
    except InputError:
        return None
    shapes = {name: (x.shape, x.dtype) for name, x in found.items()}
    wanted = {split: ((n, 2), np.dtype(np.float32)) for split, n in sizes.items()}
    return found if shapes == wanted and header.metadata == _metadata(key, found) else None
