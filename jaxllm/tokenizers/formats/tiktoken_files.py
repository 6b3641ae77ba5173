"""The files of tiktoken: ranks, a line `BASE64 RANK` for each token, and a second file for what they cannot hold.

tiktoken has patterns and special tokens in its source, not in its files. We write them into FILE.json, as arguments of
`tiktoken.Encoding`. Published files without a FILE.json are recognised by the sha256 of their ranks.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.formats.byte_level import check_bytes
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import PATTERNS, name_of, regex_of
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import read_text, replace_file

LARGEST = 2**24  # ids are below


class Published(NamedTuple):
    """A published file of ranks."""

    name: str
    pattern: str
    special_tokens: dict[str, int]


FILL_IN = [f"<|fim_{part}|>" for part in ("prefix", "middle", "suffix")]
LLAMA3_NAMED = {128000: "begin_of_text", 128001: "end_of_text", 128006: "start_header_id", 128007: "end_header_id",
                128009: "eot_id"}  # fmt: skip
LLAMA3_RESERVED = [i for i in range(128000, 128256) if i not in LLAMA3_NAMED]
# By the sha256 of the file. (tiktoken 0.14, openai_public.py; Llama 3: meta-llama/llama3, llama/tokenizer.py, and its
# tokenizer.model of 2,183,982 bytes. Llama 3.1 has the same file, and other names for some reserved tokens.)
# GPT-2's ranks are those of r50k_base.
PUBLISHED = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": Published(
        "r50k_base", "gpt2", {END_OF_TEXT: 50256}
    ),
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": Published(
        "p50k_base", "gpt2", {END_OF_TEXT: 50256}
    ),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": Published(
        "cl100k_base",
        "cl100k",
        {name: 100257 + i for i, name in enumerate([END_OF_TEXT, *FILL_IN])} | {"<|endofprompt|>": 100276},
    ),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": Published(
        "o200k_base", "o200k", {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}
    ),
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": Published(
        "Llama 3",
        "llama3",
        {f"<|{name}|>": i for i, name in LLAMA3_NAMED.items()}
        | {f"<|reserved_special_token_{n}|>": i for n, i in enumerate(LLAMA3_RESERVED)},
    ),
}


class TiktokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of FILE.json."""

    pat_str: str
    special_tokens: dict[str, int]


def settings_path(path: str | Path) -> Path:
    """FILE.json, which holds the pattern and the special tokens of FILE."""
    return Path(f"{path}.json")


def to_tiktoken(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write tiktoken's ranks to FILE, and the pattern and the special tokens to FILE.json.

    `tiktoken.Encoding(name, mergeable_ranks=load_tiktoken_bpe(FILE), **content_of_FILE_json)` gives the same ids.
    Raises InputError for a tokenizer with settings that tiktoken does not have.
    """
    reasons = {
        f"brings text into {tokenizer.normalization}": tokenizer.normalization,
        "has no token for some bytes": sum(len(token) == 1 for token in tokenizer.tokens) < 256,
        "finds tokens that are not special in any text": tokenizer.added,
    }
    for what, wrong in reasons.items():
        if wrong:
            raise InputError(f"the tokenizer {what}, which tiktoken does not; export it as tokenizer.json.")
    settings = TiktokenSettings(regex_of(tokenizer.pattern), tokenizer.special_tokens)
    replace_file(settings_path(path), msgspec.json.format(msgspec.json.encode(settings), indent=1))
    replace_file(Path(path), _written(tokenizer.ranks.items()))


def from_tiktoken(
    path: str | Path, special_tokens: Sequence[str] | Mapping[str, int] | None = None, pattern: str | None = None
) -> BPETokenizer:
    """The tokenizer of tiktoken's ranks, by a pattern of PATTERNS or a regular expression.

    An argument that is not given is taken from FILE.json or, for a published file, from what was published with it;
    otherwise `<|endoftext|>` is the only special token. Special tokens given as names take the next ids. An id above
    the ranks that belongs to no token becomes the special token `<|reserved_ID|>`, the name that tiktoken's
    o200k_harmony uses. Raises InputError for a wrong line, for a pattern that is neither given nor known, and for one
    that contradicts the file's.
    """
    ranks = _read_ranks(path)
    known = PUBLISHED.get(hashlib.sha256(_written(ranks)).hexdigest())
    tokens = [token for token, _ in ranks]
    settings = _read_settings(path)
    if special_tokens is None:
        special_tokens = settings.special_tokens if settings else known.special_tokens if known else [END_OF_TEXT]
    if not isinstance(special_tokens, Mapping):
        special_tokens = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
    special_tokens = _without_holes([rank for _, rank in ranks], special_tokens, path)
    check_bytes(tokens, path)
    if sum(len(token) == 1 for token in tokens) < 256:
        raise InputError(f"{path} must hold each of the 256 bytes.")
    stated = name_of(settings.pat_str) if settings else known.pattern if known else None
    return BPETokenizer(tokens, special_tokens, _agreed(pattern, stated, known, path))


def _agreed(pattern: str | None, stated: str | None, known: Published | None, path: str | Path) -> str:
    """The pattern that is given or stated. Raises InputError for neither, and for two that differ."""
    pattern = None if pattern is None else name_of(pattern)
    if pattern is None and stated is None:
        raise InputError(
            f"{path} does not say how text is cut into pieces, which the ids depend on, and is none of the published "
            f"files {', '.join(one.name for one in PUBLISHED.values())}: give --pattern, one of "
            f"{', '.join(PATTERNS)} or a regular expression."
        )
    if pattern is not None and stated is not None and pattern != stated:
        where = f"{path} has the ranks of {known.name}" if known else f"{settings_path(path)} is there"
        raise InputError(f"--pattern is {shown(pattern)}, but {where}, with the pattern {shown(stated)}; leave it out.")
    return str(stated if pattern is None else pattern)


def _written(ranks: Iterable[tuple[bytes, int]]) -> bytes:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks).encode()


def _read_ranks(path: str | Path) -> list[tuple[bytes, int]]:
    """The tokens and their ranks, in the order of the file."""
    ranks = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split()
        try:
            ranks.append((base64.b64decode(parts[0], validate=True), int(parts[1])))
        except (IndexError, ValueError, binascii.Error):
            raise InputError(f"line {number:,} of {path} is not a token in base64 and its rank.") from None
    return ranks


def _read_settings(path: str | Path) -> TiktokenSettings | None:
    file = settings_path(path)
    if not file.exists():
        return None
    try:
        return msgspec.json.decode(read_text(file), type=TiktokenSettings)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(
            f"{file} does not hold the pat_str and the special_tokens of {path} ({printable(str(error))}); correct or "
            "delete it."
        ) from None


def _without_holes(ranks: list[int], special: Mapping[str, int], path: str | Path) -> dict[str, int]:
    """The special tokens, and a reserved one for each free id above the ranks.

    Raises InputError for a rank that is not the next id after the ranks before it and special tokens, and for an id
    that is too large.
    """
    taken, expected = set(special.values()), 0
    for number, rank in enumerate(ranks, start=1):
        while expected in taken:
            expected += 1
        if rank != expected:
            raise InputError(
                f"line {number:,} of {path} has rank {shown(rank)}, where {expected} is expected; no special token in "
                f"{settings_path(path)} has that id."
            )
        expected += 1
    largest = max(taken, default=0)
    if largest >= LARGEST:
        raise InputError(f"a special token of {path} has id {shown(largest)}, but ids must be below {LARGEST:,}.")
    free = (i for i in range(expected, largest) if i not in taken)
    return dict(special) | {f"<|reserved_{i}|>": i for i in free}
