"""How rotary positions are scaled for a longer context, in the settings of config.json and in the keys of GGUF.

Both name the same numbers: Llama 3's scaling (in GGUF a tensor, see `gguf_config`), the linear one, and YaRN's.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.utils.errors import InputError, shown

LLAMA3 = {  # field of GPTConfig: name in rope_parameters
    "rope_factor": "factor", "rope_low_frequency": "low_freq_factor", "rope_high_frequency": "high_freq_factor",
    "rope_original_context": "original_max_position_embeddings",
}  # fmt: skip
YARN = LLAMA3 | {"rope_low_frequency": "beta_slow", "rope_high_frequency": "beta_fast", "rope_truncate": "truncate"}
NAMES = {"llama3": LLAMA3, "linear": {"rope_factor": "factor"}, "yarn": YARN}
# The fields that no scaling reads where the factor is 1, and those that one kind does not read.
FIELDS = ("rope_scaling", "rope_attention_factor", *YARN)
UNREAD: dict[str, tuple[str, ...]] = {
    "llama3": ("rope_truncate",), "yarn": (),
    "linear": ("rope_low_frequency", "rope_high_frequency", "rope_original_context", "rope_truncate"),
}  # fmt: skip
GGUF_YARN = {  # field of GPTConfig: key after the architecture (ggml-org/llama.cpp, src/llama-arch.cpp)
    "rope_original_context": "rope.scaling.original_context_length",
    "rope_low_frequency": "rope.scaling.yarn_beta_slow", "rope_high_frequency": "rope.scaling.yarn_beta_fast",
}  # fmt: skip
TYPE, FACTORS = "rope.scaling.type", ("rope.scaling.factor", "rope.scale_linear")
ATTENTION = "rope.scaling.attn_factor"  # multiplies YaRN's own factor
EXACT = {"rope.scaling.yarn_ext_factor": 1, "rope.scaling.yarn_attn_factor": 1, "rope.scaling.yarn_log_multiplier": 0}
Fields = dict[str, Any]
Obstacles = list[str]


# ---- config.json


def read_scaling(given: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[Fields, Obstacles]:
    """The fields of GPTConfig in the `rope_parameters` of a config.json, and what a GPT cannot compute there.

    YaRN's numbers have the defaults of transformers: 32 turns and 1, the context of the model, and a factor of
    attention from `factor`, or from `mscale` and `mscale_all_dim`. (transformers, _compute_yarn_parameters)
    """
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return {}, []
    if not isinstance(kind, str) or kind not in NAMES:
        return {}, [f"rope_type is {shown(kind)}"]
    if kind == "yarn":
        given = {"truncate": True, "original_max_position_embeddings": content.get("max_position_embeddings"), **given}
        given = {**given, "beta_fast": given.get("beta_fast") or 32, "beta_slow": given.get("beta_slow") or 1}
    fields = {"rope_scaling": kind} | {field: given[name] for field, name in NAMES[kind].items() if name in given}
    obstacles = [f"{name} is missing" for name in NAMES[kind].values() if name not in given]
    if kind == "yarn" and not obstacles:
        fields["rope_attention_factor"], obstacles = _attention_factor(given)
    return fields, obstacles


def _attention_factor(given: Mapping[str, Any]) -> tuple[Any, Obstacles]:
    """YaRN's factor of rotated queries and keys; None for the one that follows from `factor` alone."""
    names = ("factor", "mscale", "mscale_all_dim")
    numbers: list[Any] = [given.get(name) for name in names]
    factor, scale, scale_all = numbers
    if given.get("attention_factor") is not None or not (scale and scale_all):
        return given.get("attention_factor"), []
    strange = [f"{name} is {shown(x)}" for name, x in zip(names, numbers, strict=True) if not _is_positive(x)]
    if strange:
        return None, strange
    grown = max(math.log(factor), 0)
    return (1 + 0.1 * scale * grown) / (1 + 0.1 * scale_all * grown), []


def _is_positive(x: Any) -> bool:
    return isinstance(x, int | float) and 0 < x < 1e30


def write_scaling(config: GPTConfig) -> dict[str, Any]:
    """The scaling of a config with rotary positions in the terms of `rope_parameters`; empty if it has none."""
    if not is_scaled(config):
        return {}
    values = scaling_fields(config)
    scaling: dict[str, Any] = {"rope_type": config.rope_scaling}
    scaling |= {name: values[field] for field, name in NAMES[config.rope_scaling].items()}
    if config.rope_attention_factor is not None and config.rope_scaling == "yarn":
        scaling["attention_factor"] = config.rope_attention_factor
    return scaling


def is_scaled(config: GPTConfig) -> bool:
    """Whether rotary positions are scaled, or queries and keys by YaRN's factor."""
    return config.rotary is not None and (config.rotary.factor, config.rotary.scale) != (1, 1)


def scaling_fields(config: GPTConfig) -> Fields:
    """The fields that the rotation depends on, with defaults filled in; those that change nothing are left out."""
    rotary = config.rotary
    if rotary is None or not is_scaled(config):
        return {}
    fields = {
        "rope_scaling": rotary.scaling, "rope_factor": rotary.factor, "rope_low_frequency": rotary.low_frequency,
        "rope_high_frequency": rotary.high_frequency, "rope_original_context": rotary.original_context,
        "rope_truncate": rotary.truncate, "rope_attention_factor": rotary.scale,
    }  # fmt: skip
    return {field: value for field, value in fields.items() if field not in UNREAD[rotary.scaling]}


# ---- GGUF


def read_gguf_scaling(get: Callable[[str], Any]) -> tuple[Fields, Obstacles]:
    """The fields of GPTConfig in the keys of a GGUF file with rotary positions, and what a GPT cannot compute there.

    `get` returns the value of a key, given without its architecture, or None. A factor without a type is linear, and
    one of 0 is none. (ggml-org/llama.cpp, src/llama-model.cpp and src/llama-context.cpp)
    """
    kind, attention = get(TYPE), get(ATTENTION)
    kind, obstacles = "linear" if kind is None else kind, list[str]()
    if not isinstance(kind, str) or kind not in ("none", "linear", "yarn"):
        return {}, [f"{TYPE} is {shown(kind)}"]
    factor = next((value for key in FACTORS if (value := get(key)) is not None), 0)
    factor = 1.0 if isinstance(factor, int | float) and factor == 0 else factor
    fields: Fields = {"rope_scaling": kind, "rope_factor": factor}
    if kind == "yarn":
        obstacles = [f"{key} is {shown(get(key))}" for key, usual in EXACT.items() if _is_other(get(key), usual)]
        fields["rope_original_context"] = get("context_length")
        fields |= {field: value for field, key in GGUF_YARN.items() if (value := get(key)) is not None}
        if _is_positive(attention) and _is_positive(factor):
            fields["rope_attention_factor"] = attention * (1 + 0.1 * math.log(factor))
            attention = None
    if _is_other(attention, 1):
        obstacles.append(f"{ATTENTION} is {shown(attention)}")
    unscaled = kind == "none" or (kind == "linear" and isinstance(factor, int | float) and factor == 1)
    return ({} if unscaled else fields), obstacles


def _is_other(value: Any, usual: float) -> bool:
    """Whether a key is there with another value than the usual one."""
    return value is not None and (isinstance(value, np.ndarray) or value != usual)


def write_gguf_scaling(config: GPTConfig) -> dict[str, Any]:
    """The keys of a config with rotary positions in a GGUF file, without its architecture; empty without a scaling.

    Llama 3's scaling has no keys, because it is a tensor there. Raises InputError for YaRN without rounding, for which
    llama.cpp has no key.
    """
    rotary = config.rotary
    if rotary is None or not is_scaled(config) or rotary.scaling == "llama3":
        return {}
    if not rotary.truncate:
        raise InputError("GGUF has no key for model.rope_truncate = false; export a folder with --out FOLDER instead.")
    keys: dict[str, Any] = {TYPE: rotary.scaling, FACTORS[0]: rotary.factor}
    if rotary.scaling == "yarn":
        values = scaling_fields(config)
        keys |= {key: values[field] for field, key in GGUF_YARN.items()}
        keys[ATTENTION] = rotary.scale / (1 + 0.1 * math.log(rotary.factor))
    return keys
