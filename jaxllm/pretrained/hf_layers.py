"""What differs from layer to layer in a config.json: sliding windows, and layers without positions.

Each family says it in its own words; a GPTConfig has the window and a letter for each layer (`layer_pattern`,
`rotary_pattern`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.pretrained.family import Family
from jaxllm.utils.errors import shown

SLIDING, FULL = "sliding_attention", "full_attention"
LETTERS = {SLIDING: "L", FULL: "G", "local": "L", "global": "G"}
Read = tuple[dict[str, Any], list[str]]  # fields of GPTConfig, and settings that a GPT cannot compute


def read_layers(family: Family, content: dict[str, Any]) -> Read:
    """Window and patterns of a parsed config.json, for a family in which layers may differ.

    A number of layers that is none is left to the check of GPTConfig.
    """
    n_layers = content.get(family.settings["n_layers"])
    if family.layers is None or type(n_layers) is not int or n_layers > 1000:
        return {}, []
    match family.layers:
        case "qwen":
            return _of_window(family, content, _letters_of_qwen(content, n_layers), "sliding_window", n_layers)
        case "gemma":
            return _of_window(family, content, _letters_of_gemma(family, content, n_layers), "sliding_window", n_layers)
        case "gpt_neo":
            return _of_window(family, content, _letters_of_gpt_neo(content), "window_size", n_layers)
    return _read_smollm3(family, content, n_layers)


def _letters_of_qwen(content: dict[str, Any], n_layers: int) -> Any:
    """The kinds of the layers: all global unless a window is switched on, else those before max_window_layers."""
    if not content.get("use_sliding_window"):
        return [FULL] * n_layers
    first = content.get("max_window_layers")
    first = 28 if first is None else first  # the default of transformers
    if content.get("layer_types") is not None or type(first) is not int:
        return content.get("layer_types", first)
    return [SLIDING if i >= first else FULL for i in range(n_layers)]


def _letters_of_gemma(family: Family, content: dict[str, Any], n_layers: int) -> Any:
    """The kinds of the layers: every second one of Gemma 2 is global, and by default every sixth one of Gemma 3."""
    every = content.get("sliding_window_pattern", 6) if family.rotary else 2
    if content.get("layer_types") is not None or type(every) is not int or every < 1:
        return content.get("layer_types", every)
    return [FULL if (i + 1) % every == 0 else SLIDING for i in range(n_layers)]


def _letters_of_gpt_neo(content: dict[str, Any]) -> Any:
    """The kinds of the layers, from pairs of a list of kinds and how often it is repeated."""
    types = content.get("attention_types") or [[["global", "local"], 12]]
    try:
        return list(islice((kind for kinds, times in types for _ in range(min(times, 1001)) for kind in kinds), 1001))
    except (TypeError, ValueError):
        return types


def _read_smollm3(family: Family, content: dict[str, Any], n_layers: int) -> Read:
    """Positions by no_rope_layers, 1 for layers that have them; by default layers without have the window."""
    every = content.get("no_rope_layer_interval", 4)
    rotated = content.get("no_rope_layers")
    if rotated is None:
        rotated = [int((i + 1) % every != 0) for i in range(n_layers)] if type(every) is int and every > 0 else every
    if not isinstance(rotated, list) or len(rotated) < n_layers or not all(one in (0, 1) for one in rotated):
        return {}, [f"no_rope_layers is {shown(rotated)}"]
    rotated = rotated[:n_layers]
    windowed = [FULL if one else SLIDING for one in rotated]
    kinds = (content.get("layer_types") or windowed) if content.get("use_sliding_window") else [FULL] * n_layers
    fields, obstacles = _of_window(family, content, kinds, "sliding_window", n_layers)
    letters = shortest("".join("R" if one else "N" for one in rotated))
    return fields | ({"rotary_pattern": letters} if letters != "R" else {}), obstacles


def _of_window(family: Family, content: dict[str, Any], kinds: Any, name: str, n_layers: int) -> Read:
    """The fields of layers of these kinds, with the window under a name of config.json."""
    if not isinstance(kinds, list) or len(kinds) != n_layers or not all(str(one) in LETTERS for one in kinds):
        return {}, [f"the kinds of the {n_layers} layers are {shown(kinds)}"]
    letters = shortest("".join(LETTERS[str(one)] for one in kinds))
    window = content.get(name, {"gpt_neo": 256, "smollm3": None}.get(family.layers or "", 4096))
    if "L" not in letters or window is None:
        return {}, []
    own_base = family.rotary is not None and family.rotary.local_base is not None
    return {"sliding_window": window} | ({"layer_pattern": letters} if letters != "L" or own_base else {}), []


def shortest(letters: str) -> str:
    """The shortest pattern that gives these letters when it is repeated and cut.

    >>> shortest("LGLGL"), shortest("LLL"), shortest("LLG")
    ('LG', 'L', 'LLG')
    """
    lengths = (n for n in range(1, len(letters) + 1) if all(a == b for a, b in zip(letters[n:], letters, strict=False)))
    return letters[: next(lengths, 0)]


def letters_of(config: GPTConfig) -> tuple[str, str]:
    """The kind of each layer, local or global, and whether it has rotary positions; patterns are written out.

    >>> letters_of(GPTConfig(n_layers=3, sliding_window=8, layer_pattern="LG"))
    ('LGL', 'NNN')
    """
    one = range(config.n_layers)
    kinds = config.layer_pattern or ("G" if config.sliding_window is None else "L")
    rotated = config.rotary_pattern or ("N" if config.rotary is None else "R")
    return "".join(kinds[i % len(kinds)] for i in one), "".join(rotated[i % len(rotated)] for i in one)


def write_layers(family: Family, config: GPTConfig) -> dict[str, Any]:
    """The settings of a family's config.json that say what differs from layer to layer."""
    letters, rotated = letters_of(config)
    types = [SLIDING if one == "L" else FULL for one in letters]
    window = config.sliding_window if "L" in letters else None
    match family.layers:
        case "qwen":
            return _write_qwen(letters, types, window)
        case "gemma":
            return {"sliding_window": window or 4096, "layer_types": types}
        case "gpt_neo":
            kinds = [["local" if one == "L" else "global" for one in letters], 1]
            return {"window_size": window or 256, "attention_types": [kinds]}
        case "smollm3":
            return {
                "sliding_window": window, "use_sliding_window": window is not None, "layer_types": types,
                "no_rope_layers": [int(one == "R") for one in rotated],
            }  # fmt: skip
    return {}


def _write_qwen(letters: str, types: Sequence[str], window: int | None) -> dict[str, Any]:
    """Layers before the first local one are global, which max_window_layers says, or their kinds are listed."""
    first = letters.find("L") if "L" in letters else len(letters)
    listed = {} if "G" not in letters[first:] else {"layer_types": list(types)}
    return {
        "sliding_window": window, "use_sliding_window": window is not None, "max_window_layers": first, **listed
    }  # fmt: skip
