"""`save_gguf`: one file with a model's settings, weights, tokenizer and chat template, for llama.cpp."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.families import GGUF
from jaxllm.pretrained.gguf_config import FREQUENCIES
from jaxllm.pretrained.gguf_encode import FILE_TYPES, check_dtype, encoded, stored_type
from jaxllm.pretrained.gguf_write import TensorToWrite, write_file
from jaxllm.pretrained.gguf_write_config import check_same_config, config_keys, frequency_factors, gguf_family
from jaxllm.pretrained.gguf_write_tokenizer import tokenizer_keys
from jaxllm.pretrained.load import open_pretrained
from jaxllm.pretrained.parameter_map import tensor_placements, to_tensor
from jaxllm.pretrained.save import checked_parameters, without_mup
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError, Note

QUANTIZATION_VERSION = 2  # of the layout of blocks (ggml-org/ggml, include/ggml.h, GGML_QNT_VERSION)
MOST_NAMED = 3  # tensors, in a note


def save_gguf(
    path: str | Path, config: GPTConfig, params: Any, tokenizer: Tokenizer, chat: ChatFormat | None = None,
    dtype: str = "float32", name: str | None = None,
) -> dict[str, str]:  # fmt: skip
    """Write the model into a GGUF file. Returns the GGUF type of each tensor by its name, such as "Q8_0".

    The architecture is that of the first of `jaxllm.pretrained.families` that can express the config in GGUF. Keys and
    types of tensors are those of llama.cpp's converter: with `dtype` "float16" or "q8_0" vectors and learned positions
    stay F32, and with "q8_0" tensors whose rows are no multiple of 32 become F16, of which a Note warns. Another Note
    warns of an activation that llama.cpp computes in another form. Rotary positions are written in the order of the
    architecture, and muP's division into the final norm (`jaxllm.pretrained.save`). `name` is the model's, for people.

    `params` has the paths and shapes of `GPT(config).init`, as NumPy or JAX arrays in float32, bfloat16, float16 or
    float64. They are converted a few rows at a time. The file appears when it is complete and has been read back: its
    config and its tokenizer are the given ones. An older file of that name is replaced.

    Raises InputError for another dtype, if no architecture or no tokenizer of GGUF can express the model, if the
    parameters are not those of the config, not finite or beyond float16 where that is written, and if the file cannot
    be written.
    """
    check_dtype(dtype)
    family, its = gguf_family(config)
    _note_activation(its, config)
    flat = without_mup(checked_parameters(params, config), config)
    keys = config_keys(family, its, config) | _general_keys(dtype)
    keys |= tokenizer_keys(tokenizer, chat or ChatFormat(), config.vocab_size, name)
    placements, factors = tensor_placements(its.layout, config), frequency_factors(config)
    shapes = {} if factors is None else {FREQUENCIES: factors.shape}
    shapes |= {tensor: placement.shape for tensor, placement in placements.items()}
    types = {tensor: stored_type(tensor, shape, dtype) for tensor, shape in shapes.items()}
    _note_float16(types, dtype)

    def content(tensor: str) -> Iterator[np.ndarray]:
        held = tensor in placements
        x = to_tensor(its.layout, config, placements[tensor], flat) if held else np.asarray(factors)
        return encoded(x, types[tensor], tensor)

    described = {tensor: TensorToWrite(types[tensor], shape) for tensor, shape in shapes.items()}
    try:
        write_file(Path(path), keys, described, content, lambda written: _check(written, config))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place.") from None
    return types


def _general_keys(dtype: str) -> dict[str, Any]:
    return {"general.file_type": FILE_TYPES[dtype][1], "general.quantization_version": QUANTIZATION_VERSION}


def _check(path: Path, config: GPTConfig) -> None:
    """Raises InputError unless the file is read as a model of that config, with all its tensors."""
    opened = open_pretrained(path)
    check_same_config(opened.config, config)
    opened.check()


def _note_activation(its: GGUF, config: GPTConfig) -> None:
    """Warn with a Note of an activation that llama.cpp computes in another form than the model's."""
    if its.computes not in (None, config.activation):
        what = f"llama.cpp computes the activation {config.activation} of a {its.architecture} as {its.computes}"
        warnings.warn(Note(f"GGUF: {what}, which changes logits a little."), stacklevel=3)


def _note_float16(types: dict[str, str], dtype: str) -> None:
    """Warn with a Note of tensors that Q8_0 cannot hold."""
    halves = [name for name, kind in types.items() if kind == "F16"]
    if dtype != "q8_0" or not halves:
        return
    some = ", ".join(halves[:MOST_NAMED]) + (f" and {len(halves) - MOST_NAMED:,} more" if halves[MOST_NAMED:] else "")
    counted = Counter(types.values())
    warnings.warn(
        Note(
            f"{counted['F16']:,} tensors stay F16, because their rows are no multiple of 32 numbers: {some}; "
            f"{counted['Q8_0']:,} tensors are Q8_0."
        ),
        stacklevel=3,
    )
