"""Pretrained weights in: `load_pretrained` of a Hugging Face folder or a GGUF file.

transformers builds the model of a family's class and loads a file into it; here a file is read into the one GPT, by a
family's row of names. PyTorch is not needed.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.pretrained.families import EMBEDDING, HEAD, Layout
from jaxllm.pretrained.gguf import read_header
from jaxllm.pretrained.gguf_config import read_gguf_config
from jaxllm.pretrained.gguf_quantised import read_float
from jaxllm.pretrained.hf_config import read_hf_config
from jaxllm.pretrained.hf_folder import CONFIG, check_is_model, open_folder
from jaxllm.pretrained.parameter_map import (
    Placement,
    Shape,
    check_shapes,
    is_ignored,
    nested,
    tensor_name,
    tensor_placements,
    to_params,
)
from jaxllm.pretrained.tensor_file import StoredTensor, is_finite
from jaxllm.utils.errors import InputError
from jaxllm.utils.validate import shown


class Pretrained(NamedTuple):
    """A model in its files: its config, and its tensors, not read yet."""

    path: Path
    config: GPTConfig
    layout: Layout
    tensors: Mapping[str, StoredTensor]
    read: Callable[[str], np.ndarray]

    def parameters(self) -> dict[str, Any]:
        """All parameters, as a nested dict of arrays; see `load_pretrained`. Raises InputError."""
        params: dict[str, np.ndarray] = {}
        for name, place in self.check().items():
            ours = to_params(self.layout, self.config, place, self.read(name))
            if not all(map(is_finite, ours.values())):
                raise InputError(
                    f"{self.path} holds NaN or an infinite number in the tensor {shown(name)}; download it again, or "
                    "use another model."
                )
            params |= ours
        return nested(params)

    def check(self) -> dict[str, Placement]:
        """Where the parameters are. Raises InputError where the tensors do not fit the settings."""
        places = tensor_placements(self.layout, self.config, self.tensors)
        there = {name: tensor.shape for name, tensor in self.tensors.items() if not is_ignored(self.layout, name)}
        if self.config.tie_embeddings:
            self._leave_out_second_table(places, there)
        wanted = {name: place.shape for name, place in places.items()}
        check_shapes(wanted, there, str(self.path), "download it again, or use another model")
        return places

    def _leave_out_second_table(self, places: Mapping[str, Placement], there: dict[str, Shape]) -> None:
        """Some files of a tied model hold its table twice. Raises InputError where the two differ."""
        table, head = tensor_name(self.layout, EMBEDDING), tensor_name(self.layout, HEAD)
        if head in places or head not in there or table not in there:
            return
        if there.pop(head) != there[table] or not np.array_equal(self.read(head), self.read(table)):
            raise InputError(
                f"{self.path} is said to use {table} for its head, but has another {head}; if the head is right, set "
                f"tie_word_embeddings to false in its {CONFIG}."
            )


def load_pretrained(path: str | Path) -> tuple[GPTConfig, dict[str, Any]]:
    """The config and the parameters of a Hugging Face folder (config.json, safetensors also in shards) or a GGUF file.

    Families: GPT-2, Llama, Mistral, Qwen 3, Gemma. Parameters are NumPy arrays [in, out] as `GPT.init` has them, in
    float32, to which narrower types are widened and quantised ones unpacked; where a file is in float64, in that. While
    it reads, at most one tensor is in memory twice. Logits are those of transformers (tests/test_pretrained_peers.py);
    rotary positions are in its half-split order, for which the rows of GGUF's Llamas are put back.

    Raises InputError for files that are missing or damaged, a family or a setting that is not supported, and tensors
    that do not fit the settings, all of them in one message; and for the first tensor that holds NaN, infinity or what
    is infinite in float32.
    """
    opened = open_pretrained(path)
    return opened.config, opened.parameters()


def open_pretrained(path: str | Path) -> Pretrained:
    """The model of a folder or GGUF file, its settings read and its weights not. Raises InputError."""
    path = Path(path)
    if os.path.isdir(path):
        folder = open_folder(path)
        family, config = read_hf_config(folder.config, path / CONFIG)
        tensors = {name: tensor for name, (_, tensor) in folder.tensors.items()}
        return Pretrained(path, config, family.folder, tensors, folder.read)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; give a Hugging Face folder or a GGUF file.")
    check_is_model(path)
    header = read_header(path)
    layout, config = read_gguf_config(header, path)
    return Pretrained(path, config, layout, header.tensors, lambda name: read_float(path, header.tensors[name]))
