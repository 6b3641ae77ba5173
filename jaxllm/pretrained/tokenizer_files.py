"""The tokenizer's files in a Hugging Face folder, read and written.

transformers gathers what it knows of a tokenizer from up to six files, of which the later ones win, and rebuilds some
tokenizers from a class instead of their tokenizer.json; here tokenizer.json is what counts, `added_tokens` adds what
the others say of tokens, and they say how texts and conversations begin and end.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.pretrained.added_tokens import (
    CONFIG,
    add_tokens,
    is_outside,
    named_tokens,
    optional_json,
    read_config,
    tell_ids,
    tell_missing,
)
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.tokenizers.formats import to_hugging_face
from jaxllm.tokenizers.formats.read_tokenizer_json import begin_token_of, tokenizer_of
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import pre_tokenizer_of
from jaxllm.utils.errors import InputError, as_input_error
from jaxllm.utils.files import read_json, read_text, replace_file
from jaxllm.utils.validate import shown

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
GENERATION, MODEL = "generation_config.json", "config.json"
# Of folders without tokenizer.json: the pattern and the normalizer of a tokenizer_class.
CLASSES: dict[str, tuple[str, Any]] = {"GPT2Tokenizer": ("gpt2", None), "Qwen2Tokenizer": ("qwen2", {"type": "NFC"})}


def load_tokenizer_files(
    folder: str | Path, vocab_size: int | None = None
) -> tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]:
    """The tokenizer of a folder with tokenizer.json, or vocab.json and merges.txt, and how its conversations go.

    A model may have a larger `vocab_size` than its tokenizer; the ids that are left get special tokens that no text
    has, `[PAD151669]`, as in llama.cpp's files. Warns with a Note of a token that a file names, or whose id it gives,
    and that the tokenizer does not have. Raises InputError for files that are missing or damaged, and for what is not
    supported.
    """
    folder = Path(folder)
    with as_input_error(folder, "folder with a tokenizer of Hugging Face's"):
        config = read_config(folder)
        content = (
            read_json(folder / TOKENIZER, TOKENIZER) if (folder / TOKENIZER).exists() else _of_two_files(folder, config)
        )
        names = named_tokens(config)
        add_tokens(folder, content, config, names)
        _fill(content, vocab_size or 0)
        tokenizer = tokenizer_of(content, folder / TOKENIZER).ending_documents_with(names["eos_token"])
        begin_token = _begin_token(folder, content, config, names["bos_token"], tokenizer.special_tokens)
        if names["eos_token"] is None and END_OF_TEXT in tokenizer.special_tokens:
            names["eos_token"] = END_OF_TEXT
        end_tokens = _end_tokens(folder, tokenizer, tokenizer.special_tokens.get(names["eos_token"] or ""))
        tell_missing(config, names, {**tokenizer.special_tokens, **tokenizer.added}, ends=bool(end_tokens))
        return tokenizer, ChatFormat(
            begin_token, end_tokens, names["bos_token"], names["eos_token"], _template(folder, config)
        )


def _begin_token(
    folder: Path, content: Any, config: dict[str, Any], bos_token: str | None, special_tokens: Mapping[str, int]
) -> int | None:
    """The id that is put before each text, as tokenizer_config.json says, or tokenizer.json where it says nothing.

    `add_bos_token` without a bos_token says nothing, as in transformers. (transformers 5.24 follows `add_bos_token` in
    folders without tokenizer.json only.) Raises InputError where the token that is to be put there does not exist.
    """
    wanted = config.get("add_bos_token")
    if wanted is False:
        return None
    if wanted is not True or bos_token is None:
        return begin_token_of(content, folder / TOKENIZER)
    if bos_token not in special_tokens:
        raise InputError(
            f"{folder} puts bos_token {shown(bos_token)} before each text, but the tokenizer has no such token; "
            f"correct it in {CONFIG}, or set add_bos_token to false there."
        )
    return special_tokens[bos_token]


def save_tokenizer_files(folder: str | Path, tokenizer: Tokenizer, chat_format: ChatFormat | None = None) -> None:
    """Write what transformers' AutoTokenizer opens for the same ids, and generation_config.json for where answers end.

    Raises InputError for a tokenizer that has no such form, and OSError where a file cannot be written.
    """
    folder, chat = Path(folder), chat_format or ChatFormat()
    to_hugging_face(tokenizer, folder / TOKENIZER, chat.begin_token)
    named = {"bos_token": chat.bos_token, "eos_token": chat.eos_token}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{key: name for key, name in named.items() if name is not None},
    }
    _write(folder / CONFIG, json.dumps(config, indent=2))
    if chat.end_tokens:
        _write(folder / GENERATION, json.dumps({"eos_token_id": list(chat.end_tokens)}, indent=2))
    if chat.chat_template is not None:
        _write(folder / TEMPLATE, chat.chat_template)


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode())


def _of_two_files(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """vocab.json and merges.txt as a tokenizer.json would have them."""
    if not all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
        raise InputError(
            f"{folder} has no {TOKENIZER}, nor vocab.json and merges.txt; save it with transformers' AutoTokenizer "
            "first."
        )
    kind = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if kind not in CLASSES:
        raise InputError(
            f"{folder} has no {TOKENIZER}, without which this jaxllm reads the tokenizers {', '.join(CLASSES)}, not "
            f"{shown(kind)}; save it with transformers' AutoTokenizer first."
        )
    pattern, normalizer = CLASSES[kind]
    lines = read_text(folder / "merges.txt").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    model = {"type": "BPE", "vocab": read_json(folder / "vocab.json", "vocab.json"), "merges": merges}
    if kind == "GPT2Tokenizer" and config.get("add_bos_token"):
        config.setdefault("bos_token", END_OF_TEXT)  # which that class puts there where no file names one
    return {"model": model, "pre_tokenizer": pre_tokenizer_of(pattern), "normalizer": normalizer}


def _fill(content: Any, vocab_size: int) -> None:
    taken = {*content["model"]["vocab"].values(), *(one["id"] for one in content["added_tokens"])}
    free = [i for i in range(vocab_size) if i not in taken]
    content["added_tokens"] += [{"content": f"[PAD{i}]", "id": i} for i in free]


def _end_tokens(folder: Path, tokenizer: Tokenizer, eos_token: int | None) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json or else of config.json, and the tokenizer's."""
    files = {name: optional_json(folder / name) for name in (GENERATION, MODEL)}
    for name, fields in files.items():
        tell_ids(name, fields, tokenizer.vocab_size)
    given = next((ids for fields in files.values() if (ids := fields.get("eos_token_id")) is not None), None)
    ids = [i for i in (given if isinstance(given, list) else [given]) if not is_outside(i, tokenizer.vocab_size)]
    return tuple(dict.fromkeys(i for i in (*ids, eos_token) if i is not None))


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / TEMPLATE).exists():
        return read_text(folder / TEMPLATE)
    given = config.get("chat_template")
    if isinstance(given, list):  # of several, by name
        return {one["name"]: one["template"] for one in given}.get("default")
    return given
