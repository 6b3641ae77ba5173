"""Split patterns: the pieces of each, the same ids as the textbook for all, and round trips through files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer, bpe_encoding, load_tokenizer
from jaxllm.tokenizers.chunks import chunk_text
from jaxllm.tokenizers.pre_tokenize import split_pieces
from jaxllm.tokenizers.special_tokens import any_of
from jaxllm.tokenizers.split_patterns import (
    CL100K_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    PATTERNS,
    pattern_of,
    pre_tokenizer_of,
)

pytestmark = pytest.mark.newest

TEXT = "Don't DON'T we'll 12345 x12.5\n\n  (yes)!\n東京 🙂🙂 e\u0301  3 \t end.\r\n'S ½ a\u0301b\x1c \x85\u3000z _id --- \x01 "
hard = st.text(st.sampled_from("/abst'STLle12 \n\r\t!?.-_<|>\u017fÅ\u0301\u0338東京🙂१½\u3000\xa0\x1c\x85\u2028\x01\x7f"), max_size=50)  # fmt: skip
BYTES = [bytes([i]) for i in range(256)]


def tokenizer(pattern: str, **more: Any) -> BPETokenizer:
    return BPETokenizer(BPETokenizer.train(TEXT * 2, 300, ()).tokens, ["<|a|>", "<|a|>b"], pattern, **more)


@pytest.mark.parametrize(
    ("pattern", "text", "pieces"),
    [
        ("gpt2", "I'M  don't 123\n\nx", ["I", "'", "M", " ", " don", "'t", " 123", "\n", "\n", "x"]),
        ("smollm", "a  12's \n 3!", ["a", "  ", "1", "2", "'s", " \n ", "3", "!"]),
        ("smollm", "x 1 y  z ", ["x", " ", "1", " y", " ", " z", " "]),
        ("llama3", "I'M don't 12345!\n\n  x", ["I", "'M", " don", "'t", " ", "123", "45", "!\n\n", " ", " x"]),
        ("llama3", "(yes) _id\t東  \n z", ["(yes", ")", " _", "id", "\t東", "  \n", " z"]),
        ("qwen2", "I'Ll 12 !", ["I", "'Ll", " ", "1", "2", " !"]),
        (
            "cl100k",
            "I'M don't 12345!\n\n  x \n ",
            ["I", "'M", " don", "'t", " ", "123", "45", "!\n\n", " ", " x", " \n "],
        ),
        (
            "o200k",
            "I'M don't aBc ABc 1234 x\n/!\n//\r \n y",
            ["I'M", " don't", " a", "Bc", " ABc", " ", "123", "4", " x", "\n", "/!\n//\r", " \n", " y"],
        ),
    ],
)
def test_pieces(pattern: str, text: str, pieces: list[str]) -> None:
    assert list(split_pieces(text, pattern)) == pieces


def test_the_patterns_of_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the published ones; the ranks need not be downloaded to see them."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    assert openai_public.cl100k_base()["pat_str"] == CL100K_PATTERN
    assert openai_public.o200k_base()["pat_str"] == O200K_PATTERN


@pytest.mark.parametrize("absent", [b"", b"\x01\x85\xe6z\xf0"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_textbook_gives_the_same_ids(pattern: str, absent: bytes) -> None:
    """Whole and in chunks, also without tokens for some bytes, one of which occurs within characters."""
    tokens = [*tokenizer(pattern).tokens, b"qxj"]  # the last occurs only as a whole piece
    tok = BPETokenizer([t for t in tokens if not set(t) & set(absent)], ["<|a|>"], pattern)

    @settings(max_examples=40)
    @example(TEXT * 3)
    @example("qxj qxj")
    @given(hard)
    def same(text: str) -> None:
        ids = tok.encode(text)
        assert tok.encode_slowly(text) == ids
        assert tok.decode_bytes(ids) == text.encode().translate(None, absent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bpe_encoding, "PARALLEL", 5)
            assert tok.encode(text) == ids

    same()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_text_is_cut_where_pieces_end(pattern: str) -> None:
    @settings(max_examples=100)
    @example(TEXT * 3, 3)
    @given(hard, st.integers(1, 20))
    def same(text: str, size: int) -> None:
        assert [p for chunk in chunk_text(text, size) for p in split_pieces(chunk, pattern)] == list(
            split_pieces(text, pattern)
        )

    same()


def test_text_without_spaces_is_cut_at_lines() -> None:
    assert list(chunk_text("東。\n京。\n" * 2, 2)) == ["東。\n", "京。\n", "東。\n", "京。\n"]
    assert list(chunk_text("東\n京", 1)) == ["東", "\n京"]


def test_white_space_by_the_million() -> None:
    """tiktoken's regular expression fails there; the ids are the same."""
    tok = BPETokenizer([*BYTES, b"  "], (), "llama3")
    assert tok._encoder.encode_short(" " * 1_200_001 + "x") == [256] * 600_000 + [ord(" "), ord("x")]


def test_bytes_that_no_token_is_are_left_out() -> None:
    """As in Hugging Face tokenizers. A piece of such bytes alone has no id, and the bytes around them may merge."""
    tok = BPETokenizer([b for b in BYTES if b not in (b"\x01", b"\xe9")] + [b"ab"], ())
    assert tok.decode(tok.encode("a\x01b \x01 c")) == "ab  c"
    assert tok.encode("!\x01\x01") == tok.encode("!") and tok.encode("\x01") == []
    tok = BPETokenizer([b for b in BYTES if b != b"\x01"] + [b"!!"], ())
    assert tok.encode("!\x01!") == tok.encode("!!") == [255]


def test_the_normal_form() -> None:
    tok = tokenizer("qwen2", normalization="NFC")
    assert (
        tok.encode("e\u0301<|a|>", ["<|a|>"]) == tok.encode("é<|a|>", ["<|a|>"]) != tokenizer("qwen2").encode("e\u0301")
    )
    assert tok.decode(tok.encode("e\u0301")) == "é" and tok.encode_slowly("e\u0301") == tok.encode("é")


def test_the_longest_special_token_comes_first() -> None:
    tok = tokenizer("gpt2")
    both = list(tok.special_tokens)
    for names in (both, both[::-1]):
        assert tok.encode("<|a|>b<|a|>", names) == tok.encode_slowly("<|a|>b<|a|>", names) == [301, 300]
    assert tok.encode("<|a|>b", ["<|a|>"]) == [300, ord("b")]
    assert tok.encode_parts(["x", 300, "<|a|>"]) == [ord("x"), 300, *tok.encode("<|a|>")]


@settings(max_examples=50)
@given(st.sets(st.text("ab<.", min_size=1, max_size=4), max_size=8), st.text("ab<.c", max_size=20))
def test_the_longest_of_any_names_is_found(names: set[str], text: str) -> None:
    one_by_one = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
    assert re.findall(any_of(names), text) == re.findall(one_by_one, text)


@pytest.mark.parametrize("n", [90, 250])
def test_many_names_that_begin_alike(n: int) -> None:
    names = ["a" * i for i in range(1, n)]
    assert re.findall(any_of(names), "a" * (n + 5)) == ["a" * (n - 1), "a" * 6]


def test_a_file_keeps_what_is_not_gpt2s(tmp_path: Path) -> None:
    plain = tokenizer("gpt2")
    assert set(plain.to_dict()) == {
        "special_tokens",
        "tokens",
    }  # so that files and fingerprints stay those of older versions
    others = [
        tokenizer("llama3"),
        tokenizer("qwen2", normalization="NFC"),
        BPETokenizer([b for b in BYTES if b != b"\xff"], (), "smollm"),
    ]
    for tok in others:
        tok.save(tmp_path / "t.json")
        assert load_tokenizer(tmp_path / "t.json") == tok != plain
    assert len({tok.fingerprint() for tok in (plain, *others)}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "gpt5"}, "pattern is 'gpt5', but it must be one of gpt2, smollm"),
        ({"pattern": ["gpt2"]}, "pattern is .'gpt2'., but it must be"),
        ({"normalization": "NFD"}, "normalization is 'NFD', but it must be 'NFC'"),
        ({"absent_bytes": "a"}, "must hold each of the 256 bytes that is not in 'absent_bytes'"),
        ({"absent_bytes": 7}, "must hold each of the 256 bytes"),
    ],
)
def test_damaged_fields_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer("gpt2").save(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps(json.loads((tmp_path / "t.json").read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path / "t.json")


def test_the_forms_of_hugging_face() -> None:
    for name, pattern in PATTERNS.items():
        assert pattern_of(pre_tokenizer_of(name)) == name
        assert len(set(pattern.steps)) == len(pattern.steps)
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Removed", "invert": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    assert pattern_of({"type": "Sequence", "pretokenizers": [split, level]}) == "llama3"
    for wrong in (
        [split],
        [level],
        [level, split],
        [split, level | {"use_regex": True}],
        [split | {"pattern": {"String": LLAMA3_PATTERN}}, level],
        [split | {"behavior": "Isolated"}, level],
        [split, {"type": "Digits", "individual_digits": True}, level],
        [],
    ):
        assert pattern_of({"type": "Sequence", "pretokenizers": wrong}) is None
