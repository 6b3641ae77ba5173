"""The config.json of a Hugging Face folder to a GPTConfig, and a GPTConfig to a config.json.

A model is refused if a setting asks for what a GPT cannot compute. All such settings are in one message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.config_rules import rotated_width
from jaxllm.pretrained.families import FAMILIES, Family
from jaxllm.pretrained.hf_layers import letters_of, read_layers, write_layers
from jaxllm.pretrained.hf_rotary import common_rotary, write_rotary
from jaxllm.pretrained.rope_scaling import FIELDS, is_scaled, read_scaling, scaling_fields, write_scaling
from jaxllm.utils.errors import InputError, shown

EXPERTS, EXPERTS_OF_5 = "num_experts", "num_local_experts"  # the names of one setting in transformers 4 and 5
Fields = dict[str, Any]  # of GPTConfig
Obstacles = list[str]  # settings that a GPT cannot compute


# ---- reading


def read_hf_config(content: Any, path: str | Path) -> tuple[Family, GPTConfig]:
    """The family and the GPTConfig of a parsed config.json, written by transformers 4 or 5; `path` is for messages.

    Dropout is left at 0. Raises InputError if the family is not supported, or if settings are missing, out of range or
    ask for what a GPT cannot compute; the message lists all of them.
    """
    if not isinstance(content, dict):
        raise InputError(f"{path} is {shown(content)}, but must be a table of settings; download it again.")
    family = _find_family(content, path)
    fields, obstacles = _read_named(family, content)
    common, own_fields, own_obstacles = common_rotary(family, content)
    for more_fields, more_obstacles in (
        (own_fields, own_obstacles),
        _read_rope(family, common),
        read_layers(family, content),
    ):
        fields, obstacles = fields | more_fields, obstacles + more_obstacles
    if "L" not in fields.get("layer_pattern", ""):
        fields.pop("rope_local_base", None)
    return family, make_config(fields | dict(family.fixed), obstacles, path)


def make_config(fields: Mapping[str, Any], obstacles: Iterable[str], path: str | Path) -> GPTConfig:
    """The GPTConfig of the fields. Raises InputError if there are obstacles or a field is out of range."""
    if obstacles := list(obstacles):
        raise InputError(f"{path} describes a model that this jaxllm cannot compute: {', '.join(obstacles)}.")
    try:
        return GPTConfig(**fields)
    except InputError as error:
        raise InputError(f"{path} describes a model that this jaxllm cannot compute: {error}") from None


def _find_family(content: dict[str, Any], path: str | Path) -> Family:
    """The family by `architectures`, or by `model_type` if there are none."""
    architectures = content.get("architectures") or []
    for family in FAMILIES:
        if architectures == [family.architecture] or (
            not architectures and content.get("model_type") == family.model_type
        ):
            return family
    name = architectures[0] if isinstance(architectures, list) and architectures else content.get("model_type")
    raise InputError(
        f"{path} is of the architecture {shown(name)}, but this jaxllm reads "
        f"{', '.join(family.architecture for family in FAMILIES)}."
    )


def _read_named(family: Family, content: dict[str, Any]) -> tuple[Fields, Obstacles]:
    """The settings that the family lists by name."""
    given = dict(family.defaults) | content
    if EXPERTS in family.settings.values() and EXPERTS not in content and EXPERTS_OF_5 in content:
        given[EXPERTS] = content[EXPERTS_OF_5]
    fields = {field: given[name] for field, name in family.settings.items() if name in given}
    obstacles = [f"{name} is missing" for name in family.settings.values() if name not in given]
    for name, values in family.harmless.items():
        if (value := content.get(name, values[0])) not in values:
            obstacles.append(f"{name} is {shown(value)}")
    activation = given[family.settings["activation"]]
    if "attention_scale" in fields:
        fields["attention_scale"] = _power(fields["attention_scale"], -0.5)
    fields["activation"] = family.activations.get(activation) if isinstance(activation, str) else None
    if fields["activation"] is None:
        obstacles.append(f"{family.settings['activation']} is {shown(activation)}")
    if fields.get("n_experts") == 0 and "intermediate_size" in content:
        fields["d_ff"] = content["intermediate_size"]  # the width of the MLPs of a model without experts
    return fields, obstacles


def _power(x: Any, exponent: float) -> Any:
    """x to a power; what is no positive number as it is, for the check of GPTConfig."""
    return x**exponent if type(x) in (int, float) and 0 < x < 1e30 else x


def _read_rope(family: Family, content: dict[str, Any]) -> tuple[Fields, Obstacles]:
    """Base and scaling of the rotary frequencies."""
    if family.fixed["position"] != "rotary":
        return {}, []
    # The name of transformers 4 is first: if a file has both, transformers 5 takes it too.
    given = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        return {}, [f"the rope parameters are {shown(given)}"]
    fields = {"rope_base": given.get("rope_theta", content.get("rope_theta", 10000.0))}
    scaling, obstacles = read_scaling(given, content)
    fields |= scaling
    rotated = given.get("partial_rotary_factor", content.get("partial_rotary_factor"))
    if rotated not in (None, 1):
        obstacles.append(f"partial_rotary_factor is {shown(rotated)}")
    return fields, obstacles


# ---- writing


def write_hf_config(family: Family, config: GPTConfig, dtype: str) -> dict[str, Any]:
    """The content of a config.json for transformers 5, which 4 reads too.

    Fields that the family has no setting for are left out; `family_for` finds a family that needs none of them.
    """
    values = numeric_fields(config)
    content: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type, "dtype": dtype}
    content |= {name: values.get(field, getattr(config, field)) for field, name in family.settings.items()}
    names = [name for name, ours in family.activations.items() if ours == config.activation]
    content[family.settings["activation"]] = (names or list(family.activations))[0]
    content |= {name: values[0] for name, values in family.harmless.items() if values[0] is not None}
    if "attention_scale" in family.settings:
        scale = config.attention_scale or config.head_dim**-0.5
        content[family.settings["attention_scale"]] = max(1, round(max(scale, 1e-6) ** -2))
    content |= write_layers(family, config)
    if family.fixed["position"] == "rotary":
        content |= write_rotary(family, config, _write_rope(config))
    return content


def _write_rope(config: GPTConfig) -> dict[str, Any]:
    """Base and scaling under the names of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters)."""
    parameters: dict[str, Any] = {"rope_theta": config.rope_base, "rope_type": "default"}
    content = {"rope_theta": config.rope_base, "rope_parameters": parameters}
    if is_scaled(config):
        scaling = write_scaling(config)
        parameters |= scaling
        content["rope_scaling"] = scaling
    return content


def numeric_fields(config: GPTConfig) -> dict[str, Any]:
    """The fields that the logits of one document depend on, with default sizes filled in.

    Two configs with equal numeric fields describe the same model. Interleaved rotary positions count as half-split
    ones, because parameters are written in that order, and muP as none, because its division is written into the
    final norm (`jaxllm.pretrained.save`).
    """
    fields = asdict(config)
    ngrams = ["ngram_rows"] if config.ngrams == 1 else []
    experts = [] if config.n_experts else ["n_experts_per_token", "normalise_experts"]
    for field in ("dropout", "separator", "zero_init", "mup_base_width", *ngrams, *experts):
        del fields[field]
    fields |= {"n_kv_heads": config.kv_heads, "d_head": config.head_dim, "d_ff": config.hidden_dim}
    fields |= _canonical(config)
    for field in FIELDS if config.rotary is not None else ("rope_base", "rope_local_base", *FIELDS):
        del fields[field]
    if config.rotary is not None:
        fields["position"] = "rotary"
    return fields | scaling_fields(config)


def _canonical(config: GPTConfig) -> dict[str, Any]:
    """Fields that say the same in several ways, in one of them: None where they change nothing."""
    kinds, rotated = letters_of(config)
    width, scale = config.head_dim, config.attention_scale
    turned = rotated_width(width, config.rotary_fraction)
    local_base = config.rope_base if config.rope_local_base is None and not is_scaled(config) else None
    return {
        "qkv_bias": None if config.qkv_bias == config.use_bias else config.qkv_bias,
        # A scale s is written as s^-2, which rounds it.
        "attention_scale": None if scale is None or abs(scale * width**0.5 - 1) < 1e-12 else float(f"{scale:.12g}"),
        "rotary_fraction": None if config.rotary is None or turned == width else turned,
        "sliding_window": config.sliding_window if "L" in kinds else None,
        "layer_pattern": kinds if len({*kinds}) > 1 else None,
        "rotary_pattern": rotated if config.rotary is not None and "N" in rotated else None,
        "rope_local_base": (config.rope_local_base or local_base) if {*kinds} >= {"L", "G"} else config.rope_local_base,
    }


def family_for(config: GPTConfig) -> Family:
    """The first family that can express the config.

    Raises InputError if there is none; the message names the nearest family and the fields that it lacks.
    """
    nearest, lacking = min(_lacking_of_each(config), key=lambda pair: len(pair[1]))
    if not lacking:
        return nearest
    fields = " and ".join(f"model.{field} = {shown(getattr(config, field))}" for field in lacking)
    raise InputError(
        f"no architecture of transformers that this jaxllm writes can express this model: {nearest.architecture} is "
        f"nearest, but has no {fields}."
    )


def families_for(config: GPTConfig) -> list[Family]:
    """All families that can express the config. Raises InputError as `family_for` does."""
    family_for(config)
    return [family for family, lacking in _lacking_of_each(config) if not lacking]


def _lacking_of_each(config: GPTConfig) -> list[tuple[Family, list[str]]]:
    """The fields that each family lacks.

    Left out are families of experts for a model without, and those whose heads must divide d_model if they do not.
    """
    families = [family for family in FAMILIES if config.n_experts or "n_experts" not in family.settings]
    if config.d_model % config.n_heads:
        families = [family for family in families if not family.whole_heads]
    return [(family, _lacking_fields(family, config)) for family in families]


def _lacking_fields(family: Family, config: GPTConfig) -> list[str]:
    """The fields that change when the config is written as the family's config.json and read again."""
    ours, theirs = numeric_fields(config), {**family.fixed}
    try:
        theirs = numeric_fields(read_hf_config(write_hf_config(family, config, "float32"), "config.json")[1])
    except InputError:  # a limit of a feature that the family has and the config does not use, such as rotary heads
        if all(ours[field] == value for field, value in theirs.items()):
            raise
        ours = {field: ours[field] for field in theirs}
    return [field for field, value in ours.items() if theirs.get(field) != value]
