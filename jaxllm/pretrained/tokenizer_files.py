"""The tokenizer's files in a Hugging Face folder, read and written.

transformers gathers what it knows of a tokenizer from up to six files, of which the later ones win, and rebuilds some
tokenizers from a class instead of their tokenizer.json; here tokenizer.json is what counts, and the others say only how
texts and conversations begin and end.
"""

import json
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError
from jaxllm.files import replace_file
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.tokenizers.base import END_OF_TEXT
from jaxllm.tokenizers.exchange import read_json, read_text, to_hugging_face
from jaxllm.tokenizers.patterns import pre_tokenizer_of
from jaxllm.tokenizers.read_tokenizer_json import as_input_error, begin_token_of, tokenizer_of
from jaxllm.validate import shown

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"
# Of folders without tokenizer.json: the pattern and the normalizer of a tokenizer_class.
CLASSES: dict[str, tuple[str, Any]] = {"GPT2Tokenizer": ("gpt2", None), "Qwen2Tokenizer": ("qwen2", {"type": "NFC"})}


def load_tokenizer_files(
    folder: str | Path, vocab_size: int | None = None
) -> tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]:
    """The tokenizer of a folder with tokenizer.json, or vocab.json and merges.txt, and how its conversations go.

    A model may have a larger `vocab_size` than its tokenizer; the ids that are left get special tokens that no text
    has, `[PAD151669]`, as in llama.cpp's files. Raises InputError for files that are missing or damaged, and for what
    is not supported.
    """
    folder = Path(folder)
    with as_input_error(folder, "folder with a tokenizer of Hugging Face's"):
        config = _optional(folder / "special_tokens_map.json") | _optional(folder / CONFIG)
        names = {key: _name(config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        content = read_json(folder / TOKENIZER) if (folder / TOKENIZER).exists() else _of_two_files(folder, config)
        _add_tokens(content, config, names)
        _fill(content, vocab_size or 0)
        tokenizer = tokenizer_of(content, folder / TOKENIZER)
        begin_token = begin_token_of(content, folder / TOKENIZER)
        if isinstance(config.get("add_bos_token"), bool):  # as in transformers 5, it is asked first
            begin_token = tokenizer.special_tokens[names["bos_token"] or ""] if config["add_bos_token"] else None
        if names["eos_token"] is None and tokenizer.end_of_text is not None:
            names["eos_token"] = END_OF_TEXT
        return tokenizer, ChatFormat(
            begin_token,
            _end_tokens(folder, tokenizer.special_tokens.get(names["eos_token"] or "")),
            names["bos_token"],
            names["eos_token"],
            _template(folder, config),
        )


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


def _optional(path: Path) -> dict[str, Any]:
    """What a JSON file holds, or nothing where there is none."""
    return dict(read_json(path, path.name)) if path.exists() else {}


def _name(token: Any) -> str | None:
    """A token by its name, or by a description of it."""
    return token["content"] if isinstance(token, dict) else token


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
    return {"model": model, "pre_tokenizer": pre_tokenizer_of(pattern), "normalizer": normalizer}


def _add_tokens(content: Any, config: dict[str, Any], names: dict[str, str | None]) -> None:
    """Special tokens that only the other files speak of, put where tokenizer.json has them."""
    added = content.get("added_tokens") or []
    known = {one["content"] for one in added}
    more = {one["content"]: {**one, "id": int(i)} for i, one in (config.get("added_tokens_decoder") or {}).items()}
    vocabulary = content["model"]["vocab"]
    more |= {
        name: {"content": name, "id": vocabulary[name]}
        for name in (*names.values(), END_OF_TEXT)
        if name in vocabulary and name not in more
    }
    content["added_tokens"] = [*added, *(one for name, one in more.items() if name not in known)]


def _fill(content: Any, vocab_size: int) -> None:
    taken = {*content["model"]["vocab"].values(), *(one["id"] for one in content["added_tokens"])}
    free = [i for i in range(vocab_size) if i not in taken]
    content["added_tokens"] += [{"content": f"[PAD{i}]", "id": i} for i in free]


def _end_tokens(folder: Path, eos_token: int | None) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json or else of config.json, and the tokenizer's."""
    given = _optional(folder / GENERATION).get("eos_token_id")
    given = _optional(folder / "config.json").get("eos_token_id") if given is None else given
    ids = given if isinstance(given, list) else [given]
    return tuple(dict.fromkeys(i for i in (*ids, eos_token) if i is not None))


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / TEMPLATE).exists():
        return read_text(folder / TEMPLATE)
    given = config.get("chat_template")
    if isinstance(given, list):  # of several, by name
        return {one["name"]: one["template"] for one in given}.get("default")
    return given
