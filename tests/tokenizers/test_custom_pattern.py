"""Custom regular expressions that split text into pieces."""

from pathlib import Path

import pytest

from jaxllm import InputError
from jaxllm.data.shard_writer import separator_of
from jaxllm.tokenizers import BPETokenizer, chunks, custom_pattern, load_tokenizer
from jaxllm.tokenizers.custom_pattern import PROBE
from jaxllm.tokenizers.formats import to_hugging_face
from tests.tokenizers.test_tiktoken_files import OWN, TEXT, TOKENS, theirs

pytestmark = pytest.mark.newest


@pytest.mark.parametrize("name", OWN)
def test_a_file_keeps_the_pattern(name: str, tmp_path: Path) -> None:
    tok = BPETokenizer(TOKENS, pattern=OWN[name])
    tok.save(tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json") == tok
    assert tok.decode(tok.encode(TEXT)) == TEXT
    with pytest.raises(
        InputError, match="is a regular expression that Hugging Face tokenizers may match differently; export"
    ):
        to_hugging_face(tok, tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"it is not valid \(Parsing error"),
        ("(" * 400 + "a" + ")" * 400, "too deeply nested"),
        (r"\w{1000}|[\s\S]", r"it is not valid \(Error compiling"),
        (r"\\p{11}\p{L}{3,7}{ 13 , }|[\s\S]", "its counts in braces make 1,001 when multiplied, more than 1,000"),
        ("|".join([r"(?=a)\p{L}{90}"] * 60), "its counts in braces make"),
        (r"a)|(?:[\s\S]", r"it is not valid \("),
        ("\ud800", r"it is not valid \("),
        (".", r"does not match '\\n' at position 2 of the text"),
        (r"\s*|[\s\S]", r"does not match '\\x00' at position 0"),  # an empty piece does not count
        ("", r"does not match '\\x00' at position 0"),
        ("[^१]", "does not match '१' at position "),
        ("[\\s\\S]" * 200, "has 1,200 characters, more than 1,000"),
        (r"(?:[^b]|(?=[\s\S])[^b])*!!|[\s\S]", "gives up on the text .*simplify the pattern"),
    ],
)
def test_patterns_that_cannot_be_used(pattern: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=f"(?s)but it must be one of gpt2, .*{message}") as error:
        BPETokenizer(TOKENS, pattern=pattern)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_pattern_that_leaves_characters_out_of_a_text(capfd: pytest.CaptureFixture[str]) -> None:
    """The probe has no such character, and tiktoken's own ids would lack it."""
    assert "Ж" not in PROBE
    tok = BPETokenizer(TOKENS, pattern=r"aЖ|[^Ж]")
    assert tok.decode(tok.encode("xaЖ b")) == "xaЖ b"
    assert theirs(tok, tok.pattern).decode(theirs(tok, tok.pattern).encode_ordinary("aa東 Ж b")) == "aa東  b"
    with pytest.raises(InputError, match=r"does not match 'Ж' at position 4 of the text; let it end with \|\[\\s\\S\]"):
        tok.encode("aa東 Ж b")
    tok = BPETokenizer(TOKENS, pattern=r"(?=Ж)|[^Ж]|Ж")  # tiktoken panics where nothing is matched
    with pytest.raises(InputError, match="does not match 'Ж' at position 1"):
        tok.encode("aЖ")
    assert capfd.readouterr().err == ""


def test_a_pattern_of_too_many_steps() -> None:
    tok = BPETokenizer(TOKENS, pattern=r"(?:(?=a)a|a)*!b|[\s\S]")
    assert tok.decode(tok.encode("aaa!b")) == "aaa!b"
    with pytest.raises(InputError, match="the tokenizer's pattern gives up on the text .* simplify the pattern"):
        tok.encode("a" * 3000 + "!")


def test_a_long_text_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of such a pattern may end anywhere, and a text of unlimited length would need unlimited memory."""
    monkeypatch.setattr(chunks, "CHUNK", 5)
    monkeypatch.setattr("jaxllm.tokenizers.bpe_encoding.PARALLEL", 5)
    tok = BPETokenizer(TOKENS, pattern=r"e\s+e|[\s\S]")
    text = "the end " * 9
    assert list(tok.encode_stream([text, text])) == [tok.encode(text * 2)]
    with pytest.raises(InputError, match="a text of over 16,777,216 characters has to be cut, .* several documents"):
        tok.encode_chunk(text, 2**24)
    assert separator_of(BPETokenizer(TOKENS, (), tok.pattern)) == [ord("\n")]


def test_absent_bytes() -> None:
    with pytest.raises(InputError, match="a regular expression, which needs a token for each byte"):
        BPETokenizer([t for t in TOKENS if b"\xff" not in t], pattern=r"[\s\S]")


def test_a_pattern_that_python_does_not_know() -> None:
    tok = BPETokenizer(TOKENS, pattern=r"[\s\S]|\x{41}")
    assert tok.encode("A") == [65]
    with pytest.raises(InputError, match="is not a regular expression that Python's regex accepts"):
        tok.encode_slowly("A")


def test_the_check_of_a_pattern_is_cached() -> None:
    custom_pattern.check_pattern(OWN["words"])
    before = custom_pattern._wrong.cache_info().hits
    custom_pattern.check_pattern(OWN["words"])
    assert custom_pattern._wrong.cache_info().hits == before + 1
