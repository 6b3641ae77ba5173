"""Writing a tokenizer.json that Hugging Face tokenizers and transformers open, for the same ids."""

import json
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.base import Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.char import CharTokenizer
from jaxllm.tokenizers.formats.byte_level import listed_merges, to_characters
from jaxllm.tokenizers.formats.read_tokenizer_json import PREPEND, SCHEMES, TO_SPACE
from jaxllm.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from jaxllm.tokenizers.split_patterns import pre_tokenizer_of
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import replace_file

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
MODEL = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
CONTENT: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": MODEL,
}  # fmt: skip


def to_hugging_face(tokenizer: Tokenizer, path: str | Path, begin_token: int | None = None) -> None:
    """Write a `tokenizer.json` that Hugging Face tokenizers and transformers open, for the same ids.

    They put `begin_token`, a special token's id, before each text. They read a special token written in a text as the
    token itself; our `encode` does so where it is allowed to. Raises InputError for a tokenizer of words.
    """
    content = content_of(tokenizer, begin_token)
    replace_file(Path(path), json.dumps(content, ensure_ascii=False, indent=1).encode())


def content_of(tokenizer: Tokenizer, begin_token: int | None = None) -> dict[str, Any]:
    """The content of the file that `to_hugging_face` writes.

    Raises InputError for a tokenizer of words, whose rules have no such form, and for a `begin_token` that is not
    special.
    """
    if isinstance(tokenizer, CharTokenizer):
        return _characters(tokenizer)
    if not isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
        raise InputError(f"a tokenizer of kind {tokenizer.kind} has no form in other programs; use byte pairs.")
    content = _byte_level(tokenizer) if isinstance(tokenizer, BPETokenizer) else _sentencepiece(tokenizer)
    if begin_token is not None:
        content["post_processor"] = _begin_with(tokenizer.special_tokens | tokenizer.added, begin_token)
    return content


def _byte_level(tokenizer: BPETokenizer) -> dict[str, Any]:
    # Special and added tokens are in both lists: Hugging Face gives one that is not in the vocabulary the next free id,
    # ignoring the id in the file.
    others = tokenizer.special_tokens | tokenizer.added
    vocabulary = {to_characters(token): i for token, i in tokenizer.ranks.items()}
    if twice := [name for name in others if name in vocabulary]:
        raise InputError(
            f"{shown(twice[0])} is a special or added token, and also how Hugging Face's files write token "
            f"{vocabulary[twice[0]]}; there each name has one id, so give it another name."
        )
    merges, whole_pieces = listed_merges(tokenizer)
    pairs = [[to_characters(left), to_characters(right)] for left, right in merges]
    return CONTENT | {
        "added_tokens": [_added_token(tokenizer, name, i, name in tokenizer.normalized) for name, i in others.items()],
        "normalizer": {"type": tokenizer.normalization} if tokenizer.normalization else None,
        "pre_tokenizer": pre_tokenizer_of(tokenizer.pattern),
        "decoder": BYTE_LEVEL,
        "model": MODEL | {"ignore_merges": whole_pieces, "vocab": vocabulary | others, "merges": pairs},
    }


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    added = [_added_token(tokenizer, name, i) for name, i in (tokenizer.special_tokens | tokenizer.added).items()]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    before: dict[str, Any] = {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, TO_SPACE]}}
    if tokenizer.prefix != "part":
        scheme = next(scheme for scheme, prefix in SCHEMES.items() if prefix == tokenizer.prefix)
        before = {
            "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        }
    if tokenizer.prefix != "none":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    tokens = tokenizer.tokens
    model = {
        "byte_fallback": True, "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [[tokens[left], tokens[right]] for left, right in tokenizer.merges],
    }  # fmt: skip
    return (
        CONTENT
        | before
        | {"added_tokens": added, "decoder": {"type": "Sequence", "decoders": decoders}, "model": MODEL | model}
    )


def _characters(tokenizer: CharTokenizer) -> dict[str, Any]:
    """`unk_token` is not in the vocabulary, so a character outside it is an error there too."""
    vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
    return CONTENT | {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<|unk|>"},
    }  # fmt: skip


def _added_token(tokenizer: Tokenizer, name: str, i: int, normalized: bool = False) -> dict[str, Any]:
    side = tokenizer.strips.get(name)
    return {
        "id": i, "content": name, "single_word": False, "lstrip": side in ("left", "both"),
        "rstrip": side in ("right", "both"), "normalized": normalized, "special": name in tokenizer.special_tokens,
    }  # fmt: skip


def _begin_with(tokens: dict[str, int], token: int) -> dict[str, Any]:
    name = next((name for name, i in tokens.items() if i == token), None)
    if name is None:
        raise InputError(f"begin_token is {token}, but must be the id of a special token.")
    single = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }  # fmt: skip
