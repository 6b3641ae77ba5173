"""The patterns by which published byte-pair tokenizers split text into pieces: GPT-2's and those of later models.

Each is one regular expression, which tiktoken and the textbook encoder both match. Hugging Face's tokenizer.json writes
it as a sequence of pre_tokenizers, llama.cpp as a name (`jaxllm.pretrained.gguf_tokenizer`).
"""

from dataclasses import dataclass
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str as GPT2_FAST_PATTERN  # GPT2_PATTERN, written to match faster

from jaxllm.utils.errors import InputError, shown

# GPT-2's split: contractions; a word, a number or a run of punctuation, each with the space before it; white space.
# Merges never cross a piece. (openai/gpt-2, src/encoder.py)
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Two orders of the contractions, which match the same.
GPT2_WRITTEN = (GPT2_PATTERN, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# Also contractions in capitals, one mark joined to the word after it, new lines joined to the punctuation before them,
# digits by three.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")  # digits one by one
# Llama 3's, except that white space at the end of a text, new lines included, is one piece. (tiktoken 0.14,
# openai_public.py; before 0.8 it had Llama 3's.)
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
# A word ends where a capital follows a small letter and includes its contraction; slashes may follow new lines.
# (tiktoken, openai_public.py)
O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Step = tuple[str, Any]  # of Hugging Face's sequence of pre_tokenizers: its type, and the setting that matters
DIGITS: Step = ("Digits", None)
WITH_PATTERN: Step = ("ByteLevel", True)
BYTES_ONLY: Step = ("ByteLevel", False)


@dataclass(frozen=True)
class Pattern:
    """One way to split text into pieces, within which merges happen."""

    regex: str
    steps: tuple[tuple[Step, ...], ...]  # Hugging Face's ways to write it; we write the first


PATTERNS = {
    "gpt2": Pattern(
        GPT2_FAST_PATTERN,
        ((WITH_PATTERN,), *((("Split", written), BYTES_ONLY) for written in (*GPT2_WRITTEN, GPT2_FAST_PATTERN))),
    ),
    # Each digit is split off first, and GPT-2's pattern then matches the text between two digits by itself: white
    # space before a digit is at the end of such a text, and so stays together.
    "smollm": Pattern(
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})|\s+(?!\S)|\s",
        ((DIGITS, WITH_PATTERN),),
    ),
    "llama3": Pattern(
        LLAMA3_PATTERN,
        ((("Split", LLAMA3_PATTERN), BYTES_ONLY),),
    ),
    "qwen2": Pattern(QWEN2_PATTERN, ((("Split", QWEN2_PATTERN), BYTES_ONLY),)),
    # Hugging Face's regular expressions have no possessive {1,3}+, and their $ is the end of a line.
    "cl100k": Pattern(
        CL100K_PATTERN,
        ((("Split", LLAMA3_PATTERN.replace(r"|\s*[\r\n]+", r"|\s+\z|\s*[\r\n]+")), BYTES_ONLY),),
    ),
    "o200k": Pattern(O200K_PATTERN, ((("Split", O200K_PATTERN), BYTES_ONLY),)),
}


def regex_of(pattern: str) -> str:
    """The regular expression of a name in PATTERNS; any other pattern is already one."""
    return PATTERNS[pattern].regex if pattern in PATTERNS else pattern


def name_of(regex: str) -> str:
    """The name in PATTERNS of a regular expression, in any of its written forms; others are returned unchanged."""
    return next((name for name, pattern in PATTERNS.items() if regex in _written_as(pattern)), regex)


def _written_as(pattern: Pattern) -> list[str]:
    return [pattern.regex, *(what for steps in pattern.steps for kind, what in steps if kind == "Split")]


def pattern_of(pre_tokenizer: Any) -> str | None:
    """The name of the pattern that a tokenizer.json's pre_tokenizer stands for, or None.

    Raises KeyError, TypeError or AttributeError for damaged content; see `as_input_error`.
    """
    given = pre_tokenizer or {}
    steps = tuple(_step(one) for one in (given["pretokenizers"] if given.get("type") == "Sequence" else [given]))
    return next((name for name, pattern in PATTERNS.items() if steps in pattern.steps), None)


def pre_tokenizer_of(name: str) -> dict[str, Any]:
    """The pattern as a tokenizer.json's pre_tokenizer. Raises InputError for a custom regular expression."""
    if name not in PATTERNS:
        raise InputError(
            f"the tokenizer's pattern {shown(name)} is a regular expression that Hugging Face tokenizers may match "
            "differently; export the tokenizer as FILE.tiktoken."
        )
    steps = [_written(kind, what) for kind, what in PATTERNS[name].steps[0]]
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _step(one: dict[str, Any]) -> Step | None:
    kind = one.get("type")
    if kind == "Digits" and one.get("individual_digits") is True:
        return DIGITS
    if kind == "ByteLevel" and one.get("add_prefix_space") is False:
        return "ByteLevel", one.get("use_regex", True)
    # A pattern matches every character, so keeping the matches (Isolated) and removing what lies between them
    # (Removed, inverted) give the same pieces.
    if kind == "Split" and (one.get("behavior"), one.get("invert")) in (("Isolated", False), ("Removed", True)):
        return "Split", one["pattern"].get("Regex")
    return None


def _written(kind: str, what: Any) -> dict[str, Any]:
    if kind == "Digits":
        return {"type": kind, "individual_digits": True}
    if kind == "Split":
        return {"type": kind, "pattern": {"Regex": what}, "behavior": "Isolated", "invert": False}
    return {"type": kind, "add_prefix_space": False, "trim_offsets": True, "use_regex": what}
