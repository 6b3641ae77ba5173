"""Reading a tokenizer.json of Hugging Face tokenizers. A setting that would give other ids is refused by name."""

from pathlib import Path
from typing import Any

from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.formats.byte_level import check_ids, from_vocabulary
from jaxllm.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from jaxllm.tokenizers.split_patterns import PATTERNS, pattern_of
from jaxllm.utils.errors import InputError, as_input_error, shown
from jaxllm.utils.files import read_json

# Ways to add a space before a text: by normalizers, or by a pre_tokenizer with its prepend_scheme.
TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
SCHEMES = {"never": "none", "always": "always", "first": "first"}
# lstrip and rstrip of a token, and the side on which it takes white space
STRIPS = {(True, False): "left", (False, True): "right", (True, True): "both"}
MORE_THAN_ONE = "a post_processor that adds more than one token before the text"
NOTHING_TO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def from_hugging_face(path: str | Path) -> BPETokenizer | SentencePieceTokenizer:
    """The tokenizer of a `tokenizer.json`: byte pairs with a pattern of PATTERNS, or SentencePiece's.

    It gives the same ids, without a token that the file puts before each text (see `begin_token_of`). Raises InputError
    for a damaged file, and for a setting that would give other ids.
    """
    return tokenizer_of(read_json(path, "tokenizer.json"), path)


def tokenizer_of(content: Any, path: str | Path) -> BPETokenizer | SentencePieceTokenizer:
    """As `from_hugging_face`, from the content of the file at `path`."""
    with as_input_error(path, "tokenizer.json of byte pairs"):
        model = content["model"]
        is_sentencepiece = bool(model.get("byte_fallback"))
        _check(content, _wrong_for_sentencepiece(content) if is_sentencepiece else _wrong_for_byte_level(content), path)
        if is_sentencepiece:
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
            _strips(content),
        )


def begin_token_of(content: Any, path: str | Path) -> int | None:
    """The id that the file puts before each text, or None. As in Hugging Face tokenizers, `ids` decides, not the name.

    Raises InputError for several, and for one that is not a token's.
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
        strips=_strips(content),
    )


def _check(content: dict[str, Any], wrong: list[str], path: str | Path) -> None:
    """Raises InputError for the settings in `wrong`, those of one kind of tokenizer, and for wrong settings of both."""
    model = content["model"]
    wrong += [name for name in ("truncation", "padding") if content.get(name)]
    wrong += [f"model.{name}" for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
              if model.get(name)]  # fmt: skip
    if model.get("type", "BPE") != "BPE":
        wrong.append(f"model.type {shown(model.get('type'))}")
    if (put_before := _put_before(content)) is None or len(put_before) > 1:
        wrong.append(MORE_THAN_ONE)
    listed = content.get("added_tokens") or []
    wrong += [f"a token {shown(one['content'])} with single_word" for one in listed if one.get("single_word")]
    if wrong:
        raise InputError(f"{path} has {' and '.join(wrong[:5])}, which would give other ids and is not supported.")


def _wrong_for_byte_level(content: dict[str, Any]) -> list[str]:
    wrong = ["model.unk_token"] if content["model"].get("unk_token") else []
    if [step.get("type") for step in _normalizers(content)] not in ([], ["NFC"]):
        wrong.append("a normalizer that is not NFC")
    if pattern_of(content.get("pre_tokenizer")) is None:
        wrong.append(f"a pre_tokenizer that is none of {', '.join(PATTERNS)}")
    return wrong


def _wrong_for_sentencepiece(content: dict[str, Any]) -> list[str]:
    wrong = ["model.ignore_merges"] if content["model"].get("ignore_merges") else []
    if (prefix := _prefix(content)) is None:
        wrong.append("a normalizer and a pre_tokenizer that do more than write spaces as SentencePiece does")
    if prefix == "part" and _normalized(content):
        wrong.append("normalized tokens")
    return wrong


def _prefix(content: dict[str, Any]) -> str | None:
    """Where a space is added, as SentencePieceTokenizer names it; None for settings that do anything else."""
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
    """The special tokens, and the added tokens that are not special."""
    names = {one["content"] for one in content.get("added_tokens") or [] if one.get("special", True)}
    special = {name: i for name, i in _added(content).items() if name in names}
    return special, {name: i for name, i in _added(content).items() if name not in names}


def _normalized(content: dict[str, Any]) -> set[str]:
    return {one["content"] for one in content.get("added_tokens") or [] if one.get("normalized")}


def _strips(content: dict[str, Any]) -> dict[str, str]:
    """The tokens that take white space, with the side."""
    flags = {
        one["content"]: (bool(one.get("lstrip")), bool(one.get("rstrip"))) for one in content.get("added_tokens") or []
    }
    return {name: STRIPS[both] for name, both in flags.items() if any(both)}


def _steps(content: dict[str, Any], name: str, inside: str) -> list[dict[str, Any]]:
    """The steps of a setting, which may be absent, one step or a sequence."""
    given = content.get(name) or {"type": "Sequence", inside: []}
    return given[inside] if given.get("type") == "Sequence" else [given]


def _normalizers(content: dict[str, Any]) -> list[dict[str, Any]]:
    return _steps(content, "normalizer", "normalizers")


def _put_before(content: dict[str, Any]) -> list[str] | None:
    """The tokens that are put before each text; None if the post_processor changes the ids in any other way."""
    names: list[str] = []
    for step in _steps(content, "post_processor", "processors"):
        if step.get("type") == "TemplateProcessing":
            *before, text = step["single"]
            if "Sequence" not in text or not all("SpecialToken" in one for one in before):
                return None
            names += [one["SpecialToken"]["id"] for one in before]
        elif step.get("type") != "ByteLevel":  # which changes offsets only
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
