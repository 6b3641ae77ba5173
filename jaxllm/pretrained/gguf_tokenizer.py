"""The tokenizer and the chat template in the keys of a GGUF file.

llama.cpp knows each pre-tokenizer by a name that its converter gave it, and settles what a file leaves open by the
names of tokens; so it is here, for the names whose pattern is known to be exact.
"""

import warnings
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.tokenizers.formats.byte_level import from_vocabulary
from jaxllm.tokenizers.split_patterns import PATTERNS
from jaxllm.utils.errors import InputError, Note, as_input_error
from jaxllm.utils.validate import shown

KEY = "tokenizer.ggml."
MOST_CHARACTERS = 1024  # of a token; the longest of the vocabularies in use have a few hundred
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # types of tokens (ggml-org/llama.cpp, include/llama.h)
NAMES = {name: pattern for pattern, one in PATTERNS.items() for name in one.ggml}
NORMALIZED = {"qwen2": "NFC"}  # of patterns; the file does not say so
# Patterns whose tokenizers take a piece that is a token whole, and begin each text unless the file says otherwise.
WHOLE_PIECES = BEGINS = ("llama3",)
ROLES = ("bos", "eos", "eot", "eom")
# Of tokens that end an answer, also where the file names another one. (llama.cpp, src/llama-vocab.cpp)
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")


def read_gguf_tokenizer(
    metadata: Mapping[str, Any], path: str | Path
) -> tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]:
    """The tokenizer and the conversations of the keys that `gguf.read_header` gives.

    Raises InputError for keys that are missing or damaged, and for a kind of tokenizer that is not supported; warns of
    an id that no token has.
    """
    model, pre = (str(metadata.get(KEY + key)) for key in ("model", "pre"))
    if model != "llama" and (model != "gpt2" or pre not in NAMES):
        raise InputError(
            f"{path} has a tokenizer of model {shown(model)} and pre-tokenizer {shown(pre)}, but this jaxllm reads "
            f"llama, and gpt2 with {', '.join(NAMES)}."
        )
    with as_input_error(path, "GGUF file with a tokenizer of byte pairs"):
        names, kinds = metadata[KEY + "tokens"], np.asarray(metadata[KEY + "token_type"]).tolist()
        ids = {name: i for i, name in enumerate(names)}
        if len(ids) != len(names) or len(kinds) != len(names):
            raise InputError(f"{path} holds a token twice, or not a type for each of its {len(names):,} tokens.")
        if (longest := max(map(len, ids), default=0)) > MOST_CHARACTERS:
            raise InputError(
                f"{path} holds a token of {longest:,} characters, more than the {MOST_CHARACTERS:,} of any."
            )
        added = _added(metadata, ids, kinds)
        if model == "llama":
            pieces, chat = (
                _sentencepiece(metadata, ids, kinds, added),
                _chat_format(metadata, names, kinds, begins=True),
            )
            return pieces.ending_documents_with(chat.eos_token), chat
        pattern = NAMES[pre]
        tokenizer = from_vocabulary(
            ids,
            metadata[KEY + "merges"],
            {name: i for name, i in ids.items() if kinds[i] != NORMAL and name not in added},
            pattern,
            NORMALIZED.get(pattern),
            path,
            pattern in WHOLE_PIECES,
            added,
        )
        chat = _chat_format(metadata, names, kinds, pattern in BEGINS)
        return tokenizer.ending_documents_with(chat.eos_token), chat


def _added(metadata: Mapping[str, Any], ids: dict[str, int], kinds: list[int]) -> dict[str, int]:
    """The tokens that are found in any text. Those that have a role or end answers are special, whatever their type is;
    llama.cpp corrects the types of such tokens, too."""
    given = (metadata.get(f"{KEY}{role}_token_id") for role in ("bos", "eos", "eot", "eom", "unknown", "padding"))
    roles = {i for i in given if isinstance(i, int | np.integer)}
    return {name: i for name, i in ids.items() if kinds[i] == USER_DEFINED and i not in roles and name not in ENDS}


def _sentencepiece(
    metadata: Mapping[str, Any], ids: dict[str, int], kinds: list[int], added: dict[str, int]
) -> SentencePieceTokenizer:
    """Scores as the list of merges that transformers makes of them: the best first, then the longest left part; of
    different tokens with the same score and lengths, that of the lower id."""
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
    )


def _token_ids(metadata: Mapping[str, Any], n_tokens: int) -> dict[str, int]:
    """The ids of ROLES. One outside the table is left out with a warning, as in llama.cpp (src/llama-vocab.cpp).

    Converters write 4294967295 where there is none. Where llama.cpp then takes its default for the kind of tokenizer,
    here the role has no token. Raises InputError for what is no integer.
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


def _chat_format(metadata: Mapping[str, Any], names: list[str], kinds: list[int], begins: bool) -> ChatFormat:
    ids = _token_ids(metadata, len(names))
    named = [i for i, name in enumerate(names) if name in ENDS and kinds[i] == CONTROL]
    return ChatFormat(
        begin_token=ids.get("bos") if metadata.get(KEY + "add_bos_token", begins) else None,
        end_tokens=tuple(dict.fromkeys([*(ids[key] for key in ids if key != "bos"), *named])),
        bos_token=names[ids["bos"]] if "bos" in ids else None,
        eos_token=names[ids["eos"]] if "eos" in ids else None,
        chat_template=metadata.get("tokenizer.chat_template"),
    )
