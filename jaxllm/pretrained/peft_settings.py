"""The names in a PEFT folder, and of its adapter_config.json the settings that an adapter's numbers depend on.

Which modules an adapter is for follows from the names of its tensors, so that `target_modules` is not read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_SHA256 = "base_sha256"  # the entry of the metadata of ADAPTER_WEIGHTS that PEFT does not write
PREFIX = "base_model.model."  # of all names of tensors
T = TypeVar("T")
# Settings of LoRA that change nothing of what a finished adapter computes.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "fan_in_fan_out", "megatron_core",
    "loftq_config", "eva_config", "qalora_group_size",
}  # fmt: skip
# Settings of which only these values are computed. A first weight of another kind also changes the base model.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "task_type": (None, "CAUSAL_LM"), "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # fmt: skip
LITERAL = re.compile(r"\^?[\w.]+\$?")
Rank = Annotated[int, Meta(ge=1)]
Alpha = Annotated[float, Meta(gt=0, le=1e9)]


class LoraSettings(msgspec.Struct, frozen=True):
    """The settings that are read, under PEFT's names."""

    r: Rank
    lora_alpha: Alpha
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, Alpha] = {}
    use_rslora: bool = False
    ensure_weight_tying: bool = False

    def rank(self, module: str) -> int:
        """The rank of a module's adapter."""
        return looked_up(self.rank_pattern, module, self.r)

    def scale(self, module: str = "") -> float:
        """What multiplies a module's adapter: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023); "" for most."""
        rank, alpha = self.rank(module), looked_up(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))


def looked_up(pattern: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first name in the pattern that is the module's path or the end of it.

    >>> looked_up({"up_proj": 1, "^proj": 2}, "layers.0.up_proj", 3)
    1
    """
    for key, value in pattern.items():
        name = key.removeprefix("^").removesuffix("$")
        if module == name or (not key.startswith("^") and module.endswith(f".{name}")):
            return value
    return default


def read_settings(path: Path) -> LoraSettings:
    """The settings of an adapter_config.json.

    Raises InputError if it cannot be read, if a value is out of range, or if a setting is not supported: all such
    settings are in one message. A name that is not known is harmless as long as its value is false or empty.
    """
    content = read_json(path, ADAPTER_CONFIG)
    if not isinstance(content, dict):
        raise InputError(f"{path} is {shown(content)}, but must be a table of settings; download it again.")
    known = {*IGNORED, *ALLOWED, *LoraSettings.__struct_fields__}
    obstacles = [name for name, allowed in ALLOWED.items() if content.get(name, allowed[0]) not in allowed]
    obstacles += [name for name, value in content.items() if name not in known and value]
    if obstacles:
        found = ", ".join(f"{shown(name)} is {shown(content[name])}" for name in obstacles)
        raise InputError(
            f"{path} describes an adapter that this jaxllm cannot compute: {found}; merge it into its base model with "
            "PEFT, then import that."
        )
    try:
        settings = msgspec.convert(content, LoraSettings)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InputError(f"{path} is no settings of LoRA: {error}.") from None
    for key in (*settings.rank_pattern, *settings.alpha_pattern):
        if not LITERAL.fullmatch(key):
            raise InputError(f"{path} has a pattern {shown(key)}, but only names of modules are read; write them out.")
    return settings
