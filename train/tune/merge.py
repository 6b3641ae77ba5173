"""The proof that a merge keeps the tuning: logits before and after, in float64 and with the weights as stored.

A merge adds scale A B to each adapted map W, so that the model needs no adapter. Two things can go wrong. The sum can
be of the wrong matrices: then the merged model differs in float64, where rounding is 1e-16. Or the stored dtype can be
too coarse for a small change: then what the adapter has learned is rounded away, although nothing failed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.compare.tolerances import arithmetic
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, traced_once
from jaxllm.lora import LoraKernel, merge
from jaxllm.utils.errors import NonFiniteError

from ..errors import RunError

MOST_DIFFERENCE = 1e-12  # of merged logits in float64, relative to the largest logit
MOST_LOST = 0.1  # of the tuning, by the weights as they are stored

Row = tuple[np.ndarray, np.ndarray]  # tokens [T] int32, and which positions count, [T] bool


@dataclass(frozen=True)
class Proof:
    """What a merge changes, on the positions of some texts."""

    n_positions: int
    changed: int  # positions at which the adapter changes the most likely token of the base
    difference: float  # largest |merged - adapter| over largest |adapter|, in float64
    lost: float  # rms(stored - adapter) over rms(adapter - base): the share of the tuning that storing loses
    agreeing: int  # positions at which the stored weights give the adapter's most likely token

    def lines(self, dtype: str, predicted: str = "token") -> list[str]:
        """The proof for a reader; `dtype` names that of the stored weights, `predicted` what the model predicts."""
        n = f"{self.n_positions:,}"
        return [
            f"the adapter changes the most likely {predicted} at {self.changed:,} of {n} positions of the validation "
            "texts",
            f"merged in float64: logits differ by {self.difference:.1e} of the largest (bound {MOST_DIFFERENCE:g})",
            f"stored in {dtype}: {self.lost:.1e} of the tuning is lost (bound {MOST_LOST:g}); the most likely "
            f"{predicted} is the adapter's at {self.agreeing:,} of {n}",
        ]

    def check(self, dtype: str) -> None:
        """Raises RunError if the merge is not the adapter's model, or if the stored weights lose too much of it."""
        if not self.difference <= MOST_DIFFERENCE:
            raise RunError(
                f"in float64 the merged logits differ from the adapter's by {self.difference:.1e} of the largest, more "
                f"than {MOST_DIFFERENCE:g}, so that the merge is another model; report this as a bug of jaxllm."
            )
        if not self.lost <= MOST_LOST:
            finer = "--dtype float32" if dtype != "float32" else "the run without a merge, or train it for longer"
            raise RunError(
                f"{dtype} is too coarse for this adapter: {self.lost:.0%} of what it changes would be lost, more than "
                f"{MOST_LOST:.0%}; use {finer}."
            )


def prove(config: GPTConfig, tuned: Any, stored: Any, rows: Iterable[Row]) -> Proof:
    """Compare the model with adapters `tuned` with its merge, in float64 and as `stored`, on all rows.

    `tuned` has `LoraKernel` leaves, `stored` arrays at all paths. All four models compute in float64, so that the
    stored weights' own rounding is all that is measured. One of them is in memory at a time.

    Raises NonFiniteError for an adapter or logits with NaN or infinity, and RunError for an adapter that changes
    nothing, or without positions that count.
    """
    check_finite(tuned)
    rows = list(rows)
    exact = counted_logits(config, tuned, rows)
    base = counted_logits(config, without_adapters(tuned), rows)
    change = rms(exact - base)
    if change == 0:
        raise RunError(
            "the adapter changes no logit of the validation texts, as before the first step: there is no tuning to "
            "merge; train the run first, or merge another one."
        )
    changed = differing(exact, base)
    del base
    merged = counted_logits(config, merge(in_float64(tuned)), rows)
    difference = float(np.abs(merged - exact).max() / np.abs(exact).max())
    del merged
    rounded = counted_logits(config, stored, rows)
    return Proof(len(exact), changed, difference, rms(rounded - exact) / change, len(exact) - differing(rounded, exact))


def check_finite(tuned: Any) -> None:
    """Raises NonFiniteError, which names the first map, if a leaf of the parameters is not finite."""
    for path, leaf in flatten_dict(tuned, sep="/").items():
        adapted = isinstance(leaf, LoraKernel)
        for what, arrays in (("the adapter of ", (leaf.a, leaf.b)), ("", leaf.base)) if adapted else (("", leaf),):
            if not all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(arrays)):
                raise NonFiniteError(
                    f"{what}{path} holds NaN or an infinite number, so that there is nothing to merge; go back to an "
                    "earlier checkpoint with --step, or train again with a lower optimizer.learning_rate."
                )


def without_adapters(params: Any) -> dict[str, Any]:
    """The parameters with the base of each `LoraKernel` in its place."""
    flat = flatten_dict(params)
    return dict(unflatten_dict({p: x.base if isinstance(x, LoraKernel) else x for p, x in flat.items()}))


def in_float64(params: Any) -> Any:
    """The parameters with floats in float64, as NumPy arrays; integers, as of int8 kernels, stay."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)


def counted_logits(config: GPTConfig, params: Any, rows: Iterable[Row]) -> np.ndarray:
    """The logits at the positions that count, [N, V], computed in float64.

    Raises RunError if no position counts, and NonFiniteError for NaN or infinity.
    """
    with arithmetic("float64"):
        params = jax.device_put(in_float64(params))
        found = [np.asarray(_logits(config, params, tokens))[counted] for tokens, counted in rows]
    logits = np.concatenate(found) if found else np.empty((0, 0))
    if not len(logits):
        raise RunError(
            "no position of the validation texts counts, so that a merge cannot be proven; give more of them."
        )
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            "the model computes NaN or infinity on the validation texts, so that there is nothing to merge; go back to "
            "an earlier checkpoint with --step."
        )
    return logits


@partial(jax.jit, static_argnames="config")
def _logits(config: GPTConfig, params: Any, tokens: np.ndarray) -> jax.Array:
    out: Any = traced_once(GPT(config)).apply({"params": params}, tokens[None])
    return out[0]


def rms(x: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x))))


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """The number of rows whose largest element is at another place."""
    return int((a.argmax(-1) != b.argmax(-1)).sum())


def rounded_to(params: Any, dtype: str) -> Any:
    """Float parameters rounded to a dtype, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x).astype(jnp.dtype(dtype)), params)
