"""How each cell of the page of `jaxllm learn show` was made: an operation, and the grids that it reads.

`formulas.js` writes an operation as a formula with the numbers of a cell, and so knows which cells made it. A grid
is named by what it shows of which array: "value:logits", "gradient:logits", "update:head/kernel". Grids of one head end
in its number, as in "value:block_0/attention/scores/1".
"""

from typing import Any

from jaxllm import GPTConfig
from jaxllm.utils.ideas import Idea

from ...config import OptimizerConfig
from .axes import Axes
from .values import norms

Operation = dict[str, Any]
Operations = dict[str, Operation]  # by grid


def value(name: str, head: int | None = None) -> str:
    """The grid of the values of an array."""
    return f"value:{name}" if head is None else f"value:{name}/{head}"


def gradient(name: str, head: int | None = None) -> str:
    """The grid of its gradient."""
    return value(name, head).replace("value", "gradient", 1)


def product(a: Any, b: str, flip: str = "", bias: str | None = None, cut: bool = False, **more: Any) -> Operation:
    """A matrix product: `flip` names the transposed ones of "a" and "b", `cut` says that some terms are not shown."""
    return {"do": "product", "terms": [{"a": a, "b": b, "flip": flip, **more}], "bias": bias, "cut": cut}


def total(*parts: str) -> Operation:
    """The sum of grids, or a copy of one."""
    return {"do": "total", "parts": list(parts)}


def operations(config: GPTConfig, axes: Axes, parameters: set[str]) -> Operations:
    """The operations of all values and gradients."""
    stream = "position_embedding" if config.adds_positions else "token_embedding"
    found = _embeddings(config, axes) | _simple_attention(axes)
    for i in axes.blocks:
        at = f"block_{i}"
        found |= _norm(config, axes, f"{at}/norm_1", stream, f"{at}/residual_1")
        found |= _attention(config, axes, f"{at}/attention", f"{at}/norm_1", parameters)
        found[value(f"{at}/residual_1")] = total(value(stream), value(f"{at}/attention"))
        found[gradient(f"{at}/attention")] = total(gradient(f"{at}/residual_1"))
        found |= _norm(config, axes, f"{at}/norm_2", f"{at}/residual_1", at)
        found |= _mlp(config, axes, f"{at}/mlp", f"{at}/norm_2", parameters)
        found[value(at)] = total(value(f"{at}/residual_1"), value(f"{at}/mlp"))
        found[gradient(f"{at}/mlp")] = total(gradient(at))
        stream = at
    return found | _head(config, axes)


def _embeddings(config: GPTConfig, axes: Axes) -> Operations:
    table, x, positions = "token_embedding/table", "token_embedding", "position_embedding"
    found: Operations = {value("pairs"): {"do": "given", "says": "the number of this token in the vocabulary"}}
    found |= {value(x): {"do": "lookup", "a": value(table), "rows": axes.ids}}
    if config.adds_positions:
        learned = config.position == "learned"
        given = {"do": "own", "rows": [value(x)], "says": "the embedding plus the vector of the position"}
        found[value(positions)] = total(value(x), value(f"{positions}/table")) if learned else given
        found[gradient(x)] = total(gradient(positions))
        found[gradient(f"{positions}/table")] = total(gradient(positions))
    head: Operation = {"dl": gradient("logits"), "h": value("norm_final")} if config.tie_embeddings else {}
    found[gradient(table)] = {"do": "table_back", "dx": gradient(x), "ids": axes.ids, **head}
    return found


def _simple_attention(axes: Axes) -> Operations:
    x = value("token_embedding")
    return {
        value("simple/scores"): product(x, x, "b", cut=axes.cut("d")),
        value("simple/weights"): {"do": "softmax", "a": value("simple/scores")},
        value("simple"): product(value("simple/weights"), x),
    }


def _norm(config: GPTConfig, axes: Axes, at: str, x: str, plus: str | None) -> Operations:
    """A norm of x. The gradient of x also has that of the residual stream after it, `plus`."""
    if at not in norms(config):
        of_user = {"do": "own", "rows": [value(x)], "says": "your norm of this row"}
        above = [gradient(at), *([gradient(plus)] if plus else [])]
        return {value(at): of_user, gradient(x): {"do": "own", "rows": above, "says": "back through your norm"}}
    given = {"x": value(x), "stats": value(f"{at}/statistics"), "scale": value(f"{at}/scale")}
    bias = value(f"{at}/bias") if config.use_bias else None
    size, cut, dy = config.d_model, axes.cut("d"), gradient(at)
    centred = config.norm == "layer_norm"
    stats = {"do": "stats", "x": value(x), "epsilon": config.norm_epsilon, "centred": centred, "size": size, "cut": cut}
    back = {"do": "norm_back", **given, "dy": dy, "means": value(f"{at}/means")}
    return {
        value(f"{at}/statistics"): stats,
        value(f"{at}/means"): {"do": "means", **given, "dy": dy, "centred": centred, "size": size, "cut": cut},
        value(at): {"do": "norm", **given, "bias": bias},
        gradient(x): back | {"plus": gradient(plus) if plus else None},
        gradient(f"{at}/scale"): {"do": "scale_back", "x": value(x), "stats": given["stats"], "dy": dy},
        gradient(f"{at}/bias"): {"do": "column", "a": dy},
    }


def _linear(at: str, x: str, y: str, cut: bool, parameters: set[str]) -> Operations:
    """A linear map named `at` of x to y; the gradient of x is left to the caller."""
    bias = value(f"{at}/bias") if f"{at}/bias" in parameters else None
    return {
        value(y): product(value(x), value(f"{at}/kernel"), bias=bias, cut=cut),
        gradient(f"{at}/kernel"): product(value(x), gradient(y), "a"),
        gradient(f"{at}/bias"): {"do": "column", "a": gradient(y)},
    }


def _attention(config: GPTConfig, axes: Axes, at: str, x: str, parameters: set[str]) -> Operations:
    found: Operations = {}
    q, k, v, merged = (f"{at}/{name}" for name in ("query", "key", "value", "merged"))
    for map_of_x in (q, k, v):
        found |= _linear(map_of_x, x, map_of_x, axes.cut("d"), parameters)
    terms = [{"a": gradient(y), "b": value(f"{y}/kernel"), "flip": "b"} for y in (q, k, v)]
    found[gradient(x)] = {"do": "product", "terms": terms, "bias": None, "cut": axes.cut("a")}
    for h in axes.heads:
        inside: dict[str, Any] = {"ai": axes.of_head(h), "bi": axes.of_head(h)}
        cut = len(axes.of_head(h)) < config.head_dim
        scores, scaled, masked, weights = (f"{at}/{name}" for name in ("scores", "scaled", "masked", "weights"))
        found[value(scores, h)] = product(value(q), value(k), "b", cut=cut, **inside)
        found[value(scaled, h)] = {"do": "scaled", "a": value(scores, h), "root": config.head_dim}
        found[value(masked, h)] = {"do": "mask", "a": value(scaled, h)}
        found[value(weights, h)] = {"do": "softmax", "a": value(masked, h)}
        found[gradient(weights, h)] = product(gradient(merged), value(v), "b", cut=cut, **inside)
        found[gradient(masked, h)] = {"do": "softmax_back", "w": value(weights, h), "dw": gradient(weights, h)}
        found[gradient(scaled, h)] = {"do": "mask_back", "a": gradient(masked, h), "mask": value(masked, h)}
        found[gradient(scores, h)] = {"do": "scaled", "a": gradient(scaled, h), "root": config.head_dim}
    weights_of = [value(f"{at}/weights", h) for h in axes.heads]
    d_scores_of = [gradient(f"{at}/scores", h) for h in axes.heads]
    heads: dict[str, Any] = {"heads": axes.head_of_column()}
    found[value(merged)] = product(weights_of, value(v), **heads)
    found[gradient(v)] = product(weights_of, gradient(merged), "a", **heads)
    found[gradient(q)] = product(d_scores_of, value(k), **heads)
    found[gradient(k)] = product(d_scores_of, value(q), "a", **heads)
    found |= _linear(f"{at}/output", merged, at, axes.cut("a"), parameters)
    found[gradient(merged)] = product(gradient(at), value(f"{at}/output/kernel"), "b", cut=axes.cut("d"))
    return found


def _mlp(config: GPTConfig, axes: Axes, at: str, x: str, parameters: set[str]) -> Operations:
    up, inner = f"{at}/up", f"{at}/gelu"
    found = _linear(up, x, up, axes.cut("d"), parameters) | _linear(f"{at}/down", inner, at, axes.cut("f"), parameters)
    found[gradient(inner)] = product(gradient(at), value(f"{at}/down/kernel"), "b", cut=axes.cut("d"))
    found[gradient(x)] = product(gradient(up), value(f"{up}/kernel"), "b", cut=axes.cut("f"))
    if config.activation == "gelu_tanh":
        found[value(inner)] = {"do": "gelu", "x": value(up)}
        found[gradient(up)] = {"do": "gelu_back", "x": value(up), "dy": gradient(inner)}
    else:
        name = "your activation" if isinstance(config.activation, Idea) else config.activation
        found[value(inner)] = {"do": "own", "cells": [value(up)], "says": f"{name} of this number"}
        back = {"do": "own", "cells": [gradient(inner), value(up)], "says": f"back through {name}"}
        found[gradient(up)] = back
    return found


def _head(config: GPTConfig, axes: Axes) -> Operations:
    last = f"block_{config.n_layers - 1}"
    found = _norm(config, axes, "norm_final", last, None)
    kernel, flip, back = ("token_embedding/table", "b", "") if config.tie_embeddings else ("head/kernel", "", "b")
    found[value("logits")] = product(value("norm_final"), value(kernel), flip, cut=axes.cut("d"))
    found[gradient("norm_final")] = product(gradient("logits"), value(kernel), back, cut=axes.cut("v"))
    found[gradient("head/kernel")] = product(value("norm_final"), gradient("logits"), "a")
    p = value("probabilities")
    length = len(axes.ids)
    return found | {
        p: {"do": "softmax", "a": value("logits"), "cut": axes.cut("v")},
        value("losses"): {"do": "loss", "p": p, "targets": axes.targets},
        value("loss"): {"do": "mean", "a": value("losses")},
        gradient("logits"): {"do": "loss_back", "p": p, "targets": axes.targets, "n": length},
        value("sampling/scaled"): {"do": "scaled", "a": value("logits"), "by": 0.8, "row": length - 1},
        value("sampling"): {"do": "softmax", "a": value("sampling/scaled"), "cut": axes.cut("v")},
    }


def update_operations(config: OptimizerConfig, arrays: dict[str, int]) -> Operations:
    """The operations of the updates of parameters with so many dimensions each, and of the clipping before them."""
    numbers = {"lr": config.learning_rate, "b1": config.beta1, "b2": config.beta2, "clip": value("step/clip")}
    found: Operations = {
        f"update:{name}": {
            "do": "adamw", "p": value(name), "g": gradient(name), "decay": config.weight_decay * (n > 1), **numbers,
        }
        for name, n in arrays.items()
    }  # fmt: skip
    norms_of = {"do": "given", "says": "the root of the sum of the squares of this parameter's whole gradient"}
    return found | {
        value("step/norms"): norms_of,
        value("step/norm"): {"do": "root", "a": value("step/norms")},
        value("step/clip"): {"do": "clip", "a": value("step/norm"), "limit": config.clip_norm},
    }
