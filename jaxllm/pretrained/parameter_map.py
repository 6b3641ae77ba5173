"""Which tensor of a file holds which parameters of the GPT, in which layout: from a family's Layout and a config.

`to_params` converts a tensor of a file into parameters, `to_tensor` converts them back. The shapes of all tensors are
known before any is read.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.config_rules import rotated_width
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.families import EMBEDDING, HEAD, Layout
from jaxllm.utils.errors import InputError, shown

MOST_NAMED = 8  # tensors that do not fit, in a message
Shape = tuple[int, ...]
ROTATED = ("/attention/query", "/attention/key")  # kernels, and norms of heads, that rotary positions act on


class Placement(NamedTuple):
    """The parameters that a tensor of a file holds, by path, and the shape of the tensor."""

    paths: tuple[str, ...]
    shape: Shape


def tensor_placements(layout: Layout, config: GPTConfig, found: Iterable[str] | None = None) -> dict[str, Placement]:
    """The placement of each tensor of a model with that config, by the tensor's name.

    `found` are the names of the tensors in a file. If given, they decide between forms of a file: the names have no
    prefix if the model was saved without its head, a tied model may have a head in place of its table, and the kernels
    of experts may be stacked.
    """
    found = None if found is None else set(found)
    prefix = layout.prefix
    bare = found is not None and tensor_name(layout, EMBEDDING).removeprefix(prefix) in found
    shapes, placements, names = parameter_shapes(config), {}, layout.names
    if found is not None and any(_in_first_block(name, prefix if bare else "") in found for name in layout.stacked):
        names = {name: paths for name, paths in names.items() if "{e}" not in name} | dict(layout.stacked)
    # One that a file lacks is enough to refuse it, and a config may claim far more experts than the file has tensors.
    n_experts = config.n_experts if found is None else min(config.n_experts, len(found) + 1)
    for pattern, paths in names.items():
        name = pattern.removeprefix(prefix) if bare else pattern
        for i in range(config.n_layers if "{i}" in pattern else 1):
            for e in range(n_experts if "{e}" in pattern else 1):
                held = tuple(path.format(i=i, e=e) for path in ((paths,) if isinstance(paths, str) else paths))
                if held[0] in shapes or _of_expert(held[0]):
                    of_parts = [_part_shape(shapes, path) for path in held]
                    placements[name.format(i=i, e=e)] = Placement(held, _stored_shape(layout, held, of_parts))
    table, head = (tensor_name(layout, path) for path in (EMBEDDING, HEAD))
    if config.tie_embeddings and found is not None and head in found and table not in found and table in placements:
        placements[head] = placements.pop(table)
    return placements


def _in_first_block(pattern: str, prefix: str) -> str:
    return pattern.removeprefix(prefix).format(i=0)


def _of_expert(path: str) -> tuple[str, int] | None:
    """The parameter of all experts and the number of the expert of a path such as "block_0/mlp/up/kernels/3"."""
    whole, _, number = path.rpartition("/")
    return (whole, int(number)) if number.isdecimal() else None


def _part_shape(shapes: Mapping[str, Shape], path: str) -> Shape:
    part = _of_expert(path)
    return shapes[path] if part is None else shapes[part[0]][1:]


def tensor_name(layout: Layout, path: str) -> str:
    """The name of the tensor that holds only the parameter `path`, which has no {i}."""
    return next(name for name, held in layout.names.items() if held == path)


def _stored_shape(layout: Layout, paths: tuple[str, ...], shapes: list[Shape]) -> Shape:
    *first, width = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    return (*first[:-1], width, first[-1]) if _is_out_in(layout, paths) else (*first, width)


def _is_out_in(layout: Layout, paths: tuple[str, ...]) -> bool:
    return paths[0] == HEAD or (layout.out_in and ("/kernels" in paths[0] or paths[0].endswith("/kernel")))


def to_params(layout: Layout, config: GPTConfig, placement: Placement, x: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters in the tensor `x` of a file, by path, as new C-contiguous arrays; see `with_experts` too."""
    if _is_out_in(layout, placement.paths):
        x = x.swapaxes(-1, -2)
    if placement.paths[0].endswith("/scale"):
        x = x + np.asarray(layout.offset, x.dtype)
    parts = apart(layout, config, placement.paths, x)
    if layout.interleaved:
        parts = [
            _reordered(config, path, part, interleaved=False) for path, part in zip(placement.paths, parts, strict=True)
        ]
    return {path: np.array(part, order="C") for path, part in zip(placement.paths, parts, strict=True)}


def to_tensor(layout: Layout, config: GPTConfig, placement: Placement, params: Mapping[str, Any]) -> np.ndarray:
    """The tensor of a placement from the parameters by path; rotary positions are put into the layout's order.

    The result is a view of the parameters where no copy is needed.
    """
    parts = [in_order(config, path, _part(params, path), layout.interleaved) for path in placement.paths]
    x = parts[0] if len(parts) == 1 else together(layout, config, np.concatenate(parts, axis=-1), len(parts))
    if placement.paths[0].endswith("/scale"):
        x = x - np.asarray(layout.offset, x.dtype)
    return x.swapaxes(-1, -2) if _is_out_in(layout, placement.paths) else x


def _part(params: Mapping[str, Any], path: str) -> np.ndarray:
    part = _of_expert(path)
    return np.asarray(params[path] if part is None else params[part[0]][part[1]])


def with_experts(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters by path, in which those of the experts, read from tensors of their own, are one array [E, D, F].

    `params` loses its entries one kind at a time, so that little is in memory twice.
    """
    experts: dict[str, list[str]] = {}
    for path in params:
        if (part := _of_expert(path)) is not None:
            experts.setdefault(part[0], []).append(path)
    for whole, paths in experts.items():
        ordered = sorted(paths, key=lambda path: int(path.rpartition("/")[2]))
        params[whole] = np.stack([params.pop(path) for path in ordered])
    return params


def apart(layout: Layout, config: GPTConfig, paths: tuple[str, ...], x: np.ndarray) -> list[np.ndarray]:
    """What belongs to each of the parameters along the last axis of a tensor [..., F] of them all."""
    if len(paths) == 1:
        return [x]
    if layout.by_head:
        heads = x.reshape(*x.shape[:-1], config.n_heads, len(paths), -1)
        return [heads[..., i, :].reshape(*x.shape[:-1], -1) for i in range(len(paths))]
    widths = [parameter_shapes(config)[path][-1] for path in paths]
    return np.split(x, np.cumsum(widths)[:-1], axis=-1)


def together(layout: Layout, config: GPTConfig, x: np.ndarray, n: int) -> np.ndarray:
    """The last axis of a tensor of n parameters side by side in the order of the file, the inverse of `apart`."""
    if not layout.by_head or n == 1:
        return x
    return np.swapaxes(x.reshape(*x.shape[:-1], n, config.n_heads, -1), -2, -3).reshape(x.shape)


def in_order(config: GPTConfig, path: str, x: np.ndarray, interleaved: bool = False) -> np.ndarray:
    """A parameter, or a part of it, [..., F] with the features of rotary pairs in half-split or interleaved order."""
    if interleaved == (config.position == "rotary_interleaved"):
        return x
    return _reordered(config, path, x, interleaved)


def _reordered(config: GPTConfig, path: str, x: np.ndarray, interleaved: bool) -> np.ndarray:
    """x [..., F] with each head's features moved to the order of pairs (2i, 2i + 1) or to that of (i, i + R/2).

    The first is the interleaved order. R is the number of features of a head that are rotated. What rotary positions do
    not act on is unchanged.
    """
    if not any(part in path for part in ROTATED):
        return x
    heads = x.reshape(*x.shape[:-1], -1, config.head_dim)
    rotated = rotated_width(config.head_dim, config.rotary_fraction)
    pairs = (2, rotated // 2) if interleaved else (rotated // 2, 2)
    turned = heads[..., :rotated].reshape(*heads.shape[:-1], *pairs).swapaxes(-1, -2)
    if rotated == config.head_dim:
        return turned.reshape(x.shape)
    turned = turned.reshape(*heads.shape[:-1], rotated)
    return np.concatenate([turned, heads[..., rotated:]], axis=-1).reshape(x.shape)


def check_shapes(wanted: Mapping[str, Shape], found: Mapping[str, Shape], what: str, remedy: str) -> None:
    """Raises InputError if `found` differs from `wanted`: it names some missing, misshapen and unknown tensors."""
    faults = [
        [f"{shown(name)} is missing" for name in wanted if name not in found],
        [
            f"{shown(name)} is {list(shape)}, not {list(wanted[name])}"
            for name, shape in found.items()
            if wanted.get(name, shape) != shape
        ],
        [f"{shown(name)} is not known" for name in found if name not in wanted],
    ]
    kinds = [kind for kind in faults if kind]
    if kinds:
        most = MOST_NAMED // len(kinds)
        parts = [", ".join(kind[:most]) + (f" and {len(kind) - most:,} more" if kind[most:] else "") for kind in kinds]
        raise InputError(f"{what} does not fit its config: {', '.join(parts)}; {remedy}.")


def is_ignored(layout: Layout, name: str) -> bool:
    """Whether a tensor is known to hold no weights."""
    patterns = [pattern.replace("{i}", "*") for pattern in layout.ignored]
    return any(fnmatchcase(name, one) or fnmatchcase(name, one.removeprefix(layout.prefix)) for one in patterns)


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict that `GPT.apply` takes, from parameters by path."""
    return dict(unflatten_dict({tuple(path.split("/")): leaf for path, leaf in params.items()}))
