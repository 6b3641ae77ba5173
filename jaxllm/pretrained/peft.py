"""Adapters in the layout of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

A module of transformers has tensors lora_A [r, in] and lora_B [out, r], the transposes of A and B of `jaxllm.lora`.
Where one module holds several of our kernels, as GPT-2's c_attn holds those of queries, keys and values, their adapters
are written as one of the sum of their ranks: A side by side, B block by block. This is the same function.
`read_adapter` is here, and `write_adapter` in `jaxllm.pretrained.peft_write`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.families import EMBEDDING, HEAD, Family, Layout
from jaxllm.pretrained.hf_config import families_for
from jaxllm.pretrained.hf_folder import WEIGHT_DTYPES
from jaxllm.pretrained.parameter_map import (
    Placement,
    Shape,
    apart,
    nested,
    tensor_name,
    tensor_placements,
    to_params,
)
from jaxllm.pretrained.peft_settings import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_SHA256,
    PREFIX,
    LoraSettings,
    read_settings,
)
from jaxllm.pretrained.peft_write import write_adapter as write_adapter
from jaxllm.pretrained.safetensors import read_header, read_tensor
from jaxllm.pretrained.tensor_file import is_finite
from jaxllm.utils.errors import InputError, shown

LOW_RANK = re.compile(r"(.+)\.lora_([AB])\.weight")
Tensors = dict[str, np.ndarray]
Placements = Mapping[str, Placement]


class PeftAdapter(NamedTuple):
    """What a PEFT folder holds. The scale of the adapter is alpha / rank."""

    adapter: dict[str, Any]  # as of `jaxllm.lora`, in float32
    full: dict[str, Any]  # parameters that were trained in full
    rank: int  # the largest of all kernels'
    alpha: float
    dropout: float
    base_sha256: str | None  # of the base model's weights; PEFT itself writes none


def read_adapter(folder: str | Path, config: GPTConfig) -> PeftAdapter:
    """An adapter for a model of that config, and the modules that were saved beside it, from a PEFT folder.

    A module's own rank or alpha, and the scale of rsLoRA, are multiplied into its B, so that one scale alpha / rank is
    right for all. The adapter of GPT-2's c_attn becomes one of queries, one of keys and one of values, with the same A;
    a component that some of the three do not use, while others do, is left out there.

    Raises InputError if a file is missing or damaged, if the adapter asks for what this jaxllm does not compute or is
    of another model, or if a number is not finite.
    """
    folder = Path(folder)
    if config.position == "rotary_interleaved" or config.width_ratio != 1:
        raise InputError(
            f"{folder} is an adapter in the layout of transformers, which has neither rotary_interleaved positions nor "
            "mup_base_width; export the model with `jaxllm export`, and import that."
        )
    settings = read_settings(folder / ADAPTER_CONFIG)
    tensors, base_sha256 = _read_tensors(folder)
    layout = _family_with(tensors, config).folder
    placements = tensor_placements(layout, config)
    low: dict[str, Tensors] = {}
    whole: Tensors = {}
    for name, x in tensors.items():
        if part := LOW_RANK.fullmatch(name):
            low.setdefault(part[1], {})[part[2]] = x
        else:
            whole[name] = x
    adapter: Tensors = {}
    for module, pair in low.items():
        adapter |= _adapter_of(
            folder, layout, config, settings, module, pair, _placement(layout, placements, f"{module}.weight")
        )
    full = _full(folder, layout, config, settings, placements, whole)
    rank = max((x.shape[1] for path, x in adapter.items() if path.endswith("/a")), default=settings.r)
    alpha = settings.scale() * rank
    return PeftAdapter(nested(adapter), nested(full), rank, alpha, settings.lora_dropout, base_sha256)


def family_of_adapter(folder: str | Path, config: GPTConfig) -> Family:
    """The first family that can express the config and has the modules of an adapter. Raises InputError."""
    header = read_header(Path(folder) / ADAPTER_WEIGHTS)
    return _family_with((name.removeprefix(PREFIX) for name in header.tensors), config)


def _family_with(tensors: Iterable[str], config: GPTConfig) -> Family:
    modules = {part[1] for name in tensors if (part := LOW_RANK.fullmatch(name))}
    families = families_for(config)
    for family in families:
        placements = tensor_placements(family.folder, config)
        if all(_placement(family.folder, placements, f"{module}.weight") for module in modules):
            return family
    return families[0]


def _read_tensors(folder: Path) -> tuple[Tensors, str | None]:
    """The tensors in float32 by name, without PEFT's prefix, and the fingerprint of the base."""
    path = folder / ADAPTER_WEIGHTS
    if not path.exists():
        pickled = " it has adapter_model.bin, a pickle, which can run any code;" if any(folder.glob("*.bin")) else ""
        raise InputError(f"{folder} has no {ADAPTER_WEIGHTS};{pickled} save the adapter again with PEFT.")
    header = read_header(path)
    tensors: Tensors = {}
    for name, tensor in header.tensors.items():
        if tensor.dtype not in WEIGHT_DTYPES or not name.startswith(PREFIX):
            raise InputError(f"{path} holds {shown(name)} of type {tensor.dtype}, which is no part of a LoRA adapter.")
        x = read_tensor(path, tensor).astype(np.float32)
        if not is_finite(x):
            raise InputError(
                f"{path} holds NaN or an infinite number in {shown(name)}; train the adapter again, or use another."
            )
        tensors[name.removeprefix(PREFIX)] = x
    if not tensors:
        raise InputError(f"{path} holds no tensors; save the adapter again with PEFT.")
    return tensors, header.metadata.get(BASE_SHA256)


def _placement(layout: Layout, placements: Placements, name: str) -> Placement | None:
    """Where a tensor of the base belongs; an adapter of a model without its head has names without the prefix."""
    return placements.get(name) or placements.get(layout.prefix + name)


def _adapter_of(
    folder: Path, layout: Layout, config: GPTConfig, settings: LoraSettings, module: str, pair: Tensors,
    placement: Placement | None,
) -> Tensors:  # fmt: skip
    """A and B of each kernel of a module, by path."""
    path = "" if placement is None else placement.paths[0]
    if placement is None or not (path.startswith("block_") and path.endswith("/kernel")):
        raise InputError(
            f"{folder} adapts the module {shown(module)}, but only maps of blocks can have adapters; merge it into its "
            "base model with PEFT, then import that."
        )
    shapes, rank = parameter_shapes(config), settings.rank(module)
    widths = [shapes[path][1] for path in placement.paths]
    for name, shape in (("A", (rank, shapes[placement.paths[0]][0])), ("B", (sum(widths), rank))):
        _check_shape(folder, f"{module}.lora_{name}.weight", pair.get(name), shape)
    a, b = pair["A"].T, pair["B"].T * np.float32(_factor(settings, module))
    parts = apart(layout, config, placement.paths, b)
    used = np.array([part.any(axis=1) for part in parts])
    adapter: Tensors = {}
    for path, part, here in zip(placement.paths, parts, used, strict=True):
        kept = here | ~used.any(axis=0)
        if kept.any():
            adapter |= {f"{path}/a": np.array(a[:, kept], order="C"), f"{path}/b": np.array(part[kept], order="C")}
    return adapter


def _factor(settings: LoraSettings, module: str) -> float:
    """The scale of a module's adapter over that of most; exactly 1 for equal ones, also where they are rounded."""
    factor = settings.scale(module) / settings.scale()
    return 1.0 if abs(factor - 1) < 1e-12 else factor


def _full(
    folder: Path, layout: Layout, config: GPTConfig, settings: LoraSettings, placements: Placements, tensors: Tensors
) -> Tensors:
    """The parameters of modules that were saved whole."""
    full: Tensors = {}
    table, head = tensor_name(layout, EMBEDDING), tensor_name(layout, HEAD)
    for name, x in tensors.items():
        placement = _placement(layout, placements, name)
        if placement is not None:
            _check_shape(folder, name, x, placement.shape)
            full |= to_params(layout, config, placement, x)
        elif name != head:
            raise InputError(
                f"{folder} holds {shown(name)}, which is neither a LoRA of a map nor a parameter of the model; use the "
                "adapter's own base model."
            )
    if config.tie_embeddings and (EMBEDDING in full or head in tensors):
        follows = EMBEDDING in full and np.array_equal(tensors.get(head, full[EMBEDDING]), full[EMBEDDING])
        if not follows or (head not in tensors and not settings.ensure_weight_tying):
            raise InputError(
                f"{folder} has trained only one of {table} and {head}, which the model ties; save it with "
                "ensure_weight_tying, or merge it with PEFT into a model that is not tied."
            )
    return full


def _check_shape(folder: Path, name: str, x: np.ndarray | None, shape: Shape) -> None:
    if x is None or x.shape != shape:
        found = "is missing" if x is None else f"is {list(x.shape)}"
        raise InputError(
            f"{shown(name)} of {folder} {found}, but it must be {list(shape)}; use the adapter's own base model, or "
            "save the adapter again with PEFT."
        )
