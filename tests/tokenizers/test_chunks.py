"""A long text in chunks has the ids of the whole text, and decodes to the same bytes, with every tokenizer."""

import io
import shlex
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import open_split
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer, chunks
from jaxllm.tokenizers.chunks import chunk_text, rechunk
from jaxllm.tokenizers.sentencepiece import PREFIXES
from jaxllm.tokenizers.split_patterns import PATTERNS
from tests.tokenizers.test_sentencepiece import MERGES, SPECIAL, TEXT, TOKENS
from train import evaluate
from train.cli import main

pytestmark = pytest.mark.newest

ALPHABET = "thein12 <>/b.! \n\t\r-'sé東🙂▁"
hard = st.lists(st.text(ALPHABET, max_size=30) | st.sampled_from([TEXT, "<b> the", "e the", "!\n/ x"]), max_size=5)
MORE = ["e t", "</b>", ">\n<"]  # found in any text; the first crosses the boundary between two words
BPE = BPETokenizer(
    [*BPETokenizer.train(TEXT * 2 + ALPHABET, 290).tokens, b"\n/"]
)  # only o200k's pattern has the last as a piece


def sentencepiece(prefix: str, added: list[str]) -> SentencePieceTokenizer:
    more = [name for name in added if name not in TOKENS]
    return SentencePieceTokenizer([*TOKENS, *more], MERGES, SPECIAL, added, prefix)


def short_tokens(prefix: str) -> SentencePieceTokenizer:
    """Without tokens that have a space within, or after another space."""
    kept = [(a, b) for a, b in MERGES if "▁" not in (TOKENS[a] + TOKENS[b])[1:]]
    return SentencePieceTokenizer(TOKENS, kept, SPECIAL, ["<b>"], prefix)


TOKENIZERS: dict[str, Tokenizer] = {
    **{f"bpe {pattern}": BPETokenizer(BPE.tokens, pattern=pattern) for pattern in PATTERNS},
    "bpe NFC": BPETokenizer(BPE.tokens, pattern="qwen2", normalization="NFC"),
    "char": CharTokenizer.train(TEXT + ALPHABET + "acdx"),
    "word": WordTokenizer.train(TEXT),
    **{f"sentencepiece {prefix}": sentencepiece(prefix, []) for prefix in PREFIXES},
    **{f"sentencepiece {prefix}, added": sentencepiece(prefix, ["<b>", "\n\n", *MORE]) for prefix in PREFIXES},
    **{f"sentencepiece {prefix}, short": short_tokens(prefix) for prefix in PREFIXES},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_chunks_have_the_ids_of_the_whole(name: str) -> None:
    """For texts that arrive in any pieces, and chunks of any length."""
    tok = TOKENIZERS[name]

    @settings(max_examples=150)
    @example([TEXT, "\n/ " + TEXT], 1)
    @example(["the e t", "he the<b", "> the<b> the </b> the >\n< the"], 1)
    @example(["a  b   c    d !", "\n", "/ x \n \n", " "], 1)
    @given(hard, st.integers(1, 30))
    def same(texts: list[str], size: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "CHUNK", size)
            ids = list(chain.from_iterable(tok.encode_stream(iter(texts))))
            assert ids == tok.encode("".join(texts))
            assert "".join(rechunk(texts, tok.chunks)) == "".join(texts)

    same()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_text_is_cut(name: str) -> None:
    lengths = [len(part) for part in TOKENIZERS[name].chunks("the thin it! " * 100, 50)]
    assert len(lengths) > 20 and max(lengths) < 80


names = st.sets(st.text("ab<> ", min_size=1, max_size=4), max_size=4)


@example("xxa b c", 4, {"a b"}, 1)
@example("bba bbb", 0, {"a"}, 1)
@given(st.text("ab<> ", max_size=30), st.integers(0, 30), names, st.integers(1, 5))
def test_no_chunk_ends_in_a_name(text: str, known: int, names: set[str], size: int) -> None:
    """Nor in a name of which only the beginning is known yet."""
    *ended, last = chunk_text(text, size, whole=names)
    assert "".join([*ended, last]) == text
    for end in np.cumsum([len(part) for part in ended]).tolist():
        for name in names:
            assert not any(text.startswith(name, at) for at in range(max(end - len(name), 0), end))
    *sooner, _ = chunk_text(text[:known], size, whole=names)
    assert ended[: len(sooner)] == sooner


@pytest.mark.parametrize("prefix", ["none", "part"])
@settings(max_examples=100)
@given(text=st.text(ALPHABET.replace("▁", ""), max_size=40))
def test_the_same_bytes_come_back(prefix: str, text: str) -> None:
    tok = sentencepiece(prefix, [])
    assert tok.text_bytes(tok.encode(text)) == text.encode()


def test_bytes_that_are_no_text_come_back() -> None:
    tok = sentencepiece("part", [])
    ids = tok.encode(" é")
    assert tok.text_bytes(ids[:-1]) == b" \xc3" and tok.decode(ids[:-1]) == " \ufffd"
    assert BPE.text_bytes(BPE.encode(" é")[:-1]) == b" \xc3"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_commands(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "CHUNK", 40)
    text = (TEXT + "\n") * 5
    Path("x.txt").write_text(text)
    tok = sentencepiece(prefix, ["<b>"])
    tok.save("tok.json")

    def ran(command: str) -> bytes:
        capfdbinary.readouterr()
        assert main(shlex.split(command)) == 0
        return capfdbinary.readouterr().out

    ids = ran("tokenizer encode tok.json x.txt")
    assert list(map(int, ids.split())) == tok.encode(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids)))
    assert ran("tokenizer decode tok.json") == tok.decode(tok.encode(text)).encode()
    if prefix != "part":  # which adds a space after an added token too, and keeps it
        assert tok.decode(tok.encode(text)) == text


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name.startswith(("sent", "bpe o200k", "word"))])
def test_shards_hold_the_ids_of_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 40)
    monkeypatch.setattr("jaxllm.data.shard_writer.CHUNK", 100)
    tok, corpus = TOKENIZERS[name], tmp_path / "corpus"
    corpus.mkdir()
    texts = [f"{TEXT}{i}\n" * 7 for i in range(3)]
    for i, text in enumerate(texts):
        (corpus / f"{i}.txt").write_text(text)
    index = prepare_shards([str(corpus)], tok, tmp_path / "out", validation=0)
    stored = open_split(tmp_path / "out", index, "train")[:].tolist()
    newline = next(iter(sentencepiece("none", []).encode("\n")))
    between = [newline] if tok.end_of_text is None else [tok.end_of_text]
    expected = [i for text in texts for i in [*between, *tok.encode(text)]]
    assert stored == expected[len(between) :]


def test_an_unknown_character_is_counted_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 10)
    with pytest.raises(InputError, match="character 'x' .* at position 42 is not among"):
        list(CharTokenizer("ab ").encode_stream(["ab " * 14 + "x"]))


@pytest.mark.parametrize("name", ["bpe gpt2", "char", "sentencepiece part"])
def test_bytes_are_counted_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tok = TOKENIZERS[name]
    ids = np.array(tok.encode(TEXT), np.int32)
    whole = evaluate.score(1.0, ids, tok).n_bytes
    assert whole == len(TEXT.encode()) - len(tok.text_bytes(ids[:1].tolist()))
    for chunk in (1, 2, 7):
        monkeypatch.setattr(evaluate, "CHUNK", chunk)
        assert evaluate.score(1.0, ids, tok).n_bytes == whole


def test_where_chunks_end() -> None:
    """For a tokenizer with tokens that have spaces within, chunks end only where a word does."""
    tok = sentencepiece("part", [])
    text = (TEXT + "! ") * 3
    found = list(tok.chunks(text, 10))
    assert len(found) > 2
    for before, after in pairwise(found):
        assert after.startswith(" ") and before[-1:] not in tok._before_spaces
