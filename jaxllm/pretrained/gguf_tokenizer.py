"""The tokenizer and the chat format in the keys of a GGUF file.

A file names its pre-tokenizer; those whose pattern is known to give the same ids are supported. What a file leaves
open is decided by the names of tokens, as in llama.cpp (src/llama-vocab.cpp).
"""

import warnings
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.tokenizers.formats.byte_level import from_vocabulary
from jaxllm.tokenizers.special_tokens import NO_STRIPS
from jaxllm.utils.errors import InputError, Note, as_input_error, shown

KEY, NAME = "tokenizer.ggml.", "general.name"
MOST_CHARACTERS = 1024  # of a token; published vocabularies have at most a few hundred
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of tokens (ggml-org/llama.cpp, include/llama.h)


class PreTokenizer(NamedTuple):
    """What the name of a pre-tokenizer stands for. (ggml-org/llama.cpp, src/llama-vocab.cpp and conversion/base.py)"""

    pattern: str
    normalization: str | None = None  # of the models with this name; no key of the file says so
    whole_pieces: bool = False  # whether a piece that is a token is encoded as that token
    begins: bool = False  # whether a begin token is put before each text unless the file says otherwise


LLAMA3 = PreTokenizer("llama3", whole_pieces=True, begins=True)
# By the value of `tokenizer.ggml.pre`. Where several stand for the same, the first is written.
PRE_TOKENIZERS = {
    **dict.fromkeys(("gpt-2", "phi-2"), PreTokenizer("gpt2")),
    **dict.fromkeys(("olmo", "mpt"), PreTokenizer("gpt2", "NFC")),  # the tokenizer of GPT-NeoX, also Pythia's
    **dict.fromkeys(("smollm", "starcoder"), PreTokenizer("smollm")),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer("llama3")),  # also OLMo 2's and Phi-4's
    "qwen2": PreTokenizer("qwen2", "NFC"),
}
# llama.cpp knows by the model's name that Phi-3's tokens take the white space after them, all but these.
TAKING_SPACES, NOT_TAKING = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")
ROLES = ("bos", "eos", "eot", "eom")
# Names of tokens that end an answer, in addition to those that the file names. (llama.cpp, src/llama-vocab.cpp)
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")


def read_gguf_tokenizer(
    metadata: Mapping[str, Any], path: str | Path
) -> tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]:
    """The tokenizer and the chat format of the metadata that `gguf.read_header` returns.

    Raises InputError if keys are missing or damaged, or if the kind of tokenizer is not supported. Warns with a Note of
    an id of a role that no token has.
    """
    model, pre = (str(metadata.get(KEY + key)) for key in ("model", "pre"))
    if model != "llama" and (model != "gpt2" or pre not in PRE_TOKENIZERS):
        raise InputError(
            f"{path} has a tokenizer of model {shown(model)} and pre-tokenizer {shown(pre)}, but this jaxllm reads "
            f"llama, and gpt2 with {', '.join(PRE_TOKENIZERS)}."
        )
    tokenizer: BPETokenizer | SentencePieceTokenizer
    with as_input_error(path, "GGUF file with a tokenizer of byte pairs"):
        vocabulary = _read_vocabulary(metadata, path)
        if model == "llama":
            tokenizer, begins = _sentencepiece(metadata, vocabulary), True
        else:
            tokenizer, begins = _byte_pairs(metadata, vocabulary, PRE_TOKENIZERS[pre], path), PRE_TOKENIZERS[pre].begins
        chat = _chat_format(metadata, vocabulary, begins)
        return tokenizer.ending_documents_with(chat.eos_token), chat


class _Vocabulary(NamedTuple):
    """The tokens of a file."""

    names: list[str]  # by id
    kinds: list[int]  # types by id
    ids: dict[str, int]
    added: dict[str, int]  # tokens that are not special and are found in any text


def _read_vocabulary(metadata: Mapping[str, Any], path: str | Path) -> _Vocabulary:
    """The tokens. Raises InputError if a name is repeated or too long, or a type is missing.

    Tokens that have a role or end an answer are special whatever their type is; llama.cpp corrects their types too.
    """
    names, kinds = metadata[KEY + "tokens"], np.asarray(metadata[KEY + "token_type"]).tolist()
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) != len(names) or len(kinds) != len(names):
        raise InputError(f"{path} holds a token twice, or not a type for each of its {len(names):,} tokens.")
    if (longest := max(map(len, ids), default=0)) > MOST_CHARACTERS:
        raise InputError(
            f"{path} holds a token of {longest:,} characters, more than the {MOST_CHARACTERS:,} allowed; convert the "
            "model again."
        )
    given = (metadata.get(f"{KEY}{role}_token_id") for role in (*ROLES, "unknown", "padding"))
    special = {i for i in given if isinstance(i, int | np.integer)}
    user_defined = {name: i for name, i in ids.items() if kinds[i] == USER_DEFINED}
    added = {name: i for name, i in user_defined.items() if i not in special and name not in ENDS}
    return _Vocabulary(names, kinds, ids, added)


def _strips(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> Mapping[str, str]:
    """The tokens that take white space, by the model's name. (llama.cpp, src/llama-vocab.cpp)"""
    model = str(metadata.get(NAME, "")).lower()
    if not any(name in model for name in TAKING_SPACES):
        return NO_STRIPS
    kinds = vocabulary.kinds
    taking = [name for name, i in vocabulary.ids.items() if kinds[i] in (UNKNOWN, CONTROL, USER_DEFINED)]
    return {name: "right" for name in taking if name not in NOT_TAKING}


def _byte_pairs(
    metadata: Mapping[str, Any], vocabulary: _Vocabulary, pre: PreTokenizer, path: str | Path
) -> BPETokenizer:
    _, kinds, ids, added = vocabulary
    special = {name: i for name, i in ids.items() if kinds[i] != NORMAL and name not in added}
    return from_vocabulary(
        ids, metadata[KEY + "merges"], special, pre.pattern, pre.normalization, path, pre.whole_pieces, added,
        strips=_strips(metadata, vocabulary),
    )  # fmt: skip


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> SentencePieceTokenizer:
    """The tokenizer, with scores converted to the list of merges that transformers makes of them.

    The merge with the highest score is first, then the one with the longest left part. Of different tokens with equal
    scores and lengths the one with the lower id is first.
    """
    _, kinds, ids, added = vocabulary
    scores = np.asarray(metadata[KEY + "scores"]).tolist()
    if len(scores) != len(ids):
        raise InputError(f"{KEY}scores has {len(scores):,} values for {len(ids):,} tokens; convert the model again.")
    merges = [
        (scores[i], split, len(name) - split, ids[name[:split]], ids[name[split:]])
        for name, i in ids.items()
        if kinds[i] == NORMAL
        for split in range(1, len(name))
        if name[:split] in ids and name[split:] in ids
    ]
    return SentencePieceTokenizer(
        list(ids),
        [(left, right) for *_, left, right in sorted(merges, key=itemgetter(0, 1, 2), reverse=True)],
        [name for name, i in ids.items() if kinds[i] not in (NORMAL, BYTE) and name not in added],
        list(added),
        "part" if metadata.get(KEY + "add_space_prefix", True) else "none",
        strips=_strips(metadata, vocabulary),
    )


def _token_ids(metadata: Mapping[str, Any], n_tokens: int) -> dict[str, int]:
    """The ids of ROLES. An id that no token has is left out with a warning, as in llama.cpp (src/llama-vocab.cpp).

    Converters write 4294967295 for a role without a token. llama.cpp then uses the default of the kind of tokenizer;
    here the role has no token. Raises InputError if an id is not an integer.
    """
    ids = {}
    for role in ROLES:
        key = f"{KEY}{role}_token_id"
        given = metadata.get(key)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int | np.integer):
            raise InputError(f"{key} is {shown(given)}, but it must be an integer; convert the model again.")
        if 0 <= given < n_tokens:
            ids[role] = int(given)
        else:
            note = Note(f"{key} is {given}, outside the {n_tokens:,} ids of the tokenizer; it is ignored.")
            warnings.warn(note, stacklevel=2)
    return ids


def _chat_format(metadata: Mapping[str, Any], vocabulary: _Vocabulary, begins: bool) -> ChatFormat:
    """The chat format; `begins` is whether a text begins with the begin token if the file does not say."""
    names, kinds, *_ = vocabulary
    ids = _token_ids(metadata, len(names))
    named = [i for i, name in enumerate(names) if name in ENDS and kinds[i] == CONTROL]
    return ChatFormat(
        begin_token=ids.get("bos") if metadata.get(KEY + "add_bos_token", begins) else None,
        end_tokens=tuple(dict.fromkeys([*(ids[key] for key in ids if key != "bos"), *named])),
        bos_token=names[ids["bos"]] if "bos" in ids else None,
        eos_token=names[ids["eos"]] if "eos" in ids else None,
        chat_template=metadata.get("tokenizer.chat_template"),
    )
