"""`load_pretrained`: a model from a Hugging Face folder or a GGUF file.

`open_pretrained` reads the settings and finds the tensors; `Pretrained.parameters` reads the tensors one at a time.
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
    with_experts,
)
from jaxllm.pretrained.tensor_file import StoredTensor, is_finite
from jaxllm.utils.errors import InputError, shown


def load_pretrained(path: str | Path) -> tuple[GPTConfig, dict[str, Any]]:
    """The config and the parameters of a Hugging Face folder or a GGUF file.

    A folder holds config.json and model.safetensors, or several safetensors files with an index. The families are
    those of `jaxllm.pretrained.families`; all but Mistral and GPT-Neo have an architecture in GGUF too.

    The parameters are a nested dict with the paths and shapes that `GPT(config).init` gives; kernels are [in, out].
    The leaves are NumPy arrays in float32: narrower types are widened and quantised tensors are decoded. Tensors that a
    folder stores in float64 stay in float64. Peak memory is that of the parameters and one tensor.

    The logits are those that transformers computes for the same folder (tests/pretrained/test_pretrained_peers.py).
    Rotary positions are in half-split order; the interleaved rows of a Llama in GGUF are put into that order.

    Raises InputError if a file is missing or damaged, if the family or a setting is not supported, if tensors do not
    fit the settings (one message lists a few of each kind), or if a tensor holds NaN, infinity or a number beyond
    float32.
    """
    opened = open_pretrained(path)
    return opened.config, opened.parameters()


class Pretrained(NamedTuple):
    """A model in its files: the config and where each tensor is. No tensor is in memory."""

    path: Path
    config: GPTConfig
    layout: Layout
    tensors: Mapping[str, StoredTensor]
    read: Callable[[str], np.ndarray]

    def parameters(self) -> dict[str, Any]:
        """All parameters as a nested dict of arrays, as `load_pretrained` returns them. Raises InputError."""
        params: dict[str, np.ndarray] = {}
        for name, placement in self.check().items():
            ours = to_params(self.layout, self.config, placement, self.read(name))
            if not all(map(is_finite, ours.values())):
                raise InputError(
                    f"{self.path} holds NaN or an infinite number in the tensor {shown(name)}; download it again, or "
                    "use another model."
                )
            params |= ours
        return nested(with_experts(params))

    def check(self) -> dict[str, Placement]:
        """The parameters that each tensor holds, by its name. Raises InputError if tensors do not fit the config."""
        placements = tensor_placements(self.layout, self.config, self.tensors)
        found = {name: tensor.shape for name, tensor in self.tensors.items() if not is_ignored(self.layout, name)}
        if self.config.tie_embeddings:
            self._drop_second_table(placements, found)
        wanted = {name: placement.shape for name, placement in placements.items()}
        check_shapes(wanted, found, str(self.path), "download it again, or use another model")
        return placements

    def _drop_second_table(self, placements: Mapping[str, Placement], found: dict[str, Shape]) -> None:
        """Remove the head from `found` if it repeats the table of a tied model. Raises InputError if they differ."""
        table, head = tensor_name(self.layout, EMBEDDING), tensor_name(self.layout, HEAD)
        if head in placements or head not in found or table not in found:
            return
        if found.pop(head) != found[table] or not np.array_equal(self.read(head), self.read(table)):
            raise InputError(
                f"the config of {self.path} ties the head to {table}, but the file has a different {head}; if the head "
                f"is right, set tie_word_embeddings to false in its {CONFIG}."
            )


def open_pretrained(path: str | Path) -> Pretrained:
    """The model of a folder or a GGUF file: its settings are read, its tensors are not. Raises InputError."""
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
