"""A GPTConfig as the keys of a GGUF file, and the family whose architecture the file has.

The keys are those that `gguf_config` reads and that llama.cpp's converter writes. (ggml-org/ggml, docs/gguf.md)
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.pretrained.families import GGUF, Family
from jaxllm.pretrained.gguf_config import ARCHITECTURE, FREQUENCIES, config_of_keys, head_sizes, names_of_keys
from jaxllm.pretrained.hf_config import families_for, numeric_fields
from jaxllm.pretrained.rope_scaling import FIELDS, write_gguf_scaling
from jaxllm.utils.errors import InputError, shown

SCALING = [field for field in FIELDS if field != "rope_factor"]  # that rope_factor brings with it
FOLDER = "export a folder with --out FOLDER instead"


def gguf_family(config: GPTConfig) -> tuple[Family, GGUF]:
    """The first family that can express the config in a GGUF file, also in the terms of llama.cpp.

    Raises InputError if no family can express the config at all, or if none has an architecture in GGUF that can; the
    message names the nearest one and the fields that it lacks.
    """
    families = families_for(config)
    known = [(family, family.gguf) for family in families if family.gguf is not None]
    if not known:
        raise InputError(
            f"llama.cpp has no architecture for a {families[0].architecture} with these settings; {FOLDER}."
        )
    lacking = [_lacking(family, its, config) for family, its in known]
    nearest = min(range(len(known)), key=lambda i: len(lacking[i]))
    if lacking[nearest]:
        fields = " and ".join(f"model.{field} = {shown(getattr(config, field))}" for field in lacking[nearest])
        raise InputError(
            f"no architecture of GGUF can express this model: {known[nearest][1].architecture} is nearest, but has no "
            f"{fields}; {FOLDER}."
        )
    return known[nearest]


def _lacking(family: Family, its: GGUF, config: GPTConfig) -> list[str]:
    """The fields that the family's config.json can hold, but its GGUF file cannot, or llama.cpp does not compute."""
    ours = numeric_fields(config)
    unstated = [field for field in names_of_keys(family, its) if ours[field] is None and field not in its.defaults]
    if unstated:
        return unstated
    lacking = [field for field, value in its.only.items() if ours[field] != value]
    if its.whole_heads and config.head_dim * config.n_heads != config.d_model:
        lacking.append("d_head")
    of_tensors = {"vocab_size": config.vocab_size, "tie_embeddings": config.tie_embeddings}
    found = config_of_keys(config_keys(family, its, config), family, its, of_tensors, "the file to be written")
    factors = frequency_factors(config)
    if factors is not None and FREQUENCIES in its.layout.ignored:
        # A reader takes the largest factor for the model's, which it is unless even the slowest pair is mixed.
        found = replace(found, rope_factor=float(factors.max()))
    lacking += [field for field in _differing(found, config) if field not in lacking]
    return [field for field in lacking if field not in _consequences(lacking, config)]


def _consequences(lacking: list[str], config: GPTConfig) -> set[str]:
    """The fields that are lacking only because another one is."""
    fields = {*SCALING} if "rope_factor" in lacking else set()
    return fields | ({"rope_local_base"} if config.rope_local_base is None and "layer_pattern" in lacking else set())


def config_keys(family: Family, its: GGUF, config: GPTConfig) -> dict[str, Any]:
    """The keys of the architecture and the settings, with values for `gguf_write`."""
    fields = numeric_fields(config)
    values = {key: fields[field] for field, key in names_of_keys(family, its).items() if fields[field] is not None}
    if config.rotary:
        values |= {"vocab_size": config.vocab_size} | head_sizes(config) | write_gguf_scaling(config)
    named = {f"{its.architecture}.{key}": value for key, value in values.items()}
    return {ARCHITECTURE: its.architecture, "general.type": "model"} | named


def frequency_factors(config: GPTConfig) -> np.ndarray | None:
    """The divisor of each rotary frequency in Llama 3's scaling, float32 [K / 2]; None for a model without.

    Grattafiori et al. 2024; meta-llama/llama-models, apply_scaling; as `jaxllm.rotary.rotary_frequencies`.
    """
    if config.rotary is None or config.rope_factor == 1 or config.rope_scaling != "llama3":
        return None
    frequency = config.rope_base ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = config.rotary.original_context * frequency / (2 * np.pi)
    low, high = config.rotary.low_frequency, config.rotary.high_frequency
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (share + (1 - share) / config.rope_factor)).astype("<f4")


def check_same_config(found: GPTConfig, config: GPTConfig) -> None:
    """Raises InputError, which names the fields, if the config read from a file is another model's than the given."""
    if lost := _differing(found, config):
        fields = " and ".join(f"model.{field} = {shown(getattr(config, field))}" for field in lost)
        raise InputError(f"a GGUF file of this model would be read without {fields}; {FOLDER}.")


def _differing(found: GPTConfig, config: GPTConfig) -> list[str]:
    """The fields by which two configs are different models."""
    theirs, ours = numeric_fields(found), numeric_fields(config)
    lost = [field for field, value in ours.items() if not _same(theirs.get(field), value)]
    return lost + [field for field in theirs if field not in ours]


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; floats as far as float32 tells them apart, in which a file holds them."""
    return math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b
