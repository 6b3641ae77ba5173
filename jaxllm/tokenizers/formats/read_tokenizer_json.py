"""What a `tokenizer.json` of Hugging Face says, read as one of our tokenizers.

What would give other ids is refused by name; transformers' converters drop such settings in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.formats.byte_level import check_ids, from_vocabulary
from jaxllm.tokenizers.patterns import PATTERNS, pattern_of
from jaxllm.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from jaxllm.utils.errors import InputError, printable
from jaxllm.utils.validate import shown

# Ways to put a space before a text, by normalizers; or by a pre_tokenizer, with its prepend_scheme.
TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
SCHEMES = {"never": "none", "always": "always", "first": "first"}
MORE_THAN_ONE = "a post_processor that adds more than one token before the text"
NOTHING_TO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


@contextmanager
def as_input_error(path: str | Path, what: str) -> Iterator[None]:
    """Whatever damaged JSON raises, in one sentence: the file at `path` is not `what`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no {what}: {type(error).__name__}, {printable(str(error))}.") from None


def tokenizer_of(content: Any, path: str | Path) -> BPETokenizer | SentencePieceTokenizer:
    """The tokenizer: the same ids, special tokens where they are, without the token that may begin a text.

    Raises InputError for damaged content, and for a setting that would give other ids.
    """
    with as_input_error(path, "tokenizer.json of byte pairs"):
        model = content["model"]
        with_bytes = bool(model.get("byte_fallback"))
        _check(content, _wrong_for_pieces(content) if with_bytes else _wrong_for_bytes(content), path)
        if with_bytes:
            return _sentencepiece(content, path)
        special, added = _special_and_added(content)
        return from_vocabulary(
            model["vocab"],
            model["merges"],
            special,
            str(pattern_of(content["pre_tokenizer"])),
            "NFC" if _normalizers(content) else None,
            path,
            bool(model.get("ignore_merges")),
            added,
            _normalized(content) & added.keys(),
        )


def begin_token_of(content: Any, path: str | Path) -> int | None:
    """The id that is put before each text, or None: the one in `ids`, whatever its name, as in tokenizers.

    Raises InputError for several, and for one that is no token's.
    """
    with as_input_error(path, "tokenizer.json"):
        ids = _ids_before(content)
        known = {*content["model"]["vocab"].values(), *_added(content).values()}
        if len(ids) > 1:
            raise InputError(f"{path} has {MORE_THAN_ONE}, which would give other ids and is not supported.")
        if ids and (type(ids[0]) is not int or ids[0] not in known):
            raise InputError(
                f"{path} puts the id {shown(ids[0])} before each text, but has the ids 0 to {len(known) - 1}; correct "
                "its post_processor."
            )
        return next(iter(ids), None)


def _sentencepiece(content: dict[str, Any], path: str | Path) -> SentencePieceTokenizer:
    special, added = _special_and_added(content)
    ids = dict(content["model"]["vocab"]) | special | added
    check_ids(ids.values(), path)
    pairs = (one.split(" ") if isinstance(one, str) else one for one in content["model"]["merges"])
    return SentencePieceTokenizer(
        sorted(ids, key=ids.__getitem__),
        [(ids[left], ids[right]) for left, right in pairs],
        list(special),
        list(added),
        str(_prefix(content)),
    )


def _check(content: dict[str, Any], wrong: list[str], path: str | Path) -> None:
    """Raises InputError for what is wrong for the one kind of tokenizer, or for both."""
    model = content["model"]
    wrong += [name for name in ("truncation", "padding") if content.get(name)]
    wrong += [f"model.{name}" for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
              if model.get(name)]  # fmt: skip
    if model.get("type", "BPE") != "BPE":
        wrong.append(f"model.type {shown(model.get('type'))}")
    if (put_before := _put_before(content)) is None or len(put_before) > 1:
        wrong.append(MORE_THAN_ONE)
    for one in content.get("added_tokens") or []:
        wrong += [f"a token {shown(one['content'])} with {flag}" for flag in ("lstrip", "rstrip", "single_word")
                  if one.get(flag)]  # fmt: skip
    if wrong:
        raise InputError(f"{path} has {' and '.join(wrong[:5])}, which would give other ids and is not supported.")


def _wrong_for_bytes(content: dict[str, Any]) -> list[str]:
    wrong = ["model.unk_token"] if content["model"].get("unk_token") else []
    if [step.get("type") for step in _normalizers(content)] not in ([], ["NFC"]):
        wrong.append("a normalizer that is not NFC")
    if pattern_of(content.get("pre_tokenizer")) is None:
        wrong.append(f"a pre_tokenizer that is none of {', '.join(PATTERNS)}")
    return wrong


def _wrong_for_pieces(content: dict[str, Any]) -> list[str]:
    wrong = ["model.ignore_merges"] if content["model"].get("ignore_merges") else []
    if (prefix := _prefix(content)) is None:
        wrong.append("a normalizer and a pre_tokenizer that do more than write spaces as SentencePiece does")
    if prefix == "part" and _normalized(content):
        wrong.append("normalized tokens")
    return wrong


def _prefix(content: dict[str, Any]) -> str | None:
    """Where a space is put before a text, as SentencePieceTokenizer names it; None for what it does not know."""
    normalizers, steps = _normalizers(content), _steps(content, "pre_tokenizer", "pretokenizers")
    if normalizers == [PREPEND, TO_SPACE] and not steps:
        return "part"
    if normalizers == [TO_SPACE] and steps in ([], [NOTHING_TO_SPLIT]):
        return "none"
    if normalizers or [step.get("type") for step in steps] != ["Metaspace"]:
        return None
    whole = steps[0].get("replacement") == SPACE and steps[0].get("split") is False
    return SCHEMES.get(steps[0].get("prepend_scheme", "always")) if whole else None


def _added(content: dict[str, Any]) -> dict[str, int]:
    return {one["content"]: one["id"] for one in content.get("added_tokens") or []}


def _special_and_added(content: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """The special tokens; and those that are found in any text."""
    names = {one["content"] for one in content.get("added_tokens") or [] if one.get("special", True)}
    special = {name: i for name, i in _added(content).items() if name in names}
    return special, {name: i for name, i in _added(content).items() if name not in names}


def _normalized(content: dict[str, Any]) -> set[str]:
    return {one["content"] for one in content.get("added_tokens") or [] if one.get("normalized")}


def _steps(content: dict[str, Any], name: str, inside: str) -> list[dict[str, Any]]:
    """The steps of a setting, which may be none, one or a sequence."""
    given = content.get(name) or {"type": "Sequence", inside: []}
    return given[inside] if given.get("type") == "Sequence" else [given]


def _normalizers(content: dict[str, Any]) -> list[dict[str, Any]]:
    return _steps(content, "normalizer", "normalizers")


def _put_before(content: dict[str, Any]) -> list[str] | None:
    """The tokens that are put before each text; None where anything else is done to the ids."""
    names: list[str] = []
    for step in _steps(content, "post_processor", "processors"):
        if step.get("type") == "TemplateProcessing":
            *before, text = step["single"]
            if "Sequence" not in text or not all("SpecialToken" in one for one in before):
                return None
            names += [one["SpecialToken"]["id"] for one in before]
        elif step.get("type") != "ByteLevel":  # it moves offsets only
            return None
    return names


def _ids_before(content: dict[str, Any]) -> list[Any]:
    """The ids that TemplateProcessing puts before each text."""
    return [
        i
        for step in _steps(content, "post_processor", "processors")
        if step.get("type") == "TemplateProcessing"
        for one in step["single"]
        if "SpecialToken" in one
        for i in step["special_tokens"][one["SpecialToken"]["id"]]["ids"]
    ]
