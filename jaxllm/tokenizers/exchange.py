"""Byte-pair tokenizers from and to the files of tiktoken and Hugging Face tokenizers.

What would give other ids than the program that wrote the file is refused, by name.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.errors import InputError
from jaxllm.files import read_text, replace_file
from jaxllm.tokenizers.base import END_OF_TEXT, Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.byte_level import check_bytes
from jaxllm.tokenizers.read_tokenizer_json import tokenizer_of
from jaxllm.tokenizers.sentencepiece import SentencePieceTokenizer
from jaxllm.tokenizers.write_tokenizer_json import content_of
from jaxllm.validate import shown

__all__ = ["from_hugging_face", "from_tiktoken", "read_json", "read_text", "to_hugging_face", "to_tiktoken"]


def to_tiktoken(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write tiktoken's ranks: a line `BASE64 RANK` for each token. Neither special tokens nor the pattern are there."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tokenizer.ranks.items())
    replace_file(Path(path), "".join(lines).encode())


def from_tiktoken(
    path: str | Path, special_tokens: Sequence[str] = (END_OF_TEXT,), pattern: str = "gpt2"
) -> BPETokenizer:
    """The tokenizer of tiktoken's ranks under a pattern of PATTERNS; special tokens take the next ids.

    Raises InputError naming the line that is wrong, or what is missing.
    """
    tokens: list[bytes] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split()
        try:
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (IndexError, ValueError, binascii.Error):
            raise InputError(f"line {number:,} of {path} is not a token in base64 and its rank.") from None
        if rank != len(tokens) or not token:
            raise InputError(f"line {number:,} of {path} has rank {shown(rank)}, where {len(tokens)} would follow.")
        tokens.append(token)
    check_bytes(tokens, path)
    if sum(len(token) == 1 for token in tokens) < 256:
        raise InputError(f"{path} must hold each of the 256 bytes.")
    return BPETokenizer(tokens, special_tokens, pattern)


def to_hugging_face(tokenizer: Tokenizer, path: str | Path, begin_token: int | None = None) -> None:
    """Write a `tokenizer.json` that `tokenizers` and transformers open, for the same ids; there `begin_token`, a
    special token's id, is put before each text.

    (They take a special token that is written in a text for the token itself; `encode` does where it is allowed to.)
    Raises InputError for a tokenizer of words.
    """
    content = content_of(tokenizer, begin_token)
    replace_file(Path(path), json.dumps(content, ensure_ascii=False, indent=1).encode())


def from_hugging_face(path: str | Path) -> BPETokenizer | SentencePieceTokenizer:
    """The byte pairs of a `tokenizer.json`, by a pattern of PATTERNS or as SentencePiece has them: the same ids.

    A token that the file puts before each text is left to `begin_token_of`. Raises InputError for a damaged file, and
    for a setting that would give other ids.
    """
    return tokenizer_of(read_json(path), path)


def read_json(path: str | Path, what: str = "tokenizer.json") -> Any:
    """What the JSON file holds that is called `what`.

    Raises InputError for one that is no JSON, cannot be read or has over MOST_BYTES.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a {what}: it is not JSON.") from None
