"""Byte-pair tokenizers from and to the files of tiktoken and Hugging Face tokenizers.

What would give other ids than the program that wrote the file is refused, by name.
"""

import json
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.base import Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.formats.read_tokenizer_json import tokenizer_of
from jaxllm.tokenizers.formats.tiktoken_files import from_tiktoken, to_tiktoken
from jaxllm.tokenizers.formats.write_tokenizer_json import content_of
from jaxllm.tokenizers.sentencepiece import SentencePieceTokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_text, replace_file

__all__ = ["from_hugging_face", "from_tiktoken", "read_json", "read_text", "to_hugging_face", "to_tiktoken"]


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
