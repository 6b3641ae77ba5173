"""Files of tiktoken: the same ids for every pattern, published files are known, others refused, ours read back."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer, load_tokenizer
from jaxllm.tokenizers.formats import from_tiktoken, tiktoken_files, to_tiktoken
from jaxllm.tokenizers.formats.tiktoken_files import PUBLISHED, Published
from jaxllm.tokenizers.split_patterns import GPT2_PATTERN, LLAMA3_PATTERN, PATTERNS, name_of, regex_of
from train.cli import main

pytestmark = pytest.mark.newest

END = "<|endoftext|>"
TEXT = "Don't DON'T we'll 12345 x12.5\n\n  (yes)!\n東京 🙂 camelCase PDFs\n//// 3 \t end.\r\n'S a\u0301b __init__ "
TOKENS = BPETokenizer.train(TEXT * 3, 310, ()).tokens
hard = st.text(
    st.sampled_from("/abst'STLle12 \n\r\t!?.-_<|>\u017fÅ\u0301東🙂१½\u3000\xa0\x1c\x85\u2028\x01"), max_size=50
)


OWN = {
    "words": r"\p{L}+|\p{N}|[^\p{L}\p{N}\s]+|\s",
    "end of the text": r"\s+$|\S+|\s",
    "a word with what is before it": r"\s*\S+|\s+",
    "behind": r"(?<=a)b+|[\s\S]",
    "again": r"(.)\1+|[\s\S]",
    "any case": r"(?i)st|le|[^\n]|\n",
    "one character": r"[\s\S]",
}


def export(tokenizer: BPETokenizer, folder: Path, bare: bool = False) -> Path:
    path = folder / "t.tiktoken"
    to_tiktoken(tokenizer, path)
    if bare:
        tiktoken_files.settings_path(path).unlink()
    return path


def theirs(tokenizer: BPETokenizer, pat_str: str) -> tiktoken.Encoding:
    return tiktoken.Encoding("x", pat_str=pat_str, mergeable_ranks=tokenizer.ranks, special_tokens={})


PUBLISHED_PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "cl100k": PATTERNS["cl100k"].regex,  # which test_split_patterns.py compares with tiktoken's
    "o200k": PATTERNS["o200k"].regex,
    "llama3": LLAMA3_PATTERN,
    **OWN,
}


@pytest.mark.parametrize("name", PUBLISHED_PATTERNS)
def test_the_ids_are_tiktokens(name: str, tmp_path: Path) -> None:
    pattern = PUBLISHED_PATTERNS[name]
    tok = from_tiktoken(export(BPETokenizer(TOKENS), tmp_path, bare=True), pattern=OWN.get(name, name))
    assert tok.pattern == OWN.get(name, name)
    encoding = theirs(tok, pattern)

    @settings(max_examples=150)
    @example(TEXT)
    @example("a \n ")  # where cl100k's pattern and Llama 3's differ
    @given(hard)
    def same(text: str) -> None:
        assert tok.encode(text) == encoding.encode_ordinary(text)
        if name != "end of the text":  # in Python's regular expressions $ also matches before a final new line
            assert tok.encode_slowly(text) == tok.encode(text)

    same()


def test_what_was_published() -> None:
    """The patterns, special tokens and sha256 of tiktoken, and Llama 3's special tokens."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("r50k_base", "p50k_base", "cl100k_base", "o200k_base"):
            digests: list[str] = []
            patch.setattr(
                openai_public, "load_tiktoken_bpe", lambda _, expected_hash, d=digests: d.append(expected_hash)
            )
            made = getattr(openai_public, name)()
            found[digests[0]] = (name, made["pat_str"], made["special_tokens"])
    ours = {digest: (one.name, regex_of(one.pattern), one.special_tokens) for digest, one in PUBLISHED.items()}
    (llama3,) = (ours.pop(digest) for digest in ours.keys() - found.keys())
    assert ours == found
    name, regex, special = llama3
    assert (name, regex, len(special)) == ("Llama 3", LLAMA3_PATTERN, 256)
    assert sorted(special.values()) == list(range(128000, 128256))
    some = {"begin_of_text": 128000, "end_of_text": 128001, "reserved_special_token_0": 128002, "start_header_id": 128006,
            "reserved_special_token_4": 128008, "eot_id": 128009, "reserved_special_token_5": 128010,
            "reserved_special_token_250": 128255}  # fmt: skip
    assert {name: special[f"<|{name}|>"] for name in some} == some


def test_gpt2s_ranks_are_known(gpt2: BPETokenizer, tmp_path: Path) -> None:
    assert from_tiktoken(export(gpt2, tmp_path, bare=True)) == gpt2
    with pytest.raises(InputError, match="'cl100k', but .* has the ranks of r50k_base, with the pattern 'gpt2'; leave"):
        from_tiktoken(export(gpt2, tmp_path, bare=True), pattern="cl100k")


def test_a_published_file_is_known_by_its_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends may be of any kind. Each free id above the ranks becomes a reserved token, so the size is tiktoken's."""
    path = export(BPETokenizer(TOKENS), tmp_path, bare=True)
    content = path.read_bytes()
    special = {END: 311, "<|endofprompt|>": 314}
    monkeypatch.setitem(PUBLISHED, hashlib.sha256(content).hexdigest(), Published("mine", "o200k", special))
    for written in (content, content.replace(b"\n", b"\r\n"), content.rstrip()):
        path.write_bytes(written)
        tok = from_tiktoken(path)
        assert tok.pattern == "o200k" and tok.end_of_text == 311
    assert tok.special_tokens == special | {f"<|reserved_{i}|>": i for i in (310, 312, 313)}
    encoding = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=tok.ranks, special_tokens=special)
    assert tok.vocab_size == encoding.n_vocab == 315
    assert from_tiktoken(path, pattern="o200k") == tok
    with pytest.raises(
        InputError, match="'gpt2', but .* has the ranks of mine, with the pattern 'o200k'; leave it out"
    ):
        from_tiktoken(path, pattern="gpt2")
    path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])  # one rank fewer
    with pytest.raises(InputError, match="give --pattern"):
        from_tiktoken(path)


SPECIAL: dict[str, Any] = {
    "none": (),
    "last": [END, "<|pad|>"],
    "first": {END: 0, "<|pad|>": 1},
    "within": {"<|pad|>": 7, END: 255, "<|a|>": 300},
}


@pytest.mark.parametrize("pattern", [*PATTERNS, *OWN])
@pytest.mark.parametrize("special", SPECIAL)
def test_our_own_export_comes_back(special: str, pattern: str, tmp_path: Path) -> None:
    tok = BPETokenizer(TOKENS, SPECIAL[special], OWN.get(pattern, pattern))
    path = export(tok, tmp_path)
    assert from_tiktoken(path) == tok
    assert from_tiktoken(path, pattern=tok.pattern) == from_tiktoken(path, pattern=regex_of(tok.pattern)) == tok
    encoding = tiktoken.Encoding(
        "x", mergeable_ranks=load_tiktoken_bpe(str(path)), **json.loads(tiktoken_files.settings_path(path).read_text())
    )
    text = TEXT + END
    assert encoding.encode(text, disallowed_special=()) == tok.encode(text)
    assert encoding.n_vocab == tok.vocab_size
    if tok.special_tokens:
        assert encoding.encode(text, allowed_special="all") == tok.encode(text, tok.special_tokens)


def test_names_of_regular_expressions() -> None:
    for name, pattern in PATTERNS.items():
        assert name_of(pattern.regex) == name_of(name) == name
    assert (name_of(GPT2_PATTERN), name_of(LLAMA3_PATTERN), name_of("x")) == ("gpt2", "llama3", "x")


def test_a_file_that_does_not_say_its_pattern(tmp_path: Path) -> None:
    path = export(BPETokenizer(TOKENS), tmp_path, bare=True)
    with pytest.raises(InputError, match=r"does not say how text is cut .* published files r50k_base, .*, Llama 3: give --pattern, one of gpt2, .*o200k or a regular") as error:  # fmt: skip
        from_tiktoken(path)
    assert "\n" not in str(error.value)
    assert from_tiktoken(path, pattern="llama3") == BPETokenizer(TOKENS, [END], "llama3")
    assert from_tiktoken(path, ["<|x|>"], "qwen2") == BPETokenizer(TOKENS, ["<|x|>"], "qwen2")
    assert from_tiktoken(path, {"<|x|>": 310}, "qwen2") == BPETokenizer(TOKENS, ["<|x|>"], "qwen2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "t.tiktoken.json does not hold the pat_str and the special_tokens of .*; correct or delete it"),
        ("[" * 100_000, "does not hold the pat_str"),
        ('{"pat_str": "x"}', "missing required field `special_tokens`"),
        ('{"pat_str": 5, "special_tokens": {}}', "does not hold the pat_str"),
        ('{"pat_str": "x", "special_tokens": {"a": true}}', "does not hold the pat_str"),
        ('{"pat_str": "x", "special_tokens": {}, "more": 1}', "unknown field `more`"),
        ('{"pat_str": "x", "special_tokens": {}}', "'x', but it must be one of gpt2, .* matches every character"),
        ('{"pat_str": "[^a]|a", "special_tokens": {"a": 5}}', "line 6 of .* has rank 5, where 6 is expected"),
        ('{"pat_str": "[^a]|a", "special_tokens": {"a": 310, "b": 310}}', "must be distinct"),
        ('{"pat_str": "[^a]|a", "special_tokens": {"a": -1}}', "must be distinct"),
        ('{"pat_str": "[^a]|a", "special_tokens": {"a": 1000000000000}}', "has id 1000000000000, but ids must be below"),
        ('{"pat_str": "[^a]|a", "special_tokens": {"": 310}}', "must be distinct and not empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_beside(content: str, message: str, tmp_path: Path) -> None:
    path = export(BPETokenizer(TOKENS), tmp_path)
    tiktoken_files.settings_path(path).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        from_tiktoken(path)
    assert "\n" not in str(error.value)


def test_a_pattern_that_is_not_the_files(tmp_path: Path) -> None:
    path = export(BPETokenizer(TOKENS, (), "llama3"), tmp_path)
    with pytest.raises(
        InputError, match="'gpt2', but .*t.tiktoken.json is there, with the pattern 'llama3'; leave it out"
    ):
        from_tiktoken(path, pattern="gpt2")


def test_gaps_without_special_tokens(tmp_path: Path) -> None:
    path = export(BPETokenizer(TOKENS, {END: 7}), tmp_path, bare=True)
    with pytest.raises(InputError, match="line 8 of .* has rank 8, where 7 is expected; no special token in .*json"):
        from_tiktoken(path, pattern="gpt2")
    assert from_tiktoken(path, {END: 7}, "gpt2") == BPETokenizer(TOKENS, {END: 7})


def test_what_tiktoken_has_no_form_for(tmp_path: Path) -> None:
    lacking = BPETokenizer([t for t in TOKENS if b"\xff" not in t])
    adding = BPETokenizer(TOKENS)
    adding.added = {"<tool>": 5}
    for tok, message in (
        (BPETokenizer(TOKENS, normalization="NFC"), "brings text into NFC, which tiktoken does not"),
        (lacking, "has no token for some bytes, which tiktoken"),
        (adding, "finds tokens that are not special in any text, which tiktoken"),
    ):
        with pytest.raises(InputError, match=message):
            to_tiktoken(tok, tmp_path / "t.tiktoken")
    assert not list(tmp_path.iterdir())


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(shlex.split(command)) == 0
    return capsys.readouterr().out


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tok = BPETokenizer(TOKENS, {END: 0, "<|a|>": 5})
    tok.save("tok.json")
    out = ran("tokenizer export tok.json --out t.tiktoken", capsys)
    assert out == "t.tiktoken: 310 ranks; t.tiktoken.json: the pattern and 2 special tokens (<|endoftext|>, <|a|>)\n"
    out = ran("tokenizer import t.tiktoken --out back.json", capsys)
    assert load_tokenizer("back.json") == tok
    assert "312 ids, 310 ranks and 2 special tokens (<|endoftext|>, <|a|>); to read: back.vocab.txt" in out
    BPETokenizer(TOKENS, ()).save("plain.json")
    assert "310 ranks; u.tiktoken.json: the pattern and 0 special tokens\n" in ran("tokenizer export plain.json --out u.tiktoken", capsys)  # fmt: skip
    Path("u.tiktoken.json").unlink()
    out = ran(f"tokenizer import u.tiktoken --out own.json --pattern {shlex.quote(OWN['words'])}", capsys)
    assert "311 ids, 310 ranks and 1 special token (<|endoftext|>);" in out
    assert load_tokenizer("own.json") == BPETokenizer(TOKENS, [END], OWN["words"])
    for wrong, message in (
        ("tokenizer import u.tiktoken --out x.json", "give --pattern, one of gpt2"),
        ("tokenizer import u.tiktoken --out x.json --pattern gpt5", "pattern is 'gpt5', but it must be one of gpt2"),
        ("tokenizer import u.tiktoken --out x.json --pattern ''", "pattern is '', but it must be one of gpt2"),
        ("tokenizer import tok.json --out x.json --pattern gpt2", "--pattern is for tiktoken's files"),
        ("tokenizer import tok.json --out x.json --pattern gpt2", "leave it out, or give --format tiktoken."),
        ("tokenizer export tok.json --out t.tiktoken", "t.tiktoken exists already"),
    ):
        assert main(shlex.split(wrong)) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    Path("t.tiktoken").unlink()
    assert main(shlex.split("tokenizer export tok.json --out t.tiktoken")) == 2
    assert "t.tiktoken.json exists already" in capsys.readouterr().err
    assert not Path("t.tiktoken").exists() and not Path("x.json").exists()
