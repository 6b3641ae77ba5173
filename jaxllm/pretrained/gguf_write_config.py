"""A GPTConfig as the keys of a GGUF file, and the family whose architecture the file has.

The keys are those that `gguf_config` reads and that llama.cpp's converter writes. (ggml-org/ggml, docs/gguf.md)
"""

import math
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.pretrained.families import Family, Layout
from jaxllm.pretrained.gguf_config import ARCHITECTURE, FREQUENCIES, HEAD_WIDTHS, KEYS, ROPE_BASE
from jaxllm.pretrained.hf_config import families_for, numeric_fields
from jaxllm.utils.errors import InputError, shown

# Fields of Llama 3's scaling that a file states by a tensor only; the reader takes their defaults.
SCALING = ("rope_low_frequency", "rope_high_frequency", "rope_original_context")
# Architectures whose head is the table of tokens in any case. (ggml-org/llama.cpp, src/llama-model.cpp)
ALWAYS_TIED = ("gemma", "gemma2")
FOLDER = "export a folder with --out FOLDER instead"


def gguf_family(config: GPTConfig) -> tuple[Family, Layout]:
    """The first family that can express the config in a GGUF file, and the layout of its tensors there.

    Raises InputError if no family can express the config at all, or if none has an architecture in GGUF that can.
    """
    families = families_for(config)
    for family in families:
        if family.gguf is not None and not _lacking(family, family.gguf, config):
            return family, family.gguf
    known = [(family, layout) for family in families if (layout := family.gguf) is not None]
    if not known:
        raise InputError(
            f"{families[0].architecture} with these settings has no architecture in GGUF that this jaxllm writes; "
            f"{FOLDER}."
        )
    lacking = " and ".join(f"model.{field} = {shown(getattr(config, field))}" for field in _lacking(*known[0], config))
    raise InputError(f"the architecture {known[0][0].model_type} of GGUF has no {lacking}; {FOLDER}.")


def _lacking(family: Family, layout: Layout, config: GPTConfig) -> list[str]:
    """The fields that the family's config.json can hold, but its GGUF file cannot."""
    lacking = []
    if config.activation != next(iter(family.activations.values())):
        lacking.append("activation")
    if config.sliding_window is not None:
        lacking.append("sliding_window")
    if family.model_type in ALWAYS_TIED and not config.tie_embeddings:
        lacking.append("tie_embeddings")
    if (factors := frequency_factors(config)) is not None:
        # A reader takes the largest factor for the model's, which it is unless even the slowest pair is mixed.
        if FREQUENCIES not in layout.ignored or not _same(float(factors.max()), config.rope_factor):
            lacking.append("rope_factor")
        lacking += [field for field in SCALING if getattr(config, field) != getattr(GPTConfig, field)]
    return lacking


def config_keys(family: Family, config: GPTConfig) -> dict[str, Any]:
    """The keys of the architecture and the settings, with values for `gguf_write`."""
    fields = numeric_fields(config)
    rotary = family.fixed["position"] == "rotary"
    keys = {field: key for field, key in KEYS.items() if field in family.settings}
    keys |= {"norm_epsilon": family.gguf_epsilon} | ({"rope_base": ROPE_BASE} if rotary else {})
    values = {key: fields[field] for field, key in keys.items()}
    if rotary:
        values |= {"vocab_size": config.vocab_size} | dict.fromkeys(HEAD_WIDTHS, config.head_dim)
    named = {f"{family.model_type}.{key}": value for key, value in values.items()}
    return {ARCHITECTURE: family.model_type, "general.type": "model"} | named


def frequency_factors(config: GPTConfig) -> np.ndarray | None:
    """The divisor of each rotary frequency in Llama 3's scaling, float32 [K / 2]; None for a model without.

    Grattafiori et al. 2024; meta-llama/llama-models, apply_scaling; as `jaxllm.rotary.rotary_frequencies`.
    """
    if config.rotary is None or config.rope_factor == 1:
        return None
    frequency = config.rope_base ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = config.rope_original_context * frequency / (2 * np.pi)
    low, high = config.rope_low_frequency, config.rope_high_frequency
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (share + (1 - share) / config.rope_factor)).astype("<f4")


def check_same_config(found: GPTConfig, config: GPTConfig) -> None:
    """Raises InputError, which names the fields, if the config read from a file is another model's than the given."""
    theirs, ours = numeric_fields(found), numeric_fields(config)
    lost = [field for field, value in ours.items() if not _same(theirs.get(field), value)]
    lost += [field for field in theirs if field not in ours]
    if lost:
        fields = " and ".join(f"model.{field} = {shown(getattr(config, field))}" for field in lost)
        raise InputError(f"a GGUF file of this model would be read without {fields}; {FOLDER}.")


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; floats as far as float32 tells them apart, in which a file holds them."""
    return math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b
