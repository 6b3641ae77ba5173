"""A foreign model beside ours: the report of all numbers, the modules that depart, and what explains them.

Ours is the NumPy reference in float64 with *their* parameters, so what departs is theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm import reference
from jaxllm.compare.foreign.backward import gradient_piece, local_gradients, optimizer_piece
from jaxllm.compare.foreign.diagnosis import diagnose
from jaxllm.compare.foreign.matched import Matched
from jaxllm.compare.foreign.piece import SCALED, ForeignPiece
from jaxllm.compare.foreign.replay import pieces
from jaxllm.compare.measure import Comparison, largest, measure
from jaxllm.compare.report import Report
from jaxllm.compare.scales import gradient_scales, loss_scale
from jaxllm.compare.tolerances import MODEL_TOLERANCES, TOLERANCES
from jaxllm.compare.trees import named_leaves
from jaxllm.compare.twins import reference_config
from jaxllm.utils.errors import InputError, listed

GRADIENTS = "gradients"
EXACT = ("norm", "token_embedding", "position_embedding")  # kinds of a few operations: 30 ulp are enough
EXACT_ULP = 30


@dataclass(frozen=True)
class Fault:
    """A module of theirs that departs from ours on its own input."""

    name: str
    departure: float  # relative to the largest value
    explanation: str  # "": no known slip explains it

    def __str__(self) -> str:
        return f"{self.name} departs by {self.departure:.1e}{self.explanation and ': '}{self.explanation}"


@dataclass(frozen=True)
class ForeignReport:
    """All rows, the faults in the order of computation, and what could not be compared."""

    report: Report
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def compare_foreign(matched: Matched, dtype: str, ours: Any = None) -> ForeignReport:
    """The report of a matched recording; `dtype` is that of their computation, whose tolerances hold.

    The stages of its rows: `parameters` (theirs against `ours`, if given), `forward`, `backward` and `gradient` as in
    `compare_model`, in which one fault shows in all that follows; then `replay` and `replayed gradient`, in which each
    module reads their recorded input; then `optimizer step`. Raises InputError for a config that cannot be compared.
    """
    _check(matched)
    rows = [] if ours is None else _parameters(matched, ours, dtype)
    chain, gradients, scales = _chain(matched, dtype)
    forward_passed = all(row.passed for row in chain if row.stage == "forward")
    replayed = [(piece, _row("replay", piece, dtype)) for piece in pieces(matched)]
    local = local_gradients(matched)
    local = {path: local[path] for path in gradients if path in local}
    local_rows = _gradients("replayed gradient", matched, local, scales, TOLERANCES[dtype][1], dtype)
    faults = _faults(replayed)
    departing = _holders(matched, [row.name for _, row in replayed if row.failed])
    right = {path: dy for path, dy in local.items() if path.rpartition("/")[0] not in departing}
    if forward_passed and not faults:  # else the gradients depart because the forward does
        faults += _of_gradients(matched, gradients, [row for row in chain if row.stage == "gradient"], dtype)
    if not any(fault.name == GRADIENTS for fault in faults):
        faults += _of_gradients(matched, right, [row for row in local_rows if row.name in right], dtype)
    step, notes = optimizer_piece(matched), _left_out(matched)
    step_rows = [] if isinstance(step, str) else _step(step, dtype)
    if isinstance(step, str):
        notes.append(f"the optimizer step is left out: {step}")
    elif any(row.failed for row in step_rows):
        eps = float(jnp.finfo(dtype).eps)
        faults.append(_fault(step, max(row.relative for row in step_rows), 4 * eps))
    marked = Report.of(dtype, chain).rows
    every = (*rows, *marked, *(row for _, row in replayed), *local_rows, *step_rows)
    return ForeignReport(Report(dtype, every), tuple(faults), tuple(notes))


def _left_out(matched: Matched) -> list[str]:
    """What the recording lacks beside others of its kind, and so was not compared."""
    notes = []
    if matched.gradients and (still := [path for path in matched.sources if path not in matched.gradients]):
        notes.append(f"no gradient was recorded of {listed(still)}")
    recorded = {*matched.recording.inputs, *matched.recording.outputs}
    names = [name for name, one in matched.outputs.items() if "{h}" not in one.from_ and one.from_ not in recorded]
    if names:
        notes.append(f"their modules for {listed(names)} were not recorded")
    return notes


def _holders(matched: Matched, departing: list[str]) -> set[str]:
    """The modules that depart, and those whose parameters they use."""
    of_logits = {"token_embedding" if matched.config.tie_embeddings else "head"} if "logits" in departing else set()
    return {*departing, *of_logits, *({"token_embedding"} if SCALED in departing else ())}


def _of_gradients(matched: Matched, ours: Mapping[str, np.ndarray], rows: list[Comparison], dtype: str) -> list[Fault]:
    """The fault of all gradients together, if one of their rows is beyond tolerance."""
    piece = gradient_piece(matched, ours, GRADIENTS) if any(row.failed for row in rows) else None
    return [_fault(piece, max(row.relative for row in rows), TOLERANCES[dtype][1])] if piece else []


def _check(matched: Matched) -> None:
    c, recording = matched.config, matched.recording
    if c.block is not None or c.separator is not None or c.n_classes:
        which = "block" if c.block is not None else "n_classes" if c.n_classes else "separator"
        raise InputError(
            f"model.{which} is {getattr(c, which)}, but --against compares models without it; leave it out."
        )
    for name, ids in (("tokens", recording.tokens), ("targets", recording.targets)):
        if ids.min() < 0 or ids.max() >= c.vocab_size:
            raise InputError(
                f"{name} of {recording.path} are {ids.min()} to {ids.max()}, but the ids of the config are 0 to "
                f"{c.vocab_size - 1}; record a batch without padding, or correct model.vocab_size."
            )
    if recording.tokens.shape[1] > c.context_length:
        raise InputError(
            f"{recording.path} has rows of {recording.tokens.shape[1]} tokens, more than model.context_length = "
            f"{c.context_length}; record shorter ones, or correct the config."
        )


def _parameters(matched: Matched, ours: Any, dtype: str) -> list[Comparison]:
    """Theirs against ours, which may be the same numbers after a port."""
    own, tolerance = named_leaves(ours), TOLERANCES[dtype][0]
    return [measure("parameters", path, x, own[path], tolerance, dtype) for path, x in matched.by_path.items()]


def _chain(matched: Matched, dtype: str) -> tuple[list[Comparison], dict[str, np.ndarray], dict[str, float]]:
    """The rows of forward, backward and gradients from the tokens on; our gradients by path, and all scales."""
    config, recording = reference_config(matched.config), matched.recording
    tolerance, gradient_tolerance = MODEL_TOLERANCES[dtype]
    logits, wanted = reference.gpt.forward_with_intermediates(config, matched.params, recording.tokens)
    rows = [
        measure("forward", name, got, want, tolerance, dtype)
        for name, want in wanted.items()
        if (got := matched.output(name)) is not None
    ]
    of_sum: dict[str, np.ndarray] = {}
    loss, gradients = reference.step.accumulate(
        config, matched.params, recording.tokens, recording.targets, cotangents=of_sum
    )
    if recording.loss is not None:
        scale = max(loss, loss_scale(logits, recording.targets))
        rows.append(measure("forward", "loss", recording.loss, loss, tolerance, dtype, scale))
    cotangents = {name: dy / recording.targets.size for name, dy in of_sum.items()}
    scales = gradient_scales(matched.config, matched.params, wanted, cotangents, gradients)
    for name, want in cotangents.items():
        got = None if name.endswith("residual_1") else matched.output_gradient(name)
        if got is not None:
            rows.append(measure("backward", name, got, want, gradient_tolerance, dtype, scales[name]))
    by_path = dict(named_leaves(gradients))
    return rows + _gradients("gradient", matched, by_path, scales, gradient_tolerance, dtype), by_path, scales


def _gradients(
    stage: str, matched: Matched, ours: Mapping[str, np.ndarray], scales: Mapping[str, float], tolerance: float,
    dtype: str,
) -> list[Comparison]:  # fmt: skip
    """The rows of the gradients that both have, in the order of ours."""
    both = [path for path in ours if path in matched.gradients]
    return [
        measure(
            stage, path, matched.gradients[path], ours[path], tolerance, dtype,
            max(largest(ours[path]), scales.get(path, 0.0)),
        )
        for path in both
    ]  # fmt: skip


def _row(stage: str, piece: ForeignPiece, dtype: str) -> Comparison:
    tolerance = TOLERANCES[dtype][0]
    if piece.kind in EXACT and dtype != "float64":
        tolerance = min(tolerance, float(f"{EXACT_ULP * float(jnp.finfo(dtype).eps):.1e}"))
    scale = None
    if piece.kind == "loss":
        scale = max(float(piece.extra["ours"]), loss_scale(piece.x, piece.extra["targets"]))
    return measure(stage, piece.name, piece.got, piece.extra["ours"], tolerance, dtype, scale)


def _step(piece: ForeignPiece, dtype: str) -> list[Comparison]:
    """The rows of what the step added to each parameter, which is rounded as the parameter is."""
    eps, rows = float(jnp.finfo(dtype).eps), list[Comparison]()
    for path in piece.got:
        p = piece.params[path]
        got, want = piece.got[path] - p, piece.extra["ours"][path] - p
        size = largest(want)
        tolerance = max(TOLERANCES[dtype][1], 2 * eps * largest(p) / size if size else 0.0)
        rows.append(measure("optimizer step", path, got, want, float(f"{tolerance:.1e}"), dtype))
    return rows


def _faults(replayed: list[tuple[ForeignPiece, Comparison]]) -> list[Fault]:
    """A fault for each piece that departs, but not for one that is made of such a piece."""
    failed = [(piece, row) for piece, row in replayed if row.failed]
    names = [row.name for _, row in failed]
    return [
        _fault(piece, row.relative, row.tolerance)
        for piece, row in failed
        if not any(name.startswith(f"{row.name}/") for name in names)
    ]


def _fault(piece: ForeignPiece, departure: float, tolerance: float) -> Fault:
    """The fault of a piece, with the slip that explains it."""
    found = diagnose(piece, tolerance)
    return Fault(piece.name, departure, found.sentence if found else "")
