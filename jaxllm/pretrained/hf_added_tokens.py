"""Added tokens, special tokens and their roles, from the files beside tokenizer.json in a Hugging Face folder.

special_tokens_map.json and added_tokens.json are read only if tokenizer_config.json has no added_tokens_decoder; they
then take precedence. (transformers 5.24) A named token that the tokenizer lacks gets no id, because the model's table
may have no row for it; a Note reports it.
"""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxllm.tokenizers import Tokenizer
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.utils.errors import InputError, Note, shown
from jaxllm.utils.files import read_json

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
DECODER = "added_tokens_decoder"  # in tokenizer_config.json: tokens by id
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
MORE_TOKENS = ("additional_special_tokens", "extra_special_tokens")  # special tokens without a role of ROLES
ROLE_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def optional_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file, or an empty one if there is no file."""
    return dict(read_json(path, path.name)) if path.exists() else {}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """The fields of tokenizer_config.json, overridden by those of special_tokens_map.json if that file is read."""
    config = optional_json(folder / TOKENIZER_CONFIG)
    return config if DECODER in config else config | optional_json(folder / SPECIAL_TOKENS_MAP)


def named_tokens(config: Mapping[str, Any]) -> dict[str, str | None]:
    """The token of each of ROLES, or None."""
    return {role: _content(config.get(role)) for role in ROLES}


def _more_tokens(config: Mapping[str, Any]) -> list[str]:
    """Special tokens of MORE_TOKENS, which are lists, or tables by roles of their own."""
    given = [config.get(key) or [] for key in MORE_TOKENS]
    lists = [list(tokens.values()) if isinstance(tokens, dict) else tokens for tokens in given]
    return [str(_content(token)) for tokens in lists if isinstance(tokens, list) for token in tokens]


def _content(token: Any) -> str | None:
    """The text of a token, which is given by its text or by a table of its properties."""
    return token["content"] if isinstance(token, dict) else token


def add_tokens(folder: Path, content: Any, config: Mapping[str, Any], names: Mapping[str, str | None]) -> None:
    """Merge the tokens of the other files into the `added_tokens` of `content`, a parsed tokenizer.json.

    added_tokens_decoder decides whether a token is special and where it is found; ids of tokenizer.json and of the
    vocabulary take precedence over its ids. added_tokens.json only adds tokens. Tokens that have a role in `names` are
    special in any case. Raises InputError if added_tokens.json is damaged.
    """
    listed, vocabulary = {one["content"]: one for one in content.get("added_tokens") or []}, content["model"]["vocab"]
    ids = vocabulary | {name: one["id"] for name, one in listed.items()}
    roles = dict.fromkeys(name for name in names.values() if name is not None)
    special = roles | dict.fromkeys([END_OF_TEXT, *_more_tokens(config)])
    if DECODER in config:
        listed |= _decoder_tokens(config[DECODER] or {}, ids)
    else:
        for name, one in _added_tokens(folder / ADDED_TOKENS, vocabulary, ids, special).items():
            listed.setdefault(name, one)
    for name in special:
        if name in vocabulary:
            listed.setdefault(name, {"content": name, "id": vocabulary[name], "special": True})
    content["added_tokens"] = [one | {"special": True} if one["content"] in roles else one for one in listed.values()]


def _decoder_tokens(decoder: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """The tokens of added_tokens_decoder by name, with the ids of `ids` where it has them."""
    tokens = {}
    for i, one in decoder.items():
        name, special = one["content"], bool(one.get("special"))
        tokens[name] = {"normalized": not special, **one, "special": special, "id": ids.get(name, int(i))}
    return tokens


def _added_tokens(
    path: Path, vocabulary: Mapping[str, int], ids: Mapping[str, int], special: Collection[str]
) -> dict[str, Any]:
    """The tokens of added_tokens.json by name, with the ids of `ids` where it has them."""
    return {
        name: {"content": name, "id": ids.get(name, i), "special": name in special, "normalized": name not in special}
        for name, i in _read_added(path, vocabulary).items()
    }


def _read_added(path: Path, vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The ids of added_tokens.json by name. Raises InputError if one is not an integer or belongs to another token."""
    added = read_json(path, path.name) if path.exists() else {}
    if not isinstance(added, dict) or not all(type(i) is int for i in added.values()):
        raise InputError(f'{path} must be a table of ids by name, such as {{"<|end|>": 50257}}; correct or delete it.')
    others = {i: name for name, i in vocabulary.items()}
    for name, i in added.items():
        if name not in vocabulary and i in others:
            raise InputError(
                f"{path} gives {shown(name)} the id {i}, which {shown(others[i])} has in the vocabulary; correct or "
                "delete the file."
            )
    return added


def without_ids_from(tokenizer: Tokenizer, size: int, needed: Collection[int | None] = ()) -> Tokenizer:
    """The tokenizer without its special and added tokens whose ids the model, of `size` ids, does not have.

    Such is Gemma 3's `<image_soft_token>` beside a model of text alone. Warns with a Note of them. A tokenizer with any
    other token there, or with one of the ids `needed`, is returned as it is.
    """
    others = {**tokenizer.special_tokens, **tokenizer.added}
    outside = [name for name, i in others.items() if i >= size and i not in (*needed, tokenizer.end_of_text)]
    if not outside or len(outside) < tokenizer.vocab_size - size:
        return tokenizer
    warnings.warn(
        Note(f"the model has {size:,} ids, so the tokens {', '.join(map(shown, outside[:5]))} beyond are left out."),
        stacklevel=2,
    )
    fields = tokenizer.to_dict()
    lists = ("special_tokens", "added", "normalized", *(("tokens",) if tokenizer.kind == "sentencepiece" else ()))
    kept = {key: _without(fields[key], outside) for key in (*lists, "strips") if key in fields}
    return tokenizer.from_dict({**fields, **kept})


def _without(names: Any, outside: Collection[str]) -> Any:
    """The list or table by name, without the names `outside`."""
    if isinstance(names, dict):
        return {name: value for name, value in names.items() if name not in outside}
    return [name for name in names if name not in outside]


def warn_of_missing_tokens(
    config: Mapping[str, Any], names: Mapping[str, str | None], tokens: Collection[str], ends: bool
) -> None:
    """Warn of named tokens that are not in `tokens`; `ends` is whether the model has a token that ends an answer."""
    named = {key: [name] for key, name in names.items() if name is not None} | {MORE_TOKENS[0]: _more_tokens(config)}
    for key, given in named.items():
        if missing := [name for name in given if name not in tokens]:
            note = f"{key} names {', '.join(map(shown, missing[:5]))}, but the tokenizer has no such token"
            endless = "; nothing else ends an answer, so it continues to --max-new-tokens"
            warnings.warn(Note(note + (endless if key == "eos_token" and not ends else "") + "."), stacklevel=2)


def warn_of_outside_ids(file: str, fields: Mapping[str, Any], vocab_size: int) -> None:
    """Warn of ids of a role in `fields`, read from `file`, that are outside the vocabulary."""
    for key in ROLE_IDS:
        given = fields.get(key)
        if outside := [i for i in (given if isinstance(given, list) else [given]) if is_outside(i, vocab_size)]:
            note = f"{key} {', '.join(map(shown, outside[:5]))} of {file} is outside the vocabulary of"
            warnings.warn(Note(f"{note} {vocab_size:,} ids and is ignored."), stacklevel=2)


def is_outside(i: Any, vocab_size: int) -> bool:
    """Whether `i` is an integer that is not an id of the vocabulary."""
    return type(i) is int and not 0 <= i < vocab_size
