"""`jaxllm export --verify`: opens what was exported as its reader will, and compares logits with the run's."""

import importlib
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
    """What was compared: who read it, on how many tokens, and the largest difference of the logits."""

    reader: str
    n_tokens: int
    difference: float  # relative to the largest logit
    bound: float

    def __str__(self) -> str:
        return (
            f"verified: {self.reader} opens it, and computes our logits of {self.n_tokens:,} random tokens "
            f"within {self.difference:.1e} of the largest, in float32 (bound {self.bound:.1g})"
        )


def verify(folder: Path, config: GPTConfig, params: Any) -> Verified:
    """Compare the logits of transformers, or without it of `load_pretrained`, with those of `params`, in float32.

    Raises RunError, which names the difference, if it is beyond BOUND, or if a logit is not finite.
    """
    if transformers := installed("transformers"):
        return compared(f"transformers {transformers}", lambda tokens: their_logits(folder, tokens), config, params)
    reader = "jaxllm.load_pretrained (transformers is not installed)"
    return compared(reader, lambda tokens: our_logits(*load_pretrained(folder), tokens), config, params)


def compared(
    reader: str, read: Callable[[np.ndarray], np.ndarray], config: GPTConfig, params: Any, bound: float = BOUND
) -> Verified:
    """Compare the logits [B, T, V] that `read` returns for tokens with ours. Raises RunError as `verify`."""
    tokens = random_tokens(config)
    difference = relative_difference(read(tokens), our_logits(config, params, tokens))
    if not difference <= bound:  # NaN is not
        raise RunError(
            f"the logits of {reader} differ from this model's by {difference:.1e} of the largest, but only {bound:.1g} "
            "can be rounding; nothing was written: report this model's config as a bug, or export without --verify."
        )
    return Verified(reader, tokens.size, difference, bound)


def installed(package: str) -> str | None:
    """The version of a package that needs PyTorch; None where either is not installed."""
    try:
        import torch  # noqa: F401 (both are needed)

        return str(importlib.import_module(package).__version__)
    except ImportError:
        return None


def random_tokens(config: GPTConfig) -> np.ndarray:
    """Tokens [ROWS, T] int32 of one document each: at a separator other programs would attend further."""
    ids = np.setdiff1d(np.arange(config.vocab_size, dtype=np.int32), [-1 if (s := config.separator) is None else s])
    return np.random.default_rng(0).choice(ids, (ROWS, min(LENGTH, config.context_length)))


def our_logits(config: GPTConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    """The logits [B, T, V] of the model in float32."""
    with arithmetic("float32"):
        return np.asarray(jax.jit(traced_once(GPT(config)).apply)({"params": params}, tokens))


def their_logits(folder: Path, tokens: np.ndarray, adapter: Path | None = None) -> np.ndarray:
    """The logits [B, T, V] of transformers in float32, with an adapter of PEFT where its folder is given."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    if adapter is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return np.asarray(model.float().eval()(torch.tensor(tokens.astype(np.int64))).logits)


def relative_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest |theirs - ours| over the largest |ours|; NaN where either is not finite, or of another shape."""
    if theirs.shape != ours.shape or not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return float("nan")
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())
