"""Slips of a block: how norms, attention, MLP and residuals are wired."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import attention
from jaxllm.reference import layers
from jaxllm.reference.arrays import Array, float64

Norms = tuple[str | None, str | None]  # the norms before and after attention or MLP, by name
Branch = Callable[[Array], Array]  # attention or MLP with its norms: [..., T, D] -> [..., T, D]


def ours(piece: ForeignPiece) -> Array:
    """The block of the recorded input: [B, T, D] -> [B, T, D]."""
    first, second = _branches(piece, *_places(piece.config))
    return _block(float64(piece.x), first, second, piece.config.parallel_residual)


def _places(config: Any) -> tuple[Norms, Norms]:
    """The norms of attention and of MLP in their places."""
    one: dict[str, tuple[Norms, Norms]] = {
        "before": (("norm_1", None), ("norm_2", None)),
        "after": ((None, "norm_1"), (None, "norm_2")),
        "both": (("norm_1", "norm_1_after"), ("norm_2", "norm_2_after")),
    }
    return one[config.norm_place]


def _branches(piece: ForeignPiece, of_attention: Norms, of_mlp: Norms) -> tuple[Branch, Branch]:
    """Attention and MLP with these norms."""
    return partial(_branch, piece, _attention, of_attention), partial(_branch, piece, _mlp, of_mlp)


def _branch(piece: ForeignPiece, f: Callable[[ForeignPiece, Array], Array], norms: Norms, x: Array) -> Array:
    before, after = norms
    return _norm(piece, after, f(piece, _norm(piece, before, x)))


def _norm(piece: ForeignPiece, name: str | None, x: Array) -> Array:
    config = piece.config
    return x if name is None else layers.norm(piece.params[name], x, config.norm, config.norm_epsilon)


def _attention(piece: ForeignPiece, x: Array) -> Array:
    return attention.ours(ForeignPiece("attention", piece.name, piece.config, piece.params["attention"], x, x))


def _mlp(piece: ForeignPiece, x: Array) -> Array:
    return layers.mlp(piece.params["mlp"], x, piece.config.activation)


def _block(x: Array, first: Branch, second: Branch, parallel: bool, scale: float = 1.0) -> Array:
    """x + first(x), then + second of that sum or, in parallel, of x; each times a scale."""
    middle = x + scale * first(x)
    return middle + scale * second(x if parallel else middle)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of the wiring; those of the parts are found in the parts."""
    x, parallel = float64(piece.x), piece.config.parallel_residual
    first, second = _branches(piece, *_places(piece.config))
    attended = first(x)
    middle = x + attended
    read = x if parallel else middle  # by the MLP
    yield from _residuals(x, attended, read, second)
    yield from _sums_of_normed(piece, x)
    for slip, says, norms in _norms(piece):
        changed = partial(_block, x, *_branches(piece, *norms), parallel)
        yield Hypothesis(slip, f"equals ours {says}", changed)
    if parallel:
        says = "equals ours with the MLP after the attention, not in parallel"
        yield Hypothesis("parallel", says, lambda: middle + second(middle))
    else:
        says = "equals ours with attention and MLP in parallel, each from its own norm of the input"
        yield Hypothesis("parallel", says, lambda: middle + second(x))
    if piece.config.norm_place == "before" and not parallel:
        says = "equals ours with attention and MLP in parallel, both from the first norm"
        yield Hypothesis("parallel", says, lambda: middle + _branch(piece, _mlp, ("norm_1", None), x))
    yield Hypothesis("no-attention", "equals ours without the attention", lambda: x + second(x))
    yield Hypothesis("no-mlp", "equals ours without the MLP", lambda: middle)
    yield OneNumber(
        "residual-scale", "fits attention and MLP times {value} where they are added",
        lambda c: _block(x, lambda _: attended, second, parallel, c), (0.5, 1.0, 2.0), may_vanish=False,
    )  # fmt: skip


def _residuals(x: Array, attended: Array, read: Array, second: Branch) -> Iterator[Hypothesis]:
    """Slips of what is added to what, where the MLP reads `read`."""
    if read is x:
        yield Hypothesis("residual", "equals ours without the residual", lambda: attended + second(x))
        return
    for says, result in (
        ("without the residual around the attention", lambda: attended + second(attended)),
        ("without the residual around the MLP", lambda: second(read)),
        ("without both residuals", lambda: second(attended)),
        ("with the block's input as the MLP's residual", lambda: x + second(read)),
    ):
        yield Hypothesis("residual", f"equals ours {says}", result)


def _sums_of_normed(piece: ForeignPiece, x: Array) -> Iterator[Hypothesis]:
    """Norms of the residual stream itself, where ours has norms of the inputs of attention and MLP."""
    if piece.config.norm_place != "before" or piece.config.parallel_residual:
        return
    one, two = (partial(_norm, piece, name) for name in ("norm_1", "norm_2"))
    attention, mlp = partial(_attention, piece), partial(_mlp, piece)
    normed = one(x)
    attended = attention(normed)
    middle = x + attended
    first = normed + attended
    last = one(x + attention(x))
    for slip, says, result in (
        ("residual", "with the first norm's result as residual", lambda: first + mlp(two(first))),
        ("residual", "with the second norm's result as residual", lambda: two(middle) + mlp(two(middle))),
        ("residual", "with both norms' results as residuals", lambda: two(first) + mlp(two(first))),
        ("norm-place", "with the norms after the residual sums", lambda: two(last + mlp(last))),
    ):
        yield Hypothesis(slip, f"equals ours {says}", result)


def _norms(piece: ForeignPiece) -> Iterator[tuple[str, str, tuple[Norms, Norms]]]:
    """A name, a sentence and the norms of each slip of which norms are where."""
    place = piece.config.norm_place
    one, two = _places(piece.config)
    none: Norms = (None, None)
    if place == "both":
        yield "no-norm", "without the norms of attention's and MLP's results", ((one[0], None), (two[0], None))
        yield "no-norm", "without the norms of attention's and MLP's inputs", ((None, one[1]), (None, two[1]))
        yield "norms-exchanged", "with the attention's two norms exchanged", ((one[1], one[0]), two)
        yield "norms-exchanged", "with the MLP's two norms exchanged", (one, (two[1], two[0]))
    else:
        other = "results" if place == "before" else "inputs"
        yield "norm-place", f"with the norms of attention's and MLP's {other}", (one[::-1], two[::-1])
        yield "no-norm", "without the first norm", (none, two)
        yield "no-norm", "without the second norm", (one, none)
        yield "no-norm", "without both norms", (none, none)
        yield "norms-exchanged", "with the first norm in both places", (one, one)
        yield "norms-exchanged", "with the second norm in both places", (two, two)
    yield "norms-exchanged", "with the norms of attention and MLP exchanged", (two, one)
