"""Byte-pair tokenizers from and to the files of tiktoken and Hugging Face tokenizers.

What would give other ids than the program that wrote the file is refused, by name; transformers' converters drop such
settings in silence.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError
from jaxllm.files import read_file, replace_file
from jaxllm.tokenizers.base import END_OF_TEXT
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.pieces import GPT2_PATTERN
from jaxllm.tokenizers.vocabulary import merges_of
from jaxllm.validate import printable, shown

# GPT-2 writes bytes as characters that can be seen: those that are printable in Latin-1 as themselves, the others, in
# order, as the characters from 256 on. (openai/gpt-2, src/encoder.py)
_SEEN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
TO_CHARACTER = {b: chr(b) for b in _SEEN} | {
    b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in _SEEN)
}
TO_BYTE = {character: b for b, character in TO_CHARACTER.items()}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# The orders in which the contractions are written down; each matches the same.
PATTERNS = {GPT2_PATTERN, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"}


def to_tiktoken(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write tiktoken's ranks: a line `BASE64 RANK` for each token. Special tokens are not in such a file."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tokenizer.ranks.items())
    replace_file(Path(path), "".join(lines).encode())


def from_tiktoken(path: str | Path, special_tokens: Sequence[str] = (END_OF_TEXT,)) -> BPETokenizer:
    """The tokenizer of tiktoken's ranks under GPT-2's pattern; special tokens take the next ids.

    Raises InputError naming the line that is wrong, or what is missing.
    """
    tokens: list[bytes] = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        parts = line.split()
        try:
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (IndexError, ValueError, binascii.Error):
            raise InputError(f"line {number:,} of {path} is not a token in base64 and its rank.") from None
        if rank != len(tokens) or not token:
            raise InputError(f"line {number:,} of {path} has rank {shown(rank)}, where {len(tokens)} would follow.")
        tokens.append(token)
    return BPETokenizer(_checked(tokens, path), special_tokens)


def to_hugging_face(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write a `tokenizer.json` that `tokenizers` and transformers open, for the same ids.

    (They take a special token that is written in a text for the token itself; `encode` does where it is allowed to.)
    Raises InputError for a vocabulary that has no list of merges.
    """
    # Special tokens are in both lists: Hugging Face gives one outside the vocabulary the next id, whatever it says.
    vocabulary = {_characters(token): i for token, i in tokenizer.ranks.items()} | tokenizer.special_tokens
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": vocabulary, "merges": [[_characters(a), _characters(b)] for a, b in merges_of(tokenizer)],
    }  # fmt: skip
    added = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for name, i in tokenizer.special_tokens.items()
    ]  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL, "model": model,
    }  # fmt: skip
    replace_file(Path(path), json.dumps(content, ensure_ascii=False, indent=1).encode())


def from_hugging_face(path: str | Path) -> BPETokenizer:
    """The byte-level BPE of a `tokenizer.json` with GPT-2's pattern: the same ids, special tokens where they are.

    Raises InputError for a damaged file, and for a setting that would give other ids.
    """
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a tokenizer.json: it is not JSON.") from None
    try:
        model, added = content["model"], {one["content"]: one["id"] for one in content.get("added_tokens") or []}
        _check_settings(content, path)
        vocabulary: dict[str, int] = dict(model["vocab"]) | added
        tokens = {_bytes(name): i for name, i in model["vocab"].items() if name not in added}
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        joined = [_bytes(a) + _bytes(b) for a, b in merges]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        what = printable(str(error))
        raise InputError(f"{path} is no tokenizer.json of byte-level BPE: {type(error).__name__}, {what}.") from None
    ids = list(vocabulary.values())
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise InputError(f"the ids in {path} are not 0 to {len(ids) - 1}, each once.")
    ordered = sorted(tokens, key=tokens.__getitem__)
    if [token for token in ordered if len(token) > 1] != joined:
        raise InputError(f"the merges in {path} are not in the order of the ids, which is not supported.")
    return BPETokenizer(_checked(ordered, path), added)


def _check_settings(content: dict[str, Any], path: str | Path) -> None:
    model = content["model"]
    wrong = [name for name in ("normalizer", "truncation", "padding") if content.get(name)]
    wrong += [f"model.{name}" for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                           "byte_fallback", "ignore_merges") if model.get(name)]  # fmt: skip
    if model.get("type", "BPE") != "BPE":
        wrong.append(f"model.type {shown(model.get('type'))}")
    if not _is_gpt2s(content.get("pre_tokenizer")):
        wrong.append("a pre_tokenizer that is not GPT-2's")
    if (content.get("post_processor") or {"type": "ByteLevel"}).get("type") != "ByteLevel":
        wrong.append("a post_processor that adds tokens")
    if wrong:
        raise InputError(f"{path} has {' and '.join(wrong)}, which would give other ids and is not supported.")


def _is_gpt2s(pre_tokenizer: Any) -> bool:
    """ByteLevel with the pattern built in, or a split by the same pattern before it."""
    if not isinstance(pre_tokenizer, dict):
        return False
    if pre_tokenizer.get("type") == "Sequence":
        split, *rest = pre_tokenizer.get("pretokenizers") or [{}]
        split_is = split.get("type") == "Split" and split.get("pattern", {}).get("Regex") in PATTERNS
        split_is = split_is and split.get("behavior") == "Isolated" and not split.get("invert")
        return split_is and len(rest) == 1 and _is_byte_level(rest[0], use_regex=False)
    return _is_byte_level(pre_tokenizer, use_regex=True)


def _is_byte_level(pre_tokenizer: dict[str, Any], use_regex: bool) -> bool:
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("add_prefix_space") is False
        and pre_tokenizer.get("use_regex", True) is use_regex
    )


def _characters(token: bytes) -> str:
    return "".join(TO_CHARACTER[b] for b in token)


def _bytes(characters: str) -> bytes:
    try:
        return bytes(TO_BYTE[c] for c in characters)
    except KeyError as error:
        raise InputError(f"token {shown(characters)} holds {shown(error.args[0])}, which stands for no byte.") from None


def _checked(tokens: list[bytes], path: str | Path) -> list[bytes]:
    if len(set(tokens)) != len(tokens) or {token for token in tokens if len(token) == 1} != {
        bytes([b]) for b in range(256)
    }:
        raise InputError(f"{path} must hold each of the 256 bytes, and no token twice.")
    return tokens


def _read(path: str | Path) -> str:
    try:
        return read_file(path).decode()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}."
        ) from None
