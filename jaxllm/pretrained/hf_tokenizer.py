"""The tokenizer and the chat format of a Hugging Face folder, read and written.

tokenizer.json (or vocab.json with merges.txt) defines the tokenizer. The other files add tokens (`hf_added_tokens`) and
define how texts and conversations begin and end.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_added_tokens import (
    TOKENIZER_CONFIG,
    add_tokens,
    is_outside,
    named_tokens,
    optional_json,
    read_tokenizer_config,
    warn_of_missing_tokens,
    warn_of_outside_ids,
)
from jaxllm.pretrained.hf_folder import CONFIG, GENERATION_CONFIG
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.tokenizers.formats import to_hugging_face
from jaxllm.tokenizers.formats.read_tokenizer_json import begin_token_of, tokenizer_of
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import pre_tokenizer_of
from jaxllm.utils.errors import InputError, as_input_error, shown
from jaxllm.utils.files import read_json, read_text, replace_file

TOKENIZER, CHAT_TEMPLATE = "tokenizer.json", "chat_template.jinja"
# For folders without tokenizer.json: the pattern and the normalizer of each tokenizer_class.
CLASSES: dict[str, tuple[str, Any]] = {"GPT2Tokenizer": ("gpt2", None), "Qwen2Tokenizer": ("qwen2", {"type": "NFC"})}


def load_tokenizer_files(
    folder: str | Path, vocab_size: int | None = None
) -> tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]:
    """The tokenizer and the chat format of a folder with tokenizer.json, or with vocab.json and merges.txt.

    A model may have more ids than its tokenizer. Ids up to `vocab_size` that no token has get special tokens such as
    `[PAD151669]`, the names that llama.cpp's converter gives. Warns with a Note of a token or an id that a file names
    and the tokenizer lacks. Raises InputError if a file is missing or damaged, or if a setting that would change ids is
    not supported.
    """
    folder = Path(folder)
    with as_input_error(folder, "folder with a tokenizer of Hugging Face's"):
        config = read_tokenizer_config(folder)
        content = _read_content(folder, config)
        names = named_tokens(config)
        add_tokens(folder, content, config, names)
        _add_padding(content, vocab_size or 0)
        tokenizer = tokenizer_of(content, folder / TOKENIZER).ending_documents_with(names["eos_token"])
        begin_token = _begin_token(folder, content, config, names["bos_token"], tokenizer.special_tokens)
        if names["eos_token"] is None and END_OF_TEXT in tokenizer.special_tokens:
            names["eos_token"] = END_OF_TEXT
        end_tokens = _end_tokens(folder, tokenizer, tokenizer.special_tokens.get(names["eos_token"] or ""))
        warn_of_missing_tokens(config, names, {**tokenizer.special_tokens, **tokenizer.added}, ends=bool(end_tokens))
        return tokenizer, ChatFormat(
            begin_token, end_tokens, names["bos_token"], names["eos_token"], _chat_template(folder, config)
        )


def _begin_token(
    folder: Path, content: Any, config: dict[str, Any], bos_token: str | None, special_tokens: Mapping[str, int]
) -> int | None:
    """The id before each text, from `add_bos_token` in tokenizer_config.json, or else from tokenizer.json.

    `add_bos_token` without a bos_token is ignored, as in transformers. (transformers 5.24 follows `add_bos_token` only
    in folders without tokenizer.json.) Raises InputError if the tokenizer lacks the token.
    """
    wanted = config.get("add_bos_token")
    if wanted is False:
        return None
    if wanted is not True or bos_token is None:
        return begin_token_of(content, folder / TOKENIZER)
    if bos_token not in special_tokens:
        raise InputError(
            f"{folder} puts bos_token {shown(bos_token)} before each text, but the tokenizer has no such token; "
            f"correct it in {TOKENIZER_CONFIG}, or set add_bos_token to false there."
        )
    return special_tokens[bos_token]


def save_tokenizer_files(folder: str | Path, tokenizer: Tokenizer, chat_format: ChatFormat | None = None) -> None:
    """Write files that transformers' AutoTokenizer opens for the same ids, and the tokens that end an answer.

    Writes tokenizer.json, tokenizer_config.json and, if the chat format has them, generation_config.json and
    chat_template.jinja. Raises InputError if the tokenizer has no such form, and OSError if a file cannot be written.
    """
    folder, chat = Path(folder), chat_format or ChatFormat()
    to_hugging_face(tokenizer, folder / TOKENIZER, chat.begin_token)
    named = {"bos_token": chat.bos_token, "eos_token": chat.eos_token}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{key: name for key, name in named.items() if name is not None},
    }
    _write(folder / TOKENIZER_CONFIG, json.dumps(config, indent=2))
    if chat.end_tokens:
        _write(folder / GENERATION_CONFIG, json.dumps({"eos_token_id": list(chat.end_tokens)}, indent=2))
    if chat.chat_template is not None:
        _write(folder / CHAT_TEMPLATE, chat.chat_template)


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode())


def _read_content(folder: Path, config: dict[str, Any]) -> Any:
    """The content of tokenizer.json, or what it would be for vocab.json and merges.txt.

    In the second case a bos_token that the tokenizer_class has by default is added to `config`.
    """
    if (folder / TOKENIZER).exists():
        return read_json(folder / TOKENIZER, TOKENIZER)
    if not all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
        raise InputError(
            f"{folder} has no {TOKENIZER}, nor vocab.json and merges.txt; save it with transformers' AutoTokenizer "
            "first."
        )
    kind = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if kind not in CLASSES:
        raise InputError(
            f"{folder} has no {TOKENIZER}; without it this jaxllm reads the tokenizers {', '.join(CLASSES)}, not "
            f"{shown(kind)}; save it with transformers' AutoTokenizer first."
        )
    pattern, normalizer = CLASSES[kind]
    lines = read_text(folder / "merges.txt").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    model = {"type": "BPE", "vocab": read_json(folder / "vocab.json", "vocab.json"), "merges": merges}
    if kind == "GPT2Tokenizer" and config.get("add_bos_token"):
        config.setdefault("bos_token", END_OF_TEXT)  # the default of that class
    return {"model": model, "pre_tokenizer": pre_tokenizer_of(pattern), "normalizer": normalizer}


def _add_padding(content: Any, vocab_size: int) -> None:
    """Give each id below `vocab_size` that no token has a special token."""
    taken = {*content["model"]["vocab"].values(), *(one["id"] for one in content["added_tokens"])}
    free = [i for i in range(vocab_size) if i not in taken]
    content["added_tokens"] += [{"content": f"[PAD{i}]", "id": i} for i in free]


def _end_tokens(folder: Path, tokenizer: Tokenizer, eos_token: int | None) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, or else of config.json; and `eos_token`."""
    files = {name: optional_json(folder / name) for name in (GENERATION_CONFIG, CONFIG)}
    for name, fields in files.items():
        warn_of_outside_ids(name, fields, tokenizer.vocab_size)
    given = next((ids for fields in files.values() if (ids := fields.get("eos_token_id")) is not None), None)
    ids = [i for i in (given if isinstance(given, list) else [given]) if not is_outside(i, tokenizer.vocab_size)]
    return tuple(dict.fromkeys(i for i in (*ids, eos_token) if i is not None))


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / CHAT_TEMPLATE).exists():
        return read_text(folder / CHAT_TEMPLATE)
    given = config.get("chat_template")
    if isinstance(given, list):  # several templates by name
        return {one["name"]: one["template"] for one in given}.get("default")
    return given
