"""The table, sentences and figures of `jaxllm describe`."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.flops import flops_per_token
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.parameter_map import nested
from jaxllm.utils.ideas import Idea, with_names

from ..config import OptimizerConfig, RunConfig, tokens_of_step
from ..ideas import references
from ..memory_estimate import Need, memory_line, of_one_device
from ..optimizer import rules
from ..runtime.memory import available_bytes
from ..tune.partition import Partition, partition_of
from .runs_report import aligned
from .train_report import describe_attention

WITHOUT_TWIN = ("optimizer.name", "train.metrics", "eval.weights")  # fields whose functions have none in `compare`
ORDER = (  # of use; other parts follow, sorted by name
    "token_embedding", "ngram_embedding", "position_embedding", "block", "norm_1", "attention", "query", "key", "value",
    "query_norm", "key_norm", "output", "norm_1_after", "norm_2", "mlp", "router", "gate", "up", "down", "norm_2_after",
    "norm_final", "head", "classifier", "kernel", "kernels", "scale", "bias", "a", "b",
)  # fmt: skip


@dataclass(frozen=True)
class Described:
    """What a config or a run determines without a text."""

    name: str
    state: str  # what has been done, in words
    config: RunConfig  # resolved
    model: GPTConfig
    vocabulary_known: bool  # False: it depends on a text that is not read


def figures(of: Described) -> dict[str, Any]:
    """All of it, as it is written as JSON."""
    config, model = of.config, of.model
    parameters, flops = (
        parameter_rows(model, config.optimizer, partition_of(config)),
        None if model.block else flops_per_token(model),
    )
    tokens = tokens_of_step(config, model)
    return {
        "subject": of.name, "state": of.state, "model": with_names(asdict(model)),
        "vocabulary_known": of.vocabulary_known, "parameters": parameters,
        "n_parameters": sum(row["size"] for row in parameters),
        "attention": describe_attention(config, _with_documents(config, model)),
        "memory": of_one_device(config, model)._asdict(),
        "flops_per_token": flops, "tokens_per_step": tokens, "steps": config.train.steps,
        "seconds": config.train.seconds, "flops": None if flops is None else flops * tokens * config.train.steps,
        "functions": [*function_rows(config)],
    }  # fmt: skip


def parameter_rows(
    model: GPTConfig, optimizer: OptimizerConfig, parts: Partition | None = None
) -> list[dict[str, Any]]:
    """Name, shape, size, optimizer, weight decay and direction's scale of each parameter, in the order of use.

    The last three are None where a user's function decides, and of parameters that are frozen.
    """
    shapes = parameter_shapes(model)
    params = nested({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})
    if parts is not None:
        params, frozen = jax.eval_shape(parts.split, params, jax.eval_shape(jax.random.key, 0))
        both = flatten_dict(params, sep="/") | flatten_dict(frozen, sep="/")
        shapes = {path: tuple(leaf.shape) for path, leaf in both.items()}
    rule = dict.fromkeys(shapes) | flatten_dict(rules(optimizer, params, model.width_ratio), sep="/")
    return [
        {
            "name": path, "shape": list(shapes[path]), "size": math.prod(shapes[path]),
            "optimizer": rule[path] and rule[path].optimizer, "weight_decay": rule[path] and rule[path].weight_decay,
            "direction_scale": rule[path] and rule[path].scale,
        }
        for path in sorted(shapes, key=_place)
    ]  # fmt: skip


def _place(path: str) -> list[tuple[int, int, str]]:
    """The key that sorts paths in the order of use."""

    def place(part: str) -> tuple[int, int, str]:
        name, _, number = part.rpartition("_")
        if name == "block" and number.isdecimal():
            return ORDER.index(name), int(number), ""
        return (ORDER.index(part), 0, "") if part in ORDER else (len(ORDER), 0, part)

    return [place(part) for part in path.split("/")]


def function_rows(config: RunConfig) -> Iterator[dict[str, Any]]:
    """The fields that hold functions of the user's, with the file's sha256 and whether twins stand beside them.

    The last two are None where `compare` takes no twin.
    """
    for section, field, idea in references(config):
        name = f"{section}.{field}"
        twins = {"twin": idea.twin is not None, "twin_vjp": idea.twin_vjp is not None}
        taken = twins if name not in WITHOUT_TWIN else dict.fromkeys(twins)
        yield {"field": name, "name": idea.name, "sha256": idea.digest, **taken}


def _with_documents(config: RunConfig, model: GPTConfig) -> GPTConfig:
    """The model with a separator where documents are apart, as in training, where the data determine it."""
    return model if config.data.attend_across else replace(model, separator=model.separator or 0)


def report(of: Described, content: dict[str, Any]) -> list[str]:
    """The description for a reader: a table of the parameters, one line for each cost, the user's functions."""
    vocabulary = f"vocabulary of {of.model.vocab_size:,}"
    if not of.vocabulary_known:
        vocabulary += " in place of the tokenizer's, which depends on the text"
    total = ["all", "", f"{content['n_parameters']:,}", "", ""]
    blocks = f"{of.model.n_layers} block{'s' * (of.model.n_layers > 1)}"
    return [
        f"{of.name}: {of.state}; {blocks}, {of.model.d_model:,} wide, {of.model.n_heads} heads, "
        f"context {of.model.context_length:,}, {vocabulary}",
        "",
        *(line.rstrip() for line in aligned([*table(content["parameters"]), total])),
        "",
        *changing_lines(of, content),
        *cost_lines(of, content),
        *function_lines(content["functions"]),
    ]


def changing_lines(of: Described, content: dict[str, Any]) -> list[str]:
    """A line on how many parameters change, where not all do."""
    if partition_of(of.config) is None:
        return []
    changing = sum(row["size"] for row in content["parameters"] if row["optimizer"])
    return [f"{changing:,} of them change ({changing / content['n_parameters']:.1%}), the rest is frozen"]


def table(parameters: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each parameter; equal blocks that follow each other share their rows."""
    parts: list[tuple[str, list[list[str]], int]] = []  # the names, rows and size of what is at the top
    for part, group in groupby(parameters, key=lambda row: row["name"].partition("/")[0]):
        own = [*group]
        rows = [[row["name"].removeprefix(f"{part}/"), *_cells(row)] for row in own]
        parts.append((part, rows, sum(row["size"] for row in own)))
    table = [["parameter", "shape", "size", "optimizer", "weight decay"]]
    for _, alike in groupby(parts, key=lambda part: (part[0].startswith("block_"), *map(str, part[1]))):
        (first, rows, size), *others = alike
        if not first.startswith("block_"):
            table += [[f"{first}/{name}", *cells] for name, *cells in rows]
            continue
        names = f"{first} to {others[-1][0]}" if others else first
        table.append([names, "", f"{len(others) + 1} x {size:,}" if others else f"{size:,}", "", ""])
        table += [[f"  {name}", *cells] for name, *cells in rows]
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    decay, scale = row["weight_decay"], row["direction_scale"]
    scaled = f" x {scale:.3g}" if scale not in (None, 1) else ""
    return [
        " x ".join(f"{n:,}" for n in row["shape"]), f"{row['size']:,}", f"{row['optimizer'] or '-'}{scaled}",
        "-" if decay is None else f"{decay:g}",
    ]  # fmt: skip


def cost_lines(of: Described, content: dict[str, Any]) -> list[str]:
    """Lines on the optimizer, attention, memory, tokens and FLOPs."""
    config, tokens = of.config, content["tokens_per_step"]
    decides = " decides what updates each parameter, and its decay" if isinstance(config.optimizer.name, Idea) else ""
    unless = "" if config.train.seconds is None else f", unless {config.train.seconds:g} s end the run earlier"
    return [
        f"optimizer: {config.optimizer.name}{decides}; learning rate {config.optimizer.schedule}",
        f"attention: {content['attention']}",
        memory_line(Need(**content["memory"]), available_bytes()),
        f"tokens: {tokens:,} a step, {tokens * config.train.steps:,} in {config.train.steps:,} steps{unless}",
        f"FLOPs: {_flops(of, content)}",
    ]


def _flops(of: Described, content: dict[str, Any]) -> str:
    each = content["flops_per_token"]
    if each is None:
        return f"-, because {of.model.block} computes something of its own"
    if partition_of(of.config) is not None:
        return "-, because those of frozen parameters are fewer than of trained ones"
    own = [
        row["name"] for row in content["functions"] if row["field"].startswith("model.") or row["field"] == "train.loss"
    ]
    left_out = f", without what {' and '.join(own)} compute{'s' * (len(own) == 1)}" if own else ""
    return (
        f"{each:,} a token, {each * content['tokens_per_step']:.3g} a step, {content['flops']:.3g} in all, of the "
        f"products forward and backward{left_out}"
    )


def function_lines(functions: list[dict[str, Any]]) -> list[str]:
    """A line for each function of the user's."""
    return [
        f"{row['field']}: {row['name']} (sha256 {row['sha256'][:12]}), "
        + ("of which compare takes no twin" if row["twin"] is None else _twins(row))
        for row in functions
    ]


def _twins(row: dict[str, Any]) -> str:
    return f"beside it {'a' if row['twin'] else 'no'} twin and {'a' if row['twin_vjp'] else 'no'} twin_vjp"
