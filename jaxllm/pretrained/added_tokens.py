"""What the small files beside tokenizer.json say of tokens: which there are, which are special, and which are named.

transformers 5.24 reads special_tokens_map.json and added_tokens.json only where tokenizer_config.json has no
added_tokens_decoder, and lets them win there; so it is here. A token that is named and does not exist gets a new id
from transformers, which the model's table may have no row for. Here it gets none, and a Note says so.
"""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.utils.errors import InputError, Note
from jaxllm.utils.files import read_json
from jaxllm.utils.validate import shown

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
DECODER = "added_tokens_decoder"  # of tokenizer_config.json: tokens by id
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
MORE = ("additional_special_tokens", "extra_special_tokens")  # lists of special tokens
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def optional_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds, or nothing where there is none."""
    return dict(read_json(path, path.name)) if path.exists() else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of tokenizer_config.json, over which those of special_tokens_map.json win where it is read."""
    config = optional_json(folder / CONFIG)
    return config if DECODER in config else config | optional_json(folder / SPECIAL)


def named_tokens(config: Mapping[str, Any]) -> dict[str, str | None]:
    """The tokens that have a role, by name."""
    return {key: _name(config.get(key)) for key in NAMES}


def _more(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role of NAMES, in lists or by roles of their own."""
    given = [config.get(key) or [] for key in MORE]
    lists = [list(tokens.values()) if isinstance(tokens, dict) else tokens for tokens in given]
    return [str(_name(token)) for tokens in lists if isinstance(tokens, list) for token in tokens]


def _name(token: Any) -> str | None:
    """A token by its name, or by a description of it."""
    return token["content"] if isinstance(token, dict) else token


def add_tokens(folder: Path, content: Any, config: Mapping[str, Any], names: Mapping[str, str | None]) -> None:
    """Put what the other files say of tokens where tokenizer.json has it.

    added_tokens_decoder says of any token whether it is special and where it is found; the ids of tokenizer.json and of
    the vocabulary count. added_tokens.json is asked only for tokens that are not there. Tokens that have a role are
    special in any case.
    """
    listed, vocabulary = {one["content"]: one for one in content.get("added_tokens") or []}, content["model"]["vocab"]
    ids = vocabulary | {name: one["id"] for name, one in listed.items()}
    for i, one in (config.get(DECODER) or {}).items():
        name, special = one["content"], bool(one.get("special"))
        listed[name] = {"normalized": not special, **one, "special": special, "id": ids.get(name, int(i))}
    roles = dict.fromkeys(name for name in names.values() if name is not None)
    named = roles | dict.fromkeys([END_OF_TEXT, *_more(config)])
    for name, i in (_read_added(folder / ADDED, vocabulary) if DECODER not in config else {}).items():
        special = name in named
        listed.setdefault(
            name, {"content": name, "id": ids.get(name, i), "special": special, "normalized": not special}
        )
    for name in named:
        if name in vocabulary:
            listed.setdefault(name, {"content": name, "id": vocabulary[name], "special": True})
    content["added_tokens"] = [one | {"special": True} if one["content"] in roles else one for one in listed.values()]


def _read_added(path: Path, vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The ids of tokens by their names. Raises InputError for what is none, and for an id that another token has."""
    added = read_json(path, path.name) if path.exists() else {}
    if not isinstance(added, dict) or not all(type(i) is int for i in added.values()):
        raise InputError(f'{path} must hold names with ids, such as {{"<|end|>": 50257}}; correct or delete it.')
    others = {i: name for name, i in vocabulary.items()}
    for name, i in added.items():
        if name not in vocabulary and i in others:
            raise InputError(
                f"{path} gives {shown(name)} the id {i}, which {shown(others[i])} has in the vocabulary; correct it."
            )
    return added


def tell_missing(
    config: Mapping[str, Any], names: Mapping[str, str | None], tokens: Collection[str], ends: bool
) -> None:
    """Warn of named tokens that are not among the tokenizer's; `ends` says that something ends an answer."""
    named = {key: [name] for key, name in names.items() if name is not None} | {MORE[0]: _more(config)}
    for key, given in named.items():
        if missing := [name for name in given if name not in tokens]:
            unending = key == "eos_token" and not ends
            note = f"{key} names {', '.join(map(shown, missing[:5]))}, but the tokenizer has no such token"
            end = "; nothing else ends an answer, so it goes on to --max-new-tokens." if unending else "."
            warnings.warn(Note(note + end), stacklevel=2)


def tell_ids(file: str, fields: Mapping[str, Any], vocab_size: int) -> None:
    """Warn of ids of a role that are outside the vocabulary."""
    for key in IDS:
        given = fields.get(key)
        if outside := [i for i in (given if isinstance(given, list) else [given]) if is_outside(i, vocab_size)]:
            note = f"{key} {', '.join(map(shown, outside[:5]))} of {file} is outside the vocabulary of"
            warnings.warn(Note(f"{note} {vocab_size:,} ids and is ignored."), stacklevel=2)


def is_outside(i: Any, vocab_size: int) -> bool:
    """Whether it is an id that no token has."""
    return type(i) is int and not 0 <= i < vocab_size
