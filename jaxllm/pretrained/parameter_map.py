"""Which tensor of a file holds which of our parameters, and how: from a family's names, for a config.

llm converters rename and reshape tensor by tensor, each in a script of its own; here one function brings a tensor in
and one takes it out, by what the file's layout says, and shapes are known before a byte is read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT
from jaxllm.pretrained.families import EMBEDDING, HEAD, Layout
from jaxllm.utils.errors import InputError
from jaxllm.utils.validate import shown

MOST_NAMED = 8  # of what does not fit
Shape = tuple[int, ...]
ROTATED = ("/attention/query", "/attention/key")  # what rotary positions act on: maps, and norms of heads


class Placement(NamedTuple):
    """A tensor of a file: our parameters that it holds, and its shape."""

    paths: tuple[str, ...]
    shape: Shape


@lru_cache
def parameter_shapes(config: GPTConfig) -> Mapping[str, Shape]:
    """The shapes of all parameters by their paths, "block_0/mlp/up/kernel"."""
    one = replace(config, n_layers=1)  # the blocks are alike, and a thousand would take long
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = flatten_dict(jax.eval_shape(GPT(one).init, jax.random.key(0), tokens)["params"], sep="/")
    return {
        path.replace("block_0", f"block_{i}"): tuple(leaf.shape)
        for path, leaf in shapes.items()
        for i in range(config.n_layers if path.startswith("block_0") else 1)
    }


def tensor_placements(layout: Layout, config: GPTConfig, there: Iterable[str] | None = None) -> dict[str, Placement]:
    """Each tensor that a file of such a model holds, by its name; named as in a file where names are `there`.

    A model without its head has names without a prefix; of a tied one the head may be there in place of the table.
    """
    there = None if there is None else set(there)
    prefix = layout.prefix
    bare = there is not None and tensor_name(layout, EMBEDDING).removeprefix(prefix) in there
    shapes, places = parameter_shapes(config), {}
    for pattern, paths in layout.names.items():
        for i in range(config.n_layers if "{i}" in pattern else 1):
            name = (pattern.removeprefix(prefix) if bare else pattern).format(i=i)
            held = tuple(path.format(i=i) for path in ((paths,) if isinstance(paths, str) else paths))
            if held[0] in shapes:
                places[name] = Placement(held, _their_shape(layout, held, [shapes[path] for path in held]))
    table, head = (tensor_name(layout, path) for path in (EMBEDDING, HEAD))
    if config.tie_embeddings and there is not None and head in there and table not in there and table in places:
        places[head] = places.pop(table)
    return places


def tensor_name(layout: Layout, path: str) -> str:
    """The tensor that holds a parameter alone."""
    return next(name for name, held in layout.names.items() if held == path)


def _their_shape(layout: Layout, paths: tuple[str, ...], shapes: list[Shape]) -> Shape:
    joined = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    return joined[::-1] if _is_out_in(layout, paths) else joined


def _is_out_in(layout: Layout, paths: tuple[str, ...]) -> bool:
    return paths[0] == HEAD or (layout.out_in and paths[0].endswith("/kernel"))


def to_params(layout: Layout, config: GPTConfig, place: Placement, x: np.ndarray) -> dict[str, np.ndarray]:
    """Our parameters out of a tensor of a file, in memory of their own."""
    if layout.interleaved and any(part in place.paths[0] for part in ROTATED):
        x = half_split(x, config.head_dim)
    if _is_out_in(layout, place.paths):
        x = x.T
    if place.paths[0].endswith("/scale"):
        x = x + np.asarray(layout.offset, x.dtype)
    parts = np.split(x, len(place.paths), axis=-1)
    return {path: np.array(part, order="C") for path, part in zip(place.paths, parts, strict=True)}


def to_tensor(layout: Layout, config: GPTConfig, place: Placement, params: Mapping[str, Any]) -> np.ndarray:
    """A tensor of a file out of our parameters, by path, mostly in their memory; rotary ones in half-split order."""
    parts = [np.asarray(params[path]) for path in place.paths]
    x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    if place.paths[0].endswith("/scale"):
        x = x - np.asarray(layout.offset, x.dtype)
    if _is_out_in(layout, place.paths):
        x = x.T
    if config.position == "rotary_interleaved" and any(part in place.paths[0] for part in ROTATED):
        x = half_split(x, config.head_dim)
    return x


def half_split(x: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows in the order of pairs 2i, 2i + 1 of each head, put into that of pairs i, i + K/2: [H K, ...] -> the same."""
    return x.reshape(-1, head_dim // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def check_shapes(wanted: Mapping[str, Shape], there: Mapping[str, Shape], what: str, remedy: str) -> None:
    """Raises InputError that names missing tensors, those of another shape and unknown ones, a few of each kind."""
    faults = [
        [f"{shown(name)} is missing" for name in wanted if name not in there],
        [
            f"{shown(name)} is {list(shape)}, not {list(wanted[name])}"
            for name, shape in there.items()
            if wanted.get(name, shape) != shape
        ],
        [f"{shown(name)} is not known" for name in there if name not in wanted],
    ]
    kinds = [kind for kind in faults if kind]
    if kinds:
        most = MOST_NAMED // len(kinds)
        said = [", ".join(kind[:most]) + (f" and {len(kind) - most:,} more" if kind[most:] else "") for kind in kinds]
        raise InputError(f"{what} does not fit its config: {', '.join(said)}; {remedy}.")


def is_ignored(layout: Layout, name: str) -> bool:
    """Whether a tensor is known to hold no weights."""
    patterns = [pattern.replace("{i}", "*") for pattern in layout.ignored]
    return any(fnmatchcase(name, one) or fnmatchcase(name, one.removeprefix(layout.prefix)) for one in patterns)


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by path, as the nested dict that `GPT.apply` takes."""
    return dict(unflatten_dict({tuple(path.split("/")): leaf for path, leaf in params.items()}))
