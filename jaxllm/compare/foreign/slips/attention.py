"""Slips of attention: its scores, its softmax, its biases; masks, positions and heads are in `attending`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import heads, masks, rotary
from jaxllm.compare.foreign.slips.attending import Attending, attend
from jaxllm.compare.foreign.slips.caps import caps
from jaxllm.compare.foreign.slips.mlp import without_bias
from jaxllm.compare.foreign.slips.norm import EPSILONS
from jaxllm.reference import gpt, multi_head
from jaxllm.reference.arrays import Array, Params, float64

MAPS = ("query", "key", "value", "output")


def ours(piece: ForeignPiece) -> Array:
    """The attention of the recorded input: [B, T, D] -> [B, T, D].

    It is computed as the slips compute it where they can, so that an option which they do not know shows.
    """
    config, x = piece.config, float64(piece.x)
    if config.visible is None and config.score is None:
        return attend(piece.params, x, Attending.of(config, x.shape[-2]))
    options = gpt._options(config, 0)
    return multi_head.multi_head_attention(piece.params, x, config.n_heads, config.kv_heads, **options)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of an attention without a user's own mask or score."""
    config, params, x = piece.config, piece.params, float64(piece.x)
    if config.visible is not None or config.score is not None or x.shape[-2] < 2:
        return
    how = Attending.of(config, x.shape[-2])
    yield from _scores(config, params, x, how)
    yield from _softmax(params, x, how)
    changes = chain(masks.changes(config, how), rotary.changes(config, how), heads.changes(config, how))
    for slip, says, changed in changes:
        yield Hypothesis(slip, says, partial(attend, params, x, changed))
    yield from rotary.bases(params, x, how)
    for slip, says, changed_params in chain(_without_biases(params), _exchanged(params), _transposed(params)):
        yield Hypothesis(slip, says, partial(attend, changed_params, x, how))
    if x.shape == np.shape(piece.got):
        yield Hypothesis("residual", "equals ours plus its input", lambda: attend(params, x, how) + x)
    no_output = {**params, "output": {"kernel": np.eye(np.shape(params["output"]["kernel"])[0])}}
    yield Hypothesis("no-output", "equals ours without the output map", partial(attend, no_output, x, how))
    if "query_norm" in params:
        yield from _norms(config, params, x, how)


def _scores(config: Any, params: Params, x: Array, how: Attending) -> Iterator[Hypothesis | OneNumber]:
    """What the scores are multiplied by, and their cap."""
    k, d, h = config.head_dim, config.d_model, config.n_heads
    names: Mapping[str, float] = {
        "1 / d_head": 1 / k, "1 / sqrt(d_model)": 1 / math.sqrt(d), "1 / d_model": 1 / d,
        "sqrt(d_head)": math.sqrt(k), "1 / sqrt(n_heads)": 1 / math.sqrt(h), "1 / n_heads": 1 / h,
        "-1 / sqrt(d_head)": -1 / math.sqrt(k), "1 / sqrt(d_head)": 1 / math.sqrt(k),
    }  # fmt: skip
    is_ours = "1 / sqrt(d_head) = " if config.attention_scale is None else ""
    yield OneNumber(
        "score-scale", f"fits scores times {{value}}; ours is {is_ours}{how.scale:.6g}",
        lambda c: attend(params, x, replace(how, scale=c)),
        [1.0, *names.values(), *(how.scale * 2.0**n for n in range(-4, 5) if n)], smallest=how.scale, names=names,
    )  # fmt: skip
    yield from caps("score", how.cap, lambda c: attend(params, x, replace(how, cap=c)))


def _softmax(params: Params, x: Array, how: Attending) -> Iterator[Hypothesis]:
    for axis, over in ((-2, "queries"), (-3, "heads")):
        yield Hypothesis(
            "softmax-axis", f"equals ours with the softmax over the {over}, not the keys",
            partial(attend, params, x, replace(how, softmax_axis=axis)),
        )  # fmt: skip
    without = replace(how, softmax_axis=None)
    yield Hypothesis("no-softmax", "equals ours without the softmax", partial(attend, params, x, without))
    yield Hypothesis(
        "softmax-plus-one", "equals ours with 1 added to the softmax's denominator",
        partial(attend, params, x, replace(how, plus_one=True)),
    )  # fmt: skip


def _without_biases(params: Params) -> Iterator[tuple[str, str, Params]]:
    with_bias = [name for name in MAPS if "bias" in params.get(name, {})]
    inputs = [name for name in with_bias if name != "output"]
    sets: list[tuple[str, ...]] = [(name,) for name in with_bias]
    sets += [tuple(names) for names in (inputs, with_bias) if len(names) > 1 and tuple(names) not in sets]
    for names in dict.fromkeys(sets):
        yield "no-bias", f"equals ours without the bias of {', '.join(names)}", without_bias(params, *names)


def _exchanged(params: Params) -> Iterator[tuple[str, str, Params]]:
    """Maps in place of others, where they have the same shape."""
    for one, other in (("query", "key"), ("key", "value"), ("query", "value")):
        if np.shape(params[one]["kernel"]) == np.shape(params[other]["kernel"]):
            says = f"equals ours with {one} and {other} exchanged"
            yield "exchanged", says, {**params, one: params[other], other: params[one]}
            for source, target in ((one, other), (other, one)):
                says = f"equals ours with the {source} map for the {target}"
                yield "reused", says, {**params, target: params[source]}


def _transposed(params: Params) -> Iterator[tuple[str, str, Params]]:
    square = [name for name in MAPS if len({*np.shape(params[name]["kernel"])}) == 1]
    sets = [(name,) for name in square] + ([tuple(square)] if len(square) > 1 else [])
    for names in sets:
        turned = {name: {**params[name], "kernel": np.transpose(params[name]["kernel"])} for name in names}
        yield "transposed", f"equals ours with the weight of {', '.join(names)} transposed", {**params, **turned}


def _norms(config: Any, params: Params, x: Array, how: Attending) -> Iterator[Hypothesis | OneNumber]:
    """Slips of the norms of queries and keys."""
    for names in (("query",), ("key",), ("query", "key")):
        without = {name: part for name, part in params.items() if name not in [f"{one}_norm" for one in names]}
        says = f"equals ours without the norm of {' and '.join(names)}"
        yield Hypothesis("no-head-norm", says, partial(attend, without, x, how))
    if not how.whole_norms:
        yield Hypothesis(
            "rotated-before-norm", "equals ours with queries and keys rotated before they are normalised",
            partial(attend, params, x, replace(how, rotated_first=True)),
        )  # fmt: skip
    yield OneNumber(
        "epsilon", f"fits epsilon = {{value}} in the norms of queries and keys; ours is {config.norm_epsilon:g}",
        lambda e: attend(params, x, replace(how, epsilon=e)), EPSILONS, 0.0, 1e-8,
    )  # fmt: skip
