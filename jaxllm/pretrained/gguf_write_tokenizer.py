"""A tokenizer and a chat format as the keys of a GGUF file, the inverse of `gguf_tokenizer`.

The keys and types of tokens are those of llama.cpp's converter. (ggml-org/llama.cpp, convert_hf_to_gguf.py) What the
keys cannot express is refused: the tokenizer that `gguf_tokenizer` reads from them is compared with the given one.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.gguf_tokenizer import (
    BYTE,
    CONTROL,
    ENDS,
    KEY,
    NAME,
    NORMAL,
    PRE_TOKENIZERS,
    TAKING_SPACES,
    UNKNOWN,
    USER_DEFINED,
    read_gguf_tokenizer,
)
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.tokenizers.formats.byte_level import listed_merges, to_characters
from jaxllm.tokenizers.sentencepiece import BYTES, SPACE
from jaxllm.utils.errors import InputError, Note, shown

UNUSED = 5  # a type of tokens that `gguf_tokenizer` reads as special (llama.cpp, include/llama.h)
UNKNOWN_TOKEN = "<unk>"
TEMPLATE = "tokenizer.chat_template"
FOLDER = "export a folder with --out FOLDER instead"


class _Tokens(NamedTuple):
    """What a file says of each id, and the tokens with names that are not merged."""

    names: list[str]
    kinds: list[int]
    special: dict[str, int]
    added: dict[str, int]


def tokenizer_keys(tokenizer: Tokenizer, chat: ChatFormat, vocab_size: int, name: str | None = None) -> dict[str, Any]:
    """The keys of the tokenizer, the chat format and the model's `name`, with values for `gguf_write`.

    Ids up to `vocab_size`, the model's, that no token has get unused tokens such as `[PAD300]`. Warns with a Note of
    what llama.cpp does in another way: spaces before parts of a text, added tokens in normalized text, more than three
    tokens that end an answer. llama.cpp knows by the word phi-3 in a model's name that tokens take the white space
    after them, so the name gets that word, or loses it. Raises InputError for a tokenizer of characters or words, for a
    pattern without a name in llama.cpp, and for all else that would be read as another tokenizer.
    """
    if not isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
        raise InputError(
            f"a tokenizer of kind {tokenizer.kind} has no form in GGUF; {FOLDER}, or train a model with byte pairs."
        )
    tokens = _tokens(tokenizer, chat, vocab_size)
    model = _byte_pairs(tokenizer) if isinstance(tokenizer, BPETokenizer) else _sentencepiece(tokenizer, tokens)
    model |= {"tokens": tokens.names, "token_type": np.array(tokens.kinds, "<i4")} | _roles(tokenizer, chat)
    keys = {KEY + key: value for key, value in model.items()}
    if chat.chat_template is not None:
        keys[TEMPLATE] = chat.chat_template
    if (written := _name(tokenizer, name)) is not None:
        keys[NAME] = written
    _check_read_back(tokenizer, tokens, keys)
    return keys


def _tokens(tokenizer: BPETokenizer | SentencePieceTokenizer, chat: ChatFormat, vocab_size: int) -> _Tokens:
    """The names and types by id. Raises InputError for more tokens than ids, or for a name that occurs twice.

    An added token that has a role or a name of ENDS is read as special, so it is special here.
    """
    if tokenizer.vocab_size > vocab_size:
        raise InputError(f"the tokenizer has {tokenizer.vocab_size:,} ids, but the model only {vocab_size:,}.")
    ids, names = {chat.begin_token, *chat.end_tokens}, {chat.bos_token, chat.eos_token, *ENDS}
    roles = {name: i for name, i in tokenizer.added.items() if i in ids or name in names}
    pads = {f"[PAD{i}]": i for i in range(tokenizer.vocab_size, vocab_size)}
    special = {**tokenizer.special_tokens, **roles, **pads}
    added = {name: i for name, i in tokenizer.added.items() if name not in roles and not _is_of_spaces(tokenizer, name)}
    plain = _plain_tokens(tokenizer, {**special, **added})
    by_id = {i: name for name, i in (plain | special | added).items()}
    if len(by_id) != vocab_size:
        twice = next((name for name in special | added if name in plain), "a token")
        raise InputError(f"GGUF has one id for each name, but the tokenizer uses {shown(twice)} twice; {FOLDER}.")
    kinds = {i: _kind_of(name, i) for name, i in special.items()} | dict.fromkeys(added.values(), USER_DEFINED)
    if isinstance(tokenizer, SentencePieceTokenizer):
        kinds = dict.fromkeys((plain[name] for name in BYTES if name in plain), BYTE) | kinds
    return _Tokens(
        [by_id[i] for i in range(vocab_size)], [kinds.get(i, NORMAL) for i in range(vocab_size)], special, added
    )


def _plain_tokens(tokenizer: BPETokenizer | SentencePieceTokenizer, others: Mapping[str, int]) -> dict[str, int]:
    """The tokens beside the `others`, by their names in a file."""
    if isinstance(tokenizer, BPETokenizer):
        return {to_characters(token): i for token, i in tokenizer.ranks.items()}
    return {name: i for i, name in enumerate(tokenizer.tokens) if name not in others}


def _is_of_spaces(tokenizer: BPETokenizer | SentencePieceTokenizer, added: str) -> bool:
    """Whether an added token, such as Gemma's for runs of spaces, is made by merges alone.

    It is looked for in the text with its own spaces, and so never found but by its written name.
    """
    return isinstance(tokenizer, SentencePieceTokenizer) and SPACE in added


def _name(tokenizer: BPETokenizer | SentencePieceTokenizer, name: str | None) -> str | None:
    """The model's name, with one of TAKING_SPACES if the tokenizer's tokens take white space, and else without."""
    words = re.compile("|".join(map(re.escape, TAKING_SPACES)), re.IGNORECASE)
    if tokenizer.strips:
        return name if name and words.search(name) else " ".join(filter(None, (TAKING_SPACES[0], name)))
    return words.sub("phi 3", name) if name else name


def _kind_of(special: str, i: int) -> int:
    """The type of a special token."""
    return UNUSED if special == f"[PAD{i}]" else UNKNOWN if special == UNKNOWN_TOKEN else CONTROL


def _byte_pairs(tokenizer: BPETokenizer) -> dict[str, Any]:
    """The keys of a tokenizer over bytes alone."""
    merges, whole_pieces = listed_merges(tokenizer)
    pre = _pre_tokenizer(tokenizer, whole_pieces)
    if tokenizer.normalized:
        _warn(f"{len(tokenizer.normalized):,} added tokens are found in the text as it is given, not as normalized.")
    written = [f"{to_characters(left)} {to_characters(right)}" for left, right in merges]
    return {"model": "gpt2", "pre": pre, "merges": written}


def _pre_tokenizer(tokenizer: BPETokenizer, whole_pieces: bool) -> str:
    """The name of the pre-tokenizer with the tokenizer's pattern, if there is one also with its normalization.

    Raises InputError for a pattern without a name, and for one that is not for `whole_pieces` where these are needed.
    """
    names = [name for name, pre in PRE_TOKENIZERS.items() if pre.pattern == tokenizer.pattern]
    if not names:
        raise InputError(
            f"the tokenizer's pattern {shown(tokenizer.pattern)} has no name in llama.cpp that gives the same ids; "
            f"those of {', '.join(dict.fromkeys(pre.pattern for pre in PRE_TOKENIZERS.values()))} have; {FOLDER}."
        )
    whole = {pre.pattern for pre in PRE_TOKENIZERS.values() if pre.whole_pieces}
    if whole_pieces and tokenizer.pattern not in whole:
        raise InputError(
            f"some tokens are not two others merged, which llama.cpp supports with the pattern "
            f"{', '.join(whole)} only, but the tokenizer's is {tokenizer.pattern}; {FOLDER}."
        )
    normal = [name for name in names if PRE_TOKENIZERS[name].normalization == tokenizer.normalization]
    return next(iter(normal or names))


def _sentencepiece(tokenizer: SentencePieceTokenizer, tokens: _Tokens) -> dict[str, Any]:
    """The keys of a tokenizer over characters alone. "default" is the pre-tokenizer that the converter writes."""
    if tokenizer.prefix in ("always", "first"):
        _warn(f"llama.cpp adds a space before each part of a text; this tokenizer has the rule {tokenizer.prefix!r}.")
    scores = np.full(len(tokens.names), -1 - len(tokenizer.merges), "<f4")
    for i, score in _scores(tokenizer).items():
        scores[i] = score
    return {
        "model": "llama", "pre": "default", "scores": scores, "add_space_prefix": tokenizer.prefix != "none",
    }  # fmt: skip


def _scores(tokenizer: SentencePieceTokenizer) -> dict[int, int]:
    """Scores 0, -1, -2 and so on of the tokens that merges make, by id: the higher, the earlier they are merged.

    Tokens whose merges are not each in one run of the list have equal scores, as in the file that the list is from.
    """
    spans: dict[int, list[int]] = {}  # of each token, its first and last merge
    ids = {name: i for i, name in enumerate(tokenizer.tokens)}
    for rank, (left, right) in enumerate(tokenizer.merges):
        spans.setdefault(ids[tokenizer.tokens[left] + tokenizer.tokens[right]], [rank, rank])[1] = rank
    scores: dict[int, int] = {}
    score, end = 1, -1
    for i, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        score -= first > end
        end = max(end, last)
        scores[i] = score
    return scores


def _roles(tokenizer: Tokenizer, chat: ChatFormat) -> dict[str, Any]:
    """The keys of tokens that begin and end texts. Raises InputError for a begin token beside another bos_token.

    Without an end token of the chat format the file names the token that separates documents, because llama.cpp takes
    some token in any case. Further end tokens get the roles eot and eom, unless they are found by their names.
    """
    ids = {**tokenizer.special_tokens, **tokenizer.added}
    begin, bos = chat.begin_token, ids.get(chat.bos_token or "")
    if begin is not None and bos not in (None, begin):
        raise InputError(
            f"texts begin with the id {begin}, but bos_token is {shown(chat.bos_token)}, the id {bos}, and a GGUF file "
            f"has one such token; {FOLDER}."
        )
    found = {tokenizer.special_tokens[name] for name in ENDS if name in tokenizer.special_tokens}
    possible = (ids.get(chat.eos_token or ""), *chat.end_tokens, tokenizer.end_of_text)
    eos = next((i for i in possible if i is not None), None)
    others = [i for i in chat.end_tokens if i != eos and i not in found]
    if left := others[2:]:
        _warn(f"a file has room for three tokens that end an answer; the ids {shown(left)} are left out.")
    roles = {"bos": bos if begin is None else begin, "eos": eos, **dict(zip(("eot", "eom"), others, strict=False))}
    keys: dict[str, Any] = {f"{role}_token_id": i for role, i in roles.items() if i is not None}
    if UNKNOWN_TOKEN in tokenizer.special_tokens:
        keys["unknown_token_id"] = tokenizer.special_tokens[UNKNOWN_TOKEN]
    return keys | {"add_bos_token": begin is not None}


def _check_read_back(
    tokenizer: BPETokenizer | SentencePieceTokenizer, tokens: _Tokens, keys: Mapping[str, Any]
) -> None:
    """Raises InputError, which names what differs, if the tokenizer that the keys are read as is not the given one."""
    read, _ = read_gguf_tokenizer(keys, "the file to be written")
    unused = {i for i, kind in enumerate(tokens.kinds) if kind == UNUSED}
    used = {name: side for name, side in tokenizer.strips.items() if tokens.special.get(name) not in unused}
    ours: dict[str, Any] = {"special_tokens": tokens.special, "added": tokens.added, "strips": used}
    if isinstance(tokenizer, BPETokenizer):
        ours |= {name: getattr(tokenizer, name) for name in ("tokens", "ranks", "pattern", "normalization")}
    else:
        ours |= {"tokens": tuple(tokens.names), "prefix": "none" if tokenizer.prefix == "none" else "part"}
        named = {*tokens.special, *tokens.added}
        ours["merges"] = tuple(
            (a, b) for a, b in tokenizer.merges if tokenizer.tokens[a] + tokenizer.tokens[b] not in named
        )
    if differ := [name for name, value in ours.items() if getattr(read, name) != value]:
        raise InputError(f"a GGUF file cannot hold the {' and '.join(differ)} of this tokenizer; {FOLDER}.")


def _warn(what: str) -> None:
    warnings.warn(Note(f"GGUF: {what}"), stacklevel=4)
