"""Slips of the gradients of the parameters, which are dicts by name."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference.optimizer import clip_by_global_norm, global_norm

LIMITS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)  # norms to which gradients are usually clipped


def ours(piece: ForeignPiece) -> Any:
    """Our gradients by name."""
    return piece.x


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis]:
    """Clipped, of a part of a tied table, of parameters that take no part. A factor is a slip of any piece."""
    gradients, got = piece.x, piece.got
    for limit in LIMITS:
        if global_norm(gradients) > limit:
            yield Hypothesis(
                "clipped", f"equals ours clipped to a norm of {limit:g}", partial(clip_by_global_norm, gradients, limit)
            )
    for name, parts in piece.extra.get("parts", {}).items():
        for part, other in (("embedding", "head"), ("head", "embedding")):
            says = f"equals ours where the gradient of {name} is that of the {part}, without that of the {other}"
            yield Hypothesis("tied-gradient", says, partial(_replaced, gradients, {name: parts[part]}))
    none = [name for name in got if not np.any(got[name]) and np.any(gradients[name])]
    if none and len(none) < len(got):
        says = f"equals ours, but is zero of {_listed(none)}: frozen, or detached"
        yield Hypothesis("detached", says, partial(_replaced, gradients, {n: np.zeros_like(got[n]) for n in none}))
    cut = {name: np.clip(gradients[name], -1, 1) for name in gradients}
    yield Hypothesis("clipped-by-value", "equals ours with each number clipped to 1", lambda: cut)


def _replaced(gradients: Any, changed: Any) -> Any:
    return {**gradients, **changed}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} parameters, {names[0]} first"
