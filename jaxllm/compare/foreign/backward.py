"""The backward and the optimizer's step of a foreign model, each on *their* recorded numbers.

The gradient of a parameter follows from what went into its module and the gradient at what came out; so a fault of
one module's backward shows in its own parameters. The step follows from their gradients and their settings.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.compare.foreign.layouts import with_tied
from jaxllm.compare.foreign.matched import Matched
from jaxllm.compare.foreign.names import names_of
from jaxllm.compare.foreign.piece import SCALED, ForeignPiece
from jaxllm.compare.twins import reference_config

RULES = {"AdamW": "adamw", "Adam": "adam", "SGD": "sgd"}  # by classes of torch.optim


def local_gradients(matched: Matched) -> dict[str, np.ndarray]:
    """The gradients of our parameters by path, of all whose modules were recorded with the gradients at their results.

    A tied table has two terms, which are added.
    """
    out: dict[str, np.ndarray] = {}
    for name, inside in _modules(matched.params):
        x, dy = matched.input(name), matched.output_gradient(name)
        if x is not None and dy is not None:
            with matched.fitting(name):
                out |= {f"{name}/{leaf}": d for leaf, d in _of_module(matched.config, name, inside, x, dy).items()}
    with matched.fitting("token_embedding"):
        return out | _of_tables(matched)


def _modules(params: Mapping[str, Any], root: str = "") -> Iterator[tuple[str, Any]]:
    """The maps and norms by name, with their parameters."""
    for name, inside in params.items():
        if "kernel" in inside or "scale" in inside:
            yield f"{root}{name}", inside
        elif "table" not in inside:
            yield from _modules(inside, f"{root}{name}/")


def _of_module(config: Any, name: str, params: Any, x: np.ndarray, dy: np.ndarray) -> Mapping[str, np.ndarray]:
    """The gradients of the parameters of a map or a norm."""
    if "kernel" in params:
        return reference.layers.linear_map_vjp(params, x)[1](dy)[0]
    kind = "rms_norm" if name.endswith(("query_norm", "key_norm")) else config.norm
    return reference.layers.norm_vjp(params, x, kind, config.norm_epsilon)[1](dy)[0]


def _of_tables(matched: Matched) -> dict[str, np.ndarray]:
    """The gradients of the tables, and of an untied head."""
    out: dict[str, np.ndarray] = {}
    params, terms = matched.params, table_terms(matched)
    if len(terms) == 1 + matched.config.tie_embeddings:
        out["token_embedding/table"] = np.sum([*terms.values()], axis=0)
    dy = matched.output_gradient("position_embedding/vectors")
    if dy is not None and "position_embedding" in params:
        table = np.zeros_like(params["position_embedding"]["table"])
        table[: dy.shape[-2]] = dy.reshape(-1, *dy.shape[-2:]).sum(0)
        out["position_embedding/table"] = table
    x, dy = matched.output("norm_final"), _at_the_map_to_logits(matched)
    if x is not None and dy is not None and "head" in params and matched.config.width_ratio == 1:
        out["head/kernel"] = reference.layers.linear_map_vjp(params["head"], x)[1](dy)[0]["kernel"]
    return out


def table_terms(matched: Matched) -> dict[str, np.ndarray]:
    """The terms of the gradient of the token table: as embedding and, if it is tied, as head."""
    c, table = matched.config, matched.params["token_embedding"]["table"]
    out: dict[str, np.ndarray] = {}
    dy, scaled = matched.output_gradient("token_embedding"), matched.output_gradient(SCALED)
    if scaled is not None:
        dy = scaled * c.d_model**0.5
    if dy is not None:
        out["embedding"] = reference.embeddings.token_embedding_vjp(table, matched.recording.tokens)[1](dy)[0]
    x, dy = matched.output("norm_final"), _at_the_map_to_logits(matched)
    if c.tie_embeddings and x is not None and dy is not None and c.width_ratio == 1:
        out["head"] = reference.embeddings.token_logits_vjp(table, x)[1](dy)[0]
    return out


def _at_the_map_to_logits(matched: Matched) -> np.ndarray | None:
    """The gradient [B, T, V] at what the head makes: that at the logits, back through their change if there is one."""
    x, dy = matched.output("norm_final"), matched.output_gradient("logits")
    c, params = reference_config(matched.config), matched.params
    change = reference.softcap.change_of_logits(c)
    if x is None or dy is None or change is None:
        return dy
    if c.tie_embeddings:
        made = reference.embeddings.token_logits(params["token_embedding"]["table"], x)
    else:
        made = reference.layers.linear_map(params["head"], x)
    return np.asarray(change.vjp(made)[1](dy)[0])


def gradient_piece(matched: Matched, ours: Mapping[str, np.ndarray], name: str) -> ForeignPiece | None:
    """The piece of all gradients that both have."""
    both = {path: dy for path, dy in ours.items() if path in matched.gradients}
    if not both:
        return None
    extra: dict[str, Any] = {"n_tokens": matched.recording.targets.size, "ours": both}
    terms = table_terms(matched)
    if len(terms) == 2:
        extra["parts"] = {"token_embedding/table": terms}
    got = {path: matched.gradients[path] for path in both}
    return ForeignPiece("gradient", name, matched.config, matched.params, both, got, extra)


def optimizer_piece(matched: Matched) -> ForeignPiece | str:
    """The piece of the optimizer's step, by their settings; or why there is none."""
    optimizer = matched.recording.about.optimizer
    if not matched.after or optimizer is None:
        return "no step of an optimizer was recorded: give record() an optimizer"
    if optimizer.class_ not in RULES:
        return f"the reference has no {optimizer.class_}; it has {', '.join(RULES)}"
    if not optimizer.new:
        return "the optimizer had made steps before; record with a new one"
    settings = _settings(matched)
    if isinstance(settings, str):
        return settings
    both = [path for path in matched.by_path if path in matched.after and path in matched.gradients]
    gradients, params = ({path: tree[path] for path in both} for tree in (matched.gradients, matched.by_path))
    got = {path: matched.after[path] for path in both}
    extra: dict[str, Any] = {"rule": RULES[optimizer.class_], **settings}
    extra["ours"] = {
        path: params[path] + first_update(extra, path, params[path] - matched.sources[path].add, gradients[path])
        for path in both
    }  # their scale decays, not ours
    return ForeignPiece("optimizer", "optimizer step", matched.config, params, gradients, got, extra)


def _settings(matched: Matched) -> dict[str, Any] | str:
    """The settings that all groups of parameters share, and the names of those that decay; or why there are none."""
    optimizer = matched.recording.about.optimizer
    groups = optimizer.groups if optimizer else []
    other = [name for group in groups for name in ("nesterov", "maximize") if group.get(name)]
    if other:
        return f"the reference has no {other[0]}"
    if any(group.get("decoupled_weight_decay") and optimizer and optimizer.class_ == "Adam" for group in groups):
        return "the reference has no Adam with decoupled_weight_decay; that is AdamW"
    numbers = [{k: v for k, v in group.items() if k in ("lr", "betas", "eps", "momentum")} for group in groups]
    try:
        decays = {float(group.get("weight_decay", 0)) for group in groups} - {0.0}
        if not groups or any(one != numbers[0] for one in numbers) or len(decays) > 1:
            return "the groups of parameters have different settings"
        return _as_numbers(numbers[0], decays) | {"decayed": _decayed(matched, groups)}
    except (TypeError, ValueError):
        return "its settings are not those that record.py writes"


def _decayed(matched: Matched, groups: list[dict[str, Any]]) -> list[str]:
    """Our parameters whose weights decay, by the first names of theirs in the groups."""
    names = {name for group in groups if group.get("weight_decay") for name in group.get("parameters", ())}
    tied, known = matched.recording.about.tied, with_tied(matched.recording)
    found = {path: names_of(source, known) for path, source in matched.sources.items()}
    return [path for path, theirs in found.items() if names & {tied.get(name, name) for name in theirs}]


def _as_numbers(shared: Mapping[str, Any], decays: set[float]) -> dict[str, Any]:
    return {
        "learning_rate": float(shared.get("lr", 1e-3)), "betas": tuple(shared.get("betas", (0.9, 0.999))),
        "epsilon": float(shared.get("eps", 1e-8)), "momentum": float(shared.get("momentum", 0)),
        "weight_decay": max(decays, default=0.0), "clip_norm": None,
    }  # fmt: skip


def first_update(settings: Mapping[str, Any], path: str, p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """What the first step adds to a parameter p with the gradient g.

    After one step Adam's corrected means are g and g^2, whatever the betas; so AdamW moves by -lr (g / (|g| + epsilon)
    + decay p). Adam and SGD add decay p to the gradient. (torch.optim.AdamW, Adam, SGD)
    """
    decay = settings["weight_decay"] if path in settings["decayed"] else 0.0
    decoupled = settings["rule"] == "adamw"
    g = g if decoupled else g + decay * p
    direction = g if settings["rule"] == "sgd" else g / (np.abs(g) + settings["epsilon"])
    return -settings["learning_rate"] * (direction + decay * p * decoupled)
