"""The pieces of a model of `planted`, from hooks, and the places where they part from ours."""

from collections.abc import Iterator
from typing import Any

import foreign_pieces
import numpy as np
from faulty_gpt import GPT, Library

from jaxllm.compare.foreign.diagnosis import Explanation, departure, diagnose
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.config import GPTConfig


def parameters(c: GPTConfig, seed: int = 1) -> dict[str, Any]:
    """Random parameters of a whole model."""
    rng = np.random.default_rng(seed)
    tree: dict[str, Any] = {"token_embedding": {"table": rng.normal(size=(c.vocab_size, c.d_model))}}
    if c.position == "learned":
        tree["position_embedding"] = {"table": rng.normal(size=(c.context_length, c.d_model))}
    tree |= {f"block_{i}": foreign_pieces.block(rng, c) for i in range(c.n_layers)}
    tree["norm_final"] = foreign_pieces.norm(rng, c.d_model, c.use_bias)
    return tree if c.tie_embeddings else tree | {"head": foreign_pieces.linear(rng, c.d_model, c.vocab_size, False)}


def array(x: Any) -> Any:
    """A NumPy array of a tensor or an array, in float64 where it is not of integers."""
    x = np.asarray(x.detach() if hasattr(x, "detach") else x)
    return x if x.dtype.kind == "i" else x.astype(np.float64)


def record(lib: Library, c: GPTConfig, params: Any, tokens: Any, faults: dict[str, str]) -> dict[str, Any]:
    """`in/NAME` (the arguments side by side), `out/NAME` of every module, and `logits`."""
    model: Any = lib.classes[GPT.__name__](lib, c, params, faults)
    seen: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def remember(_: Any, arguments: Any, result: Any) -> None:
            given = [array(x) for x in arguments]
            seen[f"in/{name}"] = given[0] if len(given) == 1 else np.concatenate(given, axis=-1)
            seen[f"out/{name}"] = array(result)

        return remember

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name.replace(".", "/")))
    seen["logits"] = array(model(lib.integers(tokens)))
    return seen


def core(params: Any, names: tuple[str, ...], last: str) -> dict[str, Any]:
    """Maps that pick their features from the results of all maps side by side."""
    widths = [np.shape(params[name]["kernel"])[1] for name in names]
    ends = np.cumsum([0, *widths])
    picking = {
        name: {"kernel": np.eye(ends[-1])[:, start:stop]}
        for name, start, stop in zip(names, ends[:-1], ends[1:], strict=True)
    }
    return picking | {last: {"kernel": np.eye(np.shape(params[last]["kernel"])[0])}}


def pieces(c: GPTConfig, params: Any, tokens: Any, seen: dict[str, Any]) -> Iterator[ForeignPiece]:
    """All pieces, small ones before what is made of them."""

    def made(kind: str, name: str, inside: Any) -> ForeignPiece:
        return ForeignPiece(kind, name, c, inside, seen[f"in/{name}"], seen[f"out/{name}"])

    yield made("token_embedding", "token_embedding", params["token_embedding"])
    if c.position == "learned":
        yield made("position_embedding", "position_embedding", params["position_embedding"])
    for i in range(c.n_layers):
        block, of = f"block_{i}", params[f"block_{i}"]
        yield from (made("norm", f"{block}/{name}", of[name]) for name in ("norm_1", "norm_2"))
        for part, maps, last, inner in (
            ("attention", ("query", "key", "value"), "output", "heads"),
            ("mlp", ("gate", "up") if c.gated else ("up",), "down", "activation"),
        ):
            yield from (made("linear", f"{block}/{part}/{name}", of[part][name]) for name in (*maps, last))
            yield made(part, f"{block}/{part}/{inner}", core(of[part], maps, last))
            yield made(part, f"{block}/{part}", of[part])
        yield made("block", block, of)
    yield made("norm", "norm_final", params["norm_final"])
    table = params["token_embedding"]["table"]
    extra = {"before_norm": seen["in/norm_final"], "norm_params": params["norm_final"], "token_table": table}
    head = {"table": table} if c.tie_embeddings else params["head"]
    yield ForeignPiece("head", "head", c, head, seen["out/norm_final"], seen["logits"], extra)


def found(
    c: GPTConfig, params: Any, tokens: Any, seen: dict[str, Any], tolerance: float
) -> dict[str, Explanation | None]:
    """The smallest pieces that depart, with their diagnoses."""
    departing = [p for p in pieces(c, params, tokens, seen) if departure(p) > tolerance]
    names = [p.name for p in departing]
    smallest = [p for p in departing if not any(name.startswith(f"{p.name}/") for name in names)]
    return {p.name: diagnose(p, tolerance) for p in smallest}
