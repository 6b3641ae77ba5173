"""The keys of a GGUF file to a GPTConfig.

A file is refused if a key asks for what a GPT cannot compute. Llama 3's scaling of rotary frequencies, stored as a
tensor, is recognised by its numbers.
"""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.config_rules import rotated_width
from jaxllm.pretrained.families import EMBEDDING, FAMILIES, GGUF, HEAD, Family, Layout
from jaxllm.pretrained.gguf import GGUFHeader, read_tensor
from jaxllm.pretrained.gguf_quantised import read_float
from jaxllm.pretrained.hf_config import make_config
from jaxllm.pretrained.parameter_map import tensor_name
from jaxllm.pretrained.rope_scaling import read_gguf_scaling
from jaxllm.pretrained.tensor_file import StoredTensor
from jaxllm.rotary import rotary_frequencies
from jaxllm.utils.errors import InputError, shown

ARCHITECTURE, FREQUENCIES = "general.architecture", "rope_freqs.weight"
# The index of a part and the number of parts. (ggml-org/llama.cpp, tools/gguf-split)
SPLIT = ("split.no", "split.count")
KEYS = {  # field of GPTConfig: key after the architecture (ggml-org/ggml, docs/gguf.md)
    "context_length": "context_length", "d_model": "embedding_length", "n_layers": "block_count",
    "n_heads": "attention.head_count", "n_kv_heads": "attention.head_count_kv", "d_ff": "feed_forward_length",
    "d_head": "attention.key_length",
}  # fmt: skip
ROPE_BASE = "rope.freq_base"
OPTIONAL = ("n_kv_heads", "d_head", "rope_base")
ROTATED = "rope.dimension_count"
HARMLESS = {  # values that change no number, first the one that an omitted key has
    "expert_count": (0,), "attention.sliding_window": (0,), "attention.causal": (True,), "attention.scale": (0,),
    "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,), "use_parallel_residual": (False,),
    "logit_scale": (0, 1), "residual_scale": (0, 1), "embedding_scale": (0, 1), "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
}  # fmt: skip
TOLERANCE = 1e-4  # relative, of factors that the converter computed in float32


def read_gguf_config(header: GGUFHeader, path: str | Path) -> tuple[Layout, GPTConfig]:
    """The layout of the file's tensors and its GPTConfig; `path` is read for a tied head and for messages.

    Raises InputError if the architecture is not supported, or if keys are missing, out of range or ask for what a GPT
    cannot compute; the message lists all of them.
    """
    _check_not_split(header.metadata, Path(path))
    family, its = _find_family(header.metadata, path)
    table, head = (header.tensors.get(tensor_name(its.layout, place)) for place in (EMBEDDING, HEAD))
    if table is None or len(table.shape) != 2:
        raise InputError(
            f"{path} has no table of token embeddings, {tensor_name(its.layout, EMBEDDING)}; download it again."
        )
    tied = head is None or _same(path, head, table)
    config = config_of_keys(header.metadata, family, its, {"vocab_size": table.shape[0], "tie_embeddings": tied}, path)
    return its.layout, _scaled(config, header, path) if config.rotary else config


def config_of_keys(
    metadata: Mapping[str, Any], family: Family, its: GGUF, of_tensors: Mapping[str, Any], path: str | Path
) -> GPTConfig:
    """The GPTConfig of a file with these keys, without Llama 3's scaling; `of_tensors` are fields that no key states.

    Raises InputError as `read_gguf_config` does.
    """
    fields, obstacles = _read_keys(metadata, family, its)
    fields |= {"activation": next(iter(family.activations.values())), **of_tensors, **family.fixed, **its.fixed}
    config = make_config(fields, obstacles, path)
    make_config(fields, _contradictions(metadata, its, config), path)
    if config.n_layers == its.scaled_by_width and config.d_model >= config.n_heads:
        config = replace(config, attention_scale=(config.d_model // config.n_heads) ** -0.5)
    return config


def names_of_keys(family: Family, its: GGUF) -> dict[str, str]:
    """The key, after the architecture, of each field of GPTConfig that a file of the family states."""
    keys = {field: key for field, key in KEYS.items() if field in family.settings}
    keys["norm_epsilon"] = its.epsilon
    if family.fixed["position"] == "rotary":
        keys["rope_base"] = ROPE_BASE
    return keys | dict(its.keys)


def _check_not_split(metadata: Mapping[str, Any], path: Path) -> None:
    """Raises InputError if the file is one part of a model that llama-gguf-split wrote."""
    number, count = (metadata.get(key) for key in SPLIT)
    if isinstance(number, int) and isinstance(count, int) and count > 1:
        named = re.fullmatch(r"(.*)-\d+(-of-\d+\.gguf)", path.name)
        first = shlex.quote(f"{named[1]}-00001{named[2]}") if named else "FIRST.gguf"
        raise InputError(
            f"{path} is part {number + 1:,} of the {count:,} parts of a model; join them with llama.cpp's "
            f"`llama-gguf-split --merge {first} JOINED.gguf` and give JOINED.gguf."
        )


def _find_family(metadata: Mapping[str, Any], path: str | Path) -> tuple[Family, GGUF]:
    architecture = metadata.get(ARCHITECTURE)
    for family in FAMILIES:
        if family.gguf is not None and isinstance(architecture, str) and architecture == family.gguf.architecture:
            return family, family.gguf
    names = ", ".join(family.gguf.architecture for family in FAMILIES if family.gguf is not None)
    raise InputError(f"{path} is of the architecture {shown(architecture)}, but this jaxllm reads {names}.")


def _read_keys(metadata: Mapping[str, Any], family: Family, its: GGUF) -> tuple[dict[str, Any], list[str]]:
    """Fields of GPTConfig, and the keys that a GPT cannot compute."""
    fields, obstacles = dict(its.defaults), []
    keys = names_of_keys(family, its)
    for field, key in keys.items():
        value = _plain(metadata.get(f"{its.architecture}.{key}"))
        if isinstance(value, np.ndarray):
            obstacles.append(f"{key} differs from layer to layer")
        elif value is not None:
            fields[field] = None if value == 0 and its.defaults.get(field, 0) is None else value
        elif field not in OPTIONAL and field not in its.defaults:
            obstacles.append(f"{key} is missing")
    if family.rotary is not None and family.rotary.fraction is not None:
        fields |= _rotary_fraction(metadata.get(f"{its.architecture}.{ROTATED}"), fields)
    for key, values in {**HARMLESS, **its.harmless}.items():
        value = metadata.get(f"{its.architecture}.{key}", values[0])
        if key not in keys.values() and _differs(value, values):
            obstacles.append(f"{key} is {shown(value)}")
    if family.fixed["position"] != "rotary":
        return fields, obstacles
    scaling, more = read_gguf_scaling(lambda key: _plain(metadata.get(f"{its.architecture}.{key}")))
    return fields | scaling, obstacles + more


def _rotary_fraction(rotated: Any, fields: Mapping[str, Any]) -> dict[str, float]:
    """The fraction of a head of which `rotated_width` makes the given width; {} if sizes are no numbers."""
    d_model, n_heads = fields.get("d_model"), fields.get("n_heads")
    if not (type(rotated) is int and type(d_model) is int and type(n_heads) is int and 0 < n_heads <= d_model):
        return {}
    width = d_model // n_heads
    fraction = rotated / width
    return {"rotary_fraction": fraction if int(width * fraction) == rotated else math.nextafter(fraction, math.inf)}


def _plain(value: Any) -> Any:
    """The value as config.json would have it.

    An array that repeats one number becomes that number. A float32 becomes the shortest decimal that rounds to it.
    """
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        value = value[0].item()
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _differs(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether the value is none of those; an array is none of any."""
    return isinstance(value, np.ndarray) or value not in allowed


def _same(path: str | Path, a: StoredTensor, b: StoredTensor) -> bool:
    """Whether two tensors have the same bytes; some converters write the table of a tied model also as its head."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(read_tensor(path, a), read_tensor(path, b))


def head_sizes(config: GPTConfig) -> dict[str, int]:
    """The keys of the sizes of a head, with their values. One without rotary positions has no rotated width."""
    widths = {KEYS["d_head"]: config.head_dim, "attention.value_length": config.head_dim}
    rotated = {ROTATED: rotated_width(config.head_dim, config.rotary_fraction)} if config.rotary else {}
    return widths | rotated


def _contradictions(metadata: Mapping[str, Any], its: GGUF, config: GPTConfig) -> list[str]:
    """Keys whose sizes differ from those that the config implies."""
    sizes = {KEYS["n_kv_heads"]: config.kv_heads} | head_sizes(config)
    given = {key: _plain(metadata.get(f"{its.architecture}.{key}", size)) for key, size in sizes.items()}
    return [f"{key} is {shown(given[key])}, not {size}" for key, size in sizes.items() if _differs(given[key], (size,))]


def _scaled(config: GPTConfig, header: GGUFHeader, path: str | Path) -> GPTConfig:
    """The config with Llama 3's scaling, if the file has a tensor of the divisor of each frequency.

    Raises InputError if these divisors are not those of Llama 3, or if the keys ask for another scaling.
    """
    tensor = header.tensors.get(FREQUENCIES)
    if tensor is None:
        return config
    factors = read_float(path, tensor)
    scaled = replace(config, rope_factor=float(np.clip(np.nan_to_num(factors).max(initial=1), 1, 1e6)))
    plain, slowed = (
        rotary_frequencies(one.head_dim, one.rope_base, one.rope_factor, original_context=one.rope_original_context)
        for one in (config, scaled)
    )
    fits = factors.shape == plain.shape and np.allclose(factors, np.asarray(plain / slowed), TOLERANCE)
    if not fits:  # nor do they where the keys ask for a scaling too: `plain` is then slowed already
        raise InputError(
            f"{path} scales rotary frequencies by {FREQUENCIES} in another way than Llama 3, which this jaxllm cannot "
            "compute; use the model's Hugging Face folder."
        )
    return scaled
