"""Rotary positions that a family's config.json describes in its own words: partly rotated heads, two bases.

`common_rotary` puts them into the words of Llama, which `jaxllm.pretrained.hf_config` reads.
"""

from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.pretrained.family import Family, RotarySettings
from jaxllm.pretrained.hf_layers import FULL, SLIDING
from jaxllm.utils.errors import shown

SCALING, PARAMETERS = "rope_scaling", "rope_parameters"  # names of transformers 4 and 5


def common_rotary(family: Family, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The content with the rotary settings of Llama, fields of GPTConfig that those lack, and obstacles."""
    its = family.rotary
    if its is None:
        return content, {}, []
    name = SCALING if content.get(SCALING) else PARAMETERS
    given = content.get(name) or {}
    if not isinstance(given, dict):
        return content, {}, []  # refused where it is read
    fields: dict[str, Any] = {}
    if its.local_base is not None:
        unread = {key: value for key, value in content.items() if key not in (SCALING, PARAMETERS)}
        given, local = _of_two_kinds(given)
        scaled = not isinstance(local, dict) or _kind(local) != "default"
        if scaled or not isinstance(given, dict):
            kind, wrong = (SLIDING, local) if scaled else (FULL, given)
            return unread, {}, [f"the rope parameters of {kind} are {shown(wrong)}"]
        # transformers 5 looks for `truncate` in another place, and takes True.
        if _kind(given) == "yarn" and not given.get("truncate", True):
            return unread, {}, [f"truncate is {shown(given['truncate'])}"]
        fields["rope_local_base"] = local.get("rope_theta", content.get("rope_local_base_freq", its.local_base))
    kind = _kind(given)
    if not its.scaled and kind != "default":
        return content, {}, [f"rope_type is {shown(kind)}"]
    given = {"rope_theta": content.get(its.names[0], its.base)} | given
    if its.fraction is not None:
        fields["rotary_fraction"] = given.pop("partial_rotary_factor", content.get(its.names[1], its.fraction))
    rest = {key: value for key, value in content.items() if key not in (SCALING, PARAMETERS, its.names[1])}
    return rest | {name: given}, fields, []


def _kind(given: dict[str, Any]) -> Any:
    return given.get("rope_type", given.get("type", "default"))


def _of_two_kinds(given: dict[str, Any]) -> tuple[Any, Any]:
    """The rope parameters of global and of local layers, which transformers 5 nests and 4 does not."""
    return (given.get(FULL) or {}, given.get(SLIDING) or {}) if given.keys() & {FULL, SLIDING} else (given, {})


def write_rotary(family: Family, config: GPTConfig, common: dict[str, Any]) -> dict[str, Any]:
    """The settings of Llama in the family's own words. A scaling that it does not have is left out."""
    its = family.rotary or RotarySettings()
    content, parameters = dict(common), dict(common[PARAMETERS])
    if not its.scaled:
        content.pop(SCALING, None)
        parameters = {"rope_theta": config.rope_base, "rope_type": "default"}
    if its.fraction is not None:
        parameters["partial_rotary_factor"] = content[its.names[1]] = config.rotary_fraction
        content[its.names[0]] = content.pop("rope_theta")
    if its.local_base is not None:
        base = config.rope_base if config.rope_local_base is None else config.rope_local_base
        content["rope_local_base_freq"] = base
        return content | {PARAMETERS: {FULL: parameters, SLIDING: {"rope_type": "default", "rope_theta": base}}}
    return content | {PARAMETERS: parameters}
