"""Each module of ours on *their* recorded input, so that a fault shows in its own module and in no other.

A piece is a module with what went in and what came out there. The heads of an attention, and the activation of an MLP,
are pieces of their own between the recorded maps: maps that pick their features stand in for the maps.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.compare.foreign.matched import Matched
from jaxllm.compare.foreign.piece import SCALED, ForeignPiece
from jaxllm.compare.twins import reference_config

PARTS = ("norm_1", "attention", "norm_1_after", "norm_2", "mlp", "norm_2_after")  # of a block
MAPS = {"attention": ("query", "key", "value"), "mlp": ("gate", "up")}  # that read a module's input
LAST = {"attention": "output", "mlp": "down"}  # whose results are those of their modules
LAYER = re.compile(r"block_(\d+)")


def pieces(matched: Matched) -> Iterator[ForeignPiece]:
    """The pieces of the forward in the order of computation, as far as their input and their result were recorded.

    `extra["ours"]` of each is what ours computes from the recorded input.
    """
    yield from _embeddings(matched)
    for i in range(matched.config.n_layers):
        yield from _block(matched, f"block_{i}")
    yield from _named(matched, "norm", "norm_final", matched.params["norm_final"])
    yield from _head(matched)
    logits, loss = matched.output("logits"), matched.recording.loss
    if logits is not None and loss is not None:
        extra = {"targets": matched.recording.targets, "tokens": matched.recording.tokens}
        yield _piece(matched, "loss", "loss", {}, logits, np.asarray(loss), extra)


def expected(piece: ForeignPiece) -> np.ndarray:
    """What ours computes from a piece's input, in float64."""
    c, params, x = reference_config(piece.config), piece.params, piece.x
    match piece.kind:
        case "token_embedding":
            scale = c.d_model**0.5 if piece.name == SCALED else 1.0
            return scale * reference.embeddings.token_embedding(params["table"], x)
        case "position_embedding" if x is None:
            length = piece.got.shape[-2]
            zeros = np.zeros((length, c.d_model))
            return np.broadcast_to(reference.embeddings.position_embedding(params, zeros, c.position), piece.got.shape)
        case "position_embedding":
            return reference.embeddings.position_embedding(params, x, c.position)
        case "norm":
            kind = piece.extra.get("norm", c.norm)
            return reference.layers.norm(params, x, kind, c.norm_epsilon)
        case "linear":
            return reference.layers.linear_map(params, x)
        case "attention":
            options = reference.gpt._options(c, 0)
            return reference.multi_head.multi_head_attention(params, x, c.n_heads, c.kv_heads, **options)
        case "mlp":
            return reference.layers.mlp(params, x, c.activation)
        case "block":
            return reference.gpt.block(c, params, x)
        case "head":
            return _logits(c, params, x)
        case "loss":
            return reference.loss.cross_entropy(x, piece.extra["targets"])
    raise ValueError(f"a piece of the kind {piece.kind} has no forward.")


def _logits(config: Any, params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    x = x / config.width_ratio
    tied = "table" in params
    y = reference.embeddings.token_logits(params["table"], x) if tied else reference.layers.linear_map(params, x)
    change = reference.softcap.change_of_logits(config)
    return y if change is None else np.asarray(change.function(y), np.float64)


def _piece(
    matched: Matched, kind: str, name: str, params: Any, x: Any, got: Any, extra: Mapping[str, Any] | None = None
) -> ForeignPiece:
    """The piece, with what ours computes. The config is that of its layer, without patterns."""
    inside = LAYER.match(name)
    config = matched.config.of_layer(int(inside[1])) if inside else matched.config
    alone = ForeignPiece(kind, name, config, params, x, got, extra or {})
    with matched.fitting(name):
        return ForeignPiece(kind, name, config, params, x, got, {**alone.extra, "ours": expected(alone)})


def _named(matched: Matched, kind: str, name: str, params: Any, **extra: Any) -> Iterator[ForeignPiece]:
    """The piece of one of our modules, if its input and its result were recorded."""
    x, got = matched.input(name), matched.output(name)
    if x is not None and got is not None:
        yield _piece(matched, kind, name, params, x, got, extra)


def _embeddings(matched: Matched) -> Iterator[ForeignPiece]:
    c, params = matched.config, matched.params
    embedded, vectors, summed = (
        matched.output(name) for name in ("token_embedding", "position_embedding/vectors", "position_embedding")
    )
    for name in ("token_embedding", SCALED):
        got = matched.output(name)
        if got is not None:
            yield _piece(matched, "token_embedding", name, params["token_embedding"], matched.recording.tokens, got)
    positions = params.get("position_embedding", {})
    if vectors is not None:
        yield _piece(matched, "position_embedding", "position_embedding/vectors", positions, None, vectors)
    if embedded is None or summed is None or embedded.shape != summed.shape:
        return
    if c.adds_positions and c.ngrams == 1:
        x = embedded * c.d_model**0.5 if c.scale_embeddings else embedded
        yield _piece(matched, "position_embedding", "position_embedding", positions, x, summed)


def _block(matched: Matched, block: str) -> Iterator[ForeignPiece]:
    """The pieces of a block, the smaller ones before those that are made of them."""
    params = matched.params[block]
    for part in sorted(params, key=PARTS.index):
        name, inside = f"{block}/{part}", params[part]
        if part in MAPS:
            yield from _maps(matched, part, name, inside)
            yield from _core(matched, part, name, inside)
        yield from _named(matched, part if part in MAPS else "norm", name, inside)
    yield from _named(matched, "block", block, params)


def _maps(matched: Matched, kind: str, name: str, params: Mapping[str, Any]) -> Iterator[ForeignPiece]:
    order = (*MAPS[kind], "query_norm", "key_norm", LAST[kind])
    for part in sorted(params, key=order.index):
        if part.endswith("_norm"):
            yield from _named(matched, "norm", f"{name}/{part}", params[part], norm="rms_norm")
        else:
            yield from _named(matched, "linear", f"{name}/{part}", params[part])


def _core(matched: Matched, kind: str, name: str, params: Mapping[str, Any]) -> Iterator[ForeignPiece]:
    """What lies between the maps: x is the results of the first maps side by side, got is the input of the last."""
    parts = [part for part in MAPS[kind] if part in params]
    normed = {part: _normed(matched, f"{name}/{part}") for part in parts if f"{part}_norm" in params}
    results = [matched.output(f"{name}/{part}") if normed.get(part) is None else normed[part] for part in parts]
    got = matched.input(f"{name}/{LAST[kind]}")
    known = [x for x in results if x is not None]
    if got is None or len(known) < len(parts) or any(x.ndim != 3 for x in known):
        return
    with matched.fitting(name):
        x = np.concatenate(known, axis=-1)
    ends = np.cumsum([0, *(y.shape[-1] for y in known)]).tolist()
    picking = {
        part: {"kernel": np.eye(ends[-1])[:, start:stop]}
        for part, start, stop in zip(parts, ends[:-1], ends[1:], strict=True)
    }
    norms = {f"{part}_norm": params[f"{part}_norm"] for part, x in normed.items() if x is None}
    core = {**picking, **norms, LAST[kind]: {"kernel": np.eye(got.shape[-1])}}
    label = {"attention": "heads", "mlp": "activation"}[kind]
    yield _piece(matched, kind, f"{name}/{label}", core, x, got)


def _normed(matched: Matched, name: str) -> np.ndarray | None:
    """The result [B, T, H K] of the norm of queries or keys, if the norm reads what their map makes.

    A norm that reads something else, such as rotated queries, is a matter of the heads.
    """
    read, y = matched.input(f"{name}_norm"), matched.output(f"{name}_norm")
    made = matched.output(name)
    if read is None or y is None or made is None:
        return None
    read, y = (reference.attention.merge_heads(x) if x.ndim == 4 else x for x in (read, y))
    return y if np.array_equal(read, made) else None


def _head(matched: Matched) -> Iterator[ForeignPiece]:
    c, params = matched.config, matched.params
    logits, x = matched.output("logits"), matched.input("logits")
    if x is None or x.ndim != 3:  # the head is no module of its own
        x = matched.output("norm_final")
    if logits is None or x is None or c.n_classes:
        return
    before = matched.input("norm_final")
    extra: dict[str, Any] = {}
    if before is not None:
        extra |= {"before_norm": before, "norm_params": params["norm_final"]}
    if not c.tie_embeddings:
        extra["token_table"] = params["token_embedding"]["table"]
    yield _piece(matched, "head", "logits", params["head" if "head" in params else "token_embedding"], x, logits, extra)
