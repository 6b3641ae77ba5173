"""An adapter as a folder that Hugging Face's PEFT opens (`jaxllm.pretrained.peft` describes the layout)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.families import EMBEDDING, HEAD, Family, Layout
from jaxllm.pretrained.fetch import fetched
from jaxllm.pretrained.hf_config import families_for, read_hf_config
from jaxllm.pretrained.hf_folder import CONFIG
from jaxllm.pretrained.parameter_map import (
    Placement,
    in_order,
    tensor_name,
    tensor_placements,
    to_tensor,
    together,
)
from jaxllm.pretrained.peft_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_SHA256, PREFIX
from jaxllm.pretrained.safetensors import write_tensors
from jaxllm.pretrained.save import create_folder, without_mup, write_json
from jaxllm.pretrained.tensor_file import is_finite
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_json

WEIGHT = ".weight"
Tensors = dict[str, np.ndarray]


def write_adapter(
    folder: str | Path, config: GPTConfig, adapter: Any, rank: int, alpha: float, dropout: float, base: str | None,
    base_sha256: str, full: Any,
) -> None:  # fmt: skip
    """Write an adapter, and the parameters that were trained in full, into a folder that PEFT opens.

    `base` is the name or the path of the base model for PEFT, None where it opens none; `base_sha256` goes into the
    metadata of the tensors. Modules have the names of the base's own family if its config.json is on this machine: both
    Mistral and Phi-3 can express some models, but only Phi-3 has a qkv_proj. Else they have those of `save_pretrained`.
    The scale is alpha / rank for all kernels, also where a kernel's own rank is another. The folder is created; if it
    exists, it must be empty.

    Raises InputError if no family of transformers has such a model, if a number is not finite, if a parameter has no
    place in PEFT's layout, or if the folder is not empty or cannot be written.
    """
    folder, layout = Path(folder), _family_of(base, config).folder
    placements = tensor_placements(layout, config)
    if config.tie_embeddings:  # PEFT keeps a table that it saves apart from the head
        table = placements[tensor_name(layout, EMBEDDING)]
        placements[tensor_name(layout, HEAD)] = table
    parts, whole = _checked(adapter, "the adapter"), without_mup(_checked(full, "the parameters"), config)
    if not parts:
        raise InputError("there is no adapter to write; export the model itself, without --adapter.")
    _check_places(placements, parts, whole)
    low, ranks = _low_rank_tensors(layout, config, placements, parts)
    more = _full_tensors(layout, config, placements, whole)
    modules = sorted({name.rpartition(".")[0].removeprefix(PREFIX) for name in more})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": rank, "lora_alpha": _short(alpha), "lora_dropout": dropout, "target_modules": sorted(ranks),
        "modules_to_save": modules or None, "bias": "none", "fan_in_fan_out": not layout.out_in,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: _short(alpha * r / rank) for name, r in ranks.items() if r != rank},
    }  # fmt: skip
    try:
        create_folder(folder)
        write_tensors(folder / ADAPTER_WEIGHTS, low | more, {"format": "pt", BASE_SHA256: base_sha256})
        write_json(folder / ADAPTER_CONFIG, settings)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}; choose another folder.") from None


def _family_of(base: str | None, config: GPTConfig) -> Family:
    """The family by whose names an adapter for this base is written: one that can express the config."""
    families, path = families_for(config), None if base is None else fetched(base)
    if path is None or not os.path.exists(path / CONFIG):
        return families[0]
    own = read_hf_config(read_json(path / CONFIG, CONFIG), path / CONFIG)[0]
    return own if own in families else families[0]


def _checked(tree: Any, what: str) -> Tensors:
    """The leaves by path. Raises InputError for NaN or infinity."""
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(tree).items()}
    for path, leaf in flat.items():
        if not is_finite(leaf):
            raise InputError(
                f"{what} to write holds NaN or an infinite number in {shown(path)}; train it again, or use another "
                "checkpoint."
            )
    return flat


def _check_places(placements: Mapping[str, Placement], parts: Tensors, whole: Tensors) -> None:
    """Raises InputError for a parameter that no module of transformers holds."""
    there = {path for placement in placements.values() for path in placement.paths}
    for path in (*(path.rpartition("/")[0] for path in parts), *whole):
        if path not in there:
            raise InputError(
                f"the architecture of transformers has no place for {shown(path)}; merge the run and export that."
            )


def _low_rank_tensors(
    layout: Layout, config: GPTConfig, placements: Mapping[str, Placement], parts: Tensors
) -> tuple[Tensors, dict[str, int]]:
    """The tensors of all adapted modules, and the rank of each module."""
    shapes, ranks = parameter_shapes(config), {}
    tensors: Tensors = {}
    for name, placement in placements.items():
        held = [path for path in placement.paths if f"{path}/a" in parts]
        if not held:
            continue
        a = np.concatenate([parts[f"{path}/a"] for path in held], axis=1)
        absent = {path: np.zeros((0, shapes[path][1]), a.dtype) for path in placement.paths}
        each = [in_order(config, path, parts.get(f"{path}/b", absent[path])) for path in placement.paths]
        b = together(layout, config, _block_diagonal(each), len(each)).T
        module = name.removesuffix(WEIGHT)
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a.T, f"{PREFIX}{module}.lora_B.weight": b}
        ranks[module] = a.shape[1]
    return tensors, ranks


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """A matrix with these blocks along its diagonal, zero elsewhere; a block may have no rows."""
    corners = np.cumsum([(0, 0), *(block.shape for block in blocks)], axis=0)
    whole = np.zeros(corners[-1], blocks[0].dtype)
    for block, (row, column), (end_row, end_column) in zip(blocks, corners, corners[1:], strict=False):
        whole[row:end_row, column:end_column] = block
    return whole


def _full_tensors(layout: Layout, config: GPTConfig, placements: Mapping[str, Placement], full: Tensors) -> Tensors:
    """The tensors of modules of which all parameters were trained. Raises InputError for a part of a module."""
    tensors: Tensors = {}
    modules = {name.rpartition(".")[0] for name, held in placements.items() if any(path in full for path in held.paths)}
    for name, placement in placements.items():
        if name.rpartition(".")[0] not in modules:
            continue
        if missing := [path for path in placement.paths if path not in full]:
            raise InputError(
                f"PEFT saves all of the module {name.rpartition('.')[0]}, but {missing[0]} was not trained in full; "
                "train it too, or merge the run and export that."
            )
        tensors[PREFIX + name] = to_tensor(layout, config, placement, full)
    return tensors


def _short(x: float) -> int | float:
    return int(x) if float(x).is_integer() else x
