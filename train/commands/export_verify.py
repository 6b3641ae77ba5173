"""`jaxllm export --verify`: opens the exported folder as its reader will, and compares logits with the run's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.compare.tolerances import MODEL_TOLERANCES, arithmetic
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, traced_once
from jaxllm.pretrained.load import load_pretrained

from ..errors import RunError

ROWS, LENGTH = 2, 128  # of random tokens; the length at most
BOUND = MODEL_TOLERANCES["float32"][0]  # of the largest difference, relative to the largest logit


class Verified(NamedTuple):
    """What was compared: who read the folder, on how many tokens, and the largest difference of the logits."""

    reader: str
    n_tokens: int
    difference: float  # relative to the largest logit

    def __str__(self) -> str:
        return (
            f"verified: {self.reader} opens the folder, and computes our logits of {self.n_tokens:,} random tokens "
            f"within {self.difference:.1e} of the largest, in float32 (bound {BOUND:g})"
        )


def verify(folder: Path, config: GPTConfig, params: Any) -> Verified:
    """Compare the logits of transformers, or without it of `load_pretrained`, with those of `params`, in float32.

    Raises RunError, which names the difference, if it is beyond BOUND or if a logit is not finite.
    """
    tokens, (reader, read) = random_tokens(config), _reader()
    ours = our_logits(config, params, tokens)
    difference = relative_difference(read(folder, tokens), ours)
    if not difference <= BOUND:  # NaN is not
        raise RunError(
            f"the logits of {reader} differ from this model's by {difference:.1e} of the largest, but only {BOUND:g} "
            "can be rounding; no folder was written: report this model's config as a bug, or export without --verify."
        )
    return Verified(reader, tokens.size, difference)


def random_tokens(config: GPTConfig) -> np.ndarray:
    """Tokens [ROWS, T] int32 of one document each: at a separator other programs would attend further."""
    ids = np.setdiff1d(np.arange(config.vocab_size, dtype=np.int32), [-1 if (s := config.separator) is None else s])
    return np.random.default_rng(0).choice(ids, (ROWS, min(LENGTH, config.context_length)))


def our_logits(config: GPTConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    """The logits [B, T, V] of the model in float32."""
    with arithmetic("float32"):
        return np.asarray(jax.jit(traced_once(GPT(config)).apply)({"params": params}, tokens))


def relative_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest |theirs - ours| over the largest |ours|; NaN where either is not finite, or of another shape."""
    if theirs.shape != ours.shape or not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return float("nan")
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def _reader() -> tuple[str, Callable[[Path, np.ndarray], np.ndarray]]:
    """The name and the logits of transformers, or of our own reader where transformers or PyTorch is not installed."""
    try:
        import torch  # noqa: F401 (both are needed)
        import transformers
    except ImportError:
        return "jaxllm.load_pretrained (transformers is not installed)", _logits_of_our_reader
    return f"transformers {transformers.__version__}", _logits_of_transformers


def _logits_of_our_reader(folder: Path, tokens: np.ndarray) -> np.ndarray:
    config, params = load_pretrained(folder)
    return our_logits(config, params, tokens)


def _logits_of_transformers(folder: Path, tokens: np.ndarray) -> np.ndarray:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    with torch.no_grad():
        return np.asarray(model.float().eval()(torch.tensor(tokens.astype(np.int64))).logits)
