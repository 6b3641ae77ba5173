"""The calls of a learner's functions for the page of `jaxllm learn show`: on what a model computes for a text.

Each function gets what is right at its place, so that a mistake shows where it is made and not after it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jaxllm import GPTConfig, reference
from jaxllm.reference.optimizer import global_norm

from ...config import OptimizerConfig
from .values import Named, Trace, norms

Placed = Callable[[Any], Named]


@dataclass(frozen=True)
class Call:
    """A call of a function, the arrays that its result is the right one of, and how the result becomes these."""

    piece: str
    function: str
    arguments: list[Any]
    names: tuple[str, ...]
    placed: Placed


def calls(
    config: GPTConfig, twin: Trace, inputs: list[int], targets: list[int], rule: OptimizerConfig
) -> Iterator[Call]:  # fmt: skip
    """All calls, in the order of the course."""
    yield from _of_text(config, twin, inputs, targets)
    for i in range(config.n_layers):
        yield from _of_attention(config, twin.values, f"block_{i}")
    for name, x in norms(config).items():
        scale, bias = (_parameter(twin.values, f"{name}/{part}", config.d_model) for part in ("scale", "bias"))
        yield _one("layer_norm", "layer_norm", [twin.values[x], scale, bias, config.norm_epsilon], name)
    if config.use_bias and config.norm == "layer_norm" and config.activation == "gelu_tanh":
        yield from _of_trees(config, twin, inputs)
    logits = twin.values["logits"]
    yield _one("cross_entropy", "cross_entropy", [logits, np.array(targets)], "loss")
    yield from _of_step(twin, rule)
    yield _one("sampling", "next_token_probabilities", [logits[-1], 0.8, None], "sampling")


def _one(
    piece: str, function: str, arguments: list[Any], name: str, placed: Callable[[Any], Any] = lambda y: y
) -> Call:  # fmt: skip
    """A call whose result is one array."""
    return Call(piece, function, arguments, (name,), lambda result: {name: placed(result)})


def _parameter(values: Named, name: str, size: int) -> Any:
    return values.get(name, np.zeros(size))


def _of_text(config: GPTConfig, twin: Trace, inputs: list[int], targets: list[int]) -> Iterator[Call]:
    values, ids = twin.values, np.array([*inputs, targets[-1]])
    x = values["token_embedding"]

    def pairs(result: Any) -> Any:
        return np.concatenate([np.asarray(part) for part in result]).T

    yield _one("input_target_pairs", "input_target_pairs", [ids, len(inputs), 1], "pairs", pairs)
    table = values["token_embedding/table"]
    yield _one("token_embedding", "token_embedding", [table, np.array(inputs)], "token_embedding")
    if config.position == "learned":
        positions = [x, values["position_embedding/table"]]
        yield _one("position_embedding", "add_learned_positions", positions, "position_embedding")
    yield _one("simple_attention", "simple_attention_weights", [x], "simple/weights")
    yield _one("simple_attention", "simple_attention", [x], "simple")


def _of_attention(config: GPTConfig, values: Named, at: str) -> Iterator[Call]:
    x, inside = values[f"{at}/norm_1"], f"{at}/attention"
    for name in ("attention/query", "attention/key", "attention/value", "mlp/up"):
        of = x if "attention" in name else values[f"{at}/norm_2"]
        kernel, bias = values[f"{at}/{name}/kernel"], values.get(f"{at}/{name}/bias")
        yield _one("linear_map", "linear", [of, kernel, bias], f"{at}/{name}")
    masked = [[scores] for scores in values[f"{inside}/masked"]]
    yield from _by_head("simple_attention", "softmax", masked, f"{inside}/weights")
    with_one = np.concatenate([x, np.ones((len(x), 1))], axis=1)  # whose row in a kernel is the bias
    maps = [_head_kernels(config, values, f"{inside}/{name}") for name in ("query", "key")]
    given = [[with_one, *pair] for pair in zip(*maps, strict=True)]
    yield from _by_head("self_attention", "attention_scores", given, f"{inside}/scores")
    rows = [values[f"{inside}/{name}"] for name in ("query", "key", "value")]
    qkv = [reference.attention.split_heads(x, config.n_heads) for x in rows]
    merged = f"{inside}/merged"
    if _is_causal(config):
        mask = reference.attention.causal_mask(len(x))
        yield _one("scaled_dot_product", "scaled_dot_product_attention", [*qkv, mask], merged, _merge)
        yield _one("causal_attention", "causal_attention", qkv, merged, _merge)


def _is_causal(config: GPTConfig) -> bool:
    """Whether a position attends to all before it."""
    return config.visible is None and config.sliding_window is None


def _merge(heads: Any) -> Any:
    return reference.attention.merge_heads(np.asarray(heads))


def _head_kernels(config: GPTConfig, values: Named, name: str) -> list[Any]:
    """The kernel of each head [D + 1, K], the bias as its last row."""
    kernel = values[f"{name}/kernel"]
    bias = _parameter(values, f"{name}/bias", kernel.shape[1])
    return np.split(np.concatenate([kernel, bias[None]]), config.n_heads, axis=1)


def _by_head(piece: str, function: str, arguments: list[list[Any]], name: str) -> Iterator[Call]:
    """A call for each head of an array [H, T, T]."""
    for head, given in enumerate(arguments):
        yield _one(piece, function, given, f"{name}/{head}")


def _of_trees(config: GPTConfig, twin: Trace, inputs: list[int]) -> Iterator[Call]:
    """The functions that take a tree of parameters."""
    values = twin.values
    params = unflatten_dict({name: values[name] for name in twin.updates}, sep="/")
    stream, heads = "position_embedding" if config.adds_positions else "token_embedding", config.n_heads
    for i in range(config.n_layers):
        at, tree = f"block_{i}", params[f"block_{i}"]
        if _is_causal(config):
            attention = [tree["attention"], values[f"{at}/norm_1"], heads]
            yield _one("multi_head_attention", "multi_head_attention", attention, f"{at}/attention")
            yield _one("block", "block", [tree, values[stream], heads], at)
        yield _one("mlp", "gelu", [values[f"{at}/mlp/up"]], f"{at}/mlp/gelu")
        yield _one("mlp", "mlp", [tree["mlp"], values[f"{at}/norm_2"]], f"{at}/mlp")
        stream = at
    if config.tie_embeddings and config.position == "learned" and _is_causal(config):
        yield _one("gpt", "gpt", [params, np.array([inputs]), heads], "logits", lambda y: np.asarray(y)[0])


def _of_step(twin: Trace, rule: OptimizerConfig) -> Iterator[Call]:
    gradients = {name: twin.gradients[name] for name in twin.updates}
    factor = min(1.0, rule.clip_norm / max(global_norm(gradients), 1e-30))
    widest = max(gradients, key=lambda name: np.abs(gradients[name]).max())
    largest = np.unravel_index(np.abs(gradients[widest]).argmax(), gradients[widest].shape)
    yield _one(
        "training_step", "clip_gradients", [gradients, rule.clip_norm], "step/clip",
        lambda clipped: np.asarray(clipped[widest])[largest] / gradients[widest][largest],
    )  # fmt: skip
    for name, gradient in gradients.items():
        old, zeros = twin.values[name], np.zeros_like(gradient)
        decay = rule.weight_decay if old.ndim > 1 else 0.0
        given = [old, factor * gradient, zeros, zeros, 1, rule.learning_rate, rule.beta1, rule.beta2, 1e-8, decay]
        yield _one("training_step", "adamw_update", given, f"update:{name}", partial(_moved, old))


def _moved(old: Any, result: Any) -> Any:
    """By how much a parameter has moved; the result begins with the new one."""
    return np.asarray(result[0]) - old
