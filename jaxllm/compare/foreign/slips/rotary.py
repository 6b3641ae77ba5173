"""Slips of rotary positions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jaxllm.compare.foreign.hypotheses import OneNumber
from jaxllm.compare.foreign.slips.attending import Attending, attend
from jaxllm.config import Rotary
from jaxllm.config_rules import rotated_width
from jaxllm.reference.arrays import Array, Params

FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.125)  # of a head's features
BASES = (100.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7)


def changes(config: Any, how: Attending) -> Iterator[tuple[str, str, Attending]]:
    """A name, a sentence and the attention of each slip."""
    if how.rotary is None:
        yield from _added(config, how)
        return
    interleaved = how.rotary.interleaved
    form, ours = ("halves", "neighbours") if interleaved else ("neighbours", "halves")
    other = how.rotary._replace(interleaved=not interleaved)
    says = f"equals ours with rotary pairs of {form}, not of {ours}"
    yield "rotary-pairs", says, replace(how, rotary=other)
    yield "no-rotary", "equals ours without rotary positions", replace(how, rotary=None)
    for name, of in (("query", "queries"), ("key", "keys")):
        yield "no-rotary", f"equals ours with {of} alone rotated", replace(how, rotated=(name,))
    yield "values-rotated", "equals ours with values rotated too", replace(how, rotated=("query", "key", "value"))
    yield "rotary-direction", "equals ours rotated the other way", replace(how, direction=-1)
    for shift, where in ((1, "after"), (-1, "before")):
        says = f"equals ours with queries one position {where} their keys'"
        yield "positions-shifted", says, replace(how, query_shift=shift)
    width = config.head_dim
    ours_n = rotated_width(width, how.fraction)
    for n in sorted({int(width * fraction) for fraction in FRACTIONS} - {ours_n, 0}):
        if n % 2 == 0:
            says = f"equals ours with {n} of {width} features of a head rotated, the first; in ours it is {ours_n}"
            yield "rotary-fraction", says, replace(how, fraction=(n + 0.5) / width)
    unscaled = Rotary(how.rotary.base, interleaved)
    if how.rotary != unscaled:
        yield "rotary-scaling", "equals ours without the scaling of rotary positions", replace(how, rotary=unscaled)


def _added(config: Any, how: Attending) -> Iterator[tuple[str, str, Attending]]:
    """Rotary positions where ours has none."""
    if config.head_dim % 2:
        return
    for interleaved, form in ((False, "halves"), (True, "neighbours")):
        rotary = Rotary(10000.0, interleaved)
        yield "rotary", f"equals ours with rotary positions of {form}, base 10000", replace(how, rotary=rotary)


def bases(params: Params, x: Array, how: Attending) -> Iterator[OneNumber]:
    """Another base."""
    if how.rotary is None:
        return
    rotary = how.rotary
    yield OneNumber(
        "rotary-base", f"fits a rotary base of {{value}}; ours is {rotary.base:g}",
        lambda b: attend(params, x, replace(how, rotary=rotary._replace(base=b))), BASES, lowest=1.0, smallest=1.0,
    )  # fmt: skip
