"""Splitting and counting pieces: the same in chunks as in the whole text, and for any number of processes."""

import os
import signal
from collections import Counter

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer, WordTokenizer, bpe_encoding
from jaxllm.tokenizers.chunks import chunk_text
from jaxllm.tokenizers.gpt2_pieces import count_gpt2_pieces
from jaxllm.tokenizers.pre_tokenize import count_pieces, split_pieces
from jaxllm.tokenizers.split_patterns import GPT2_PATTERN
from jaxllm.tokenizers.word import split_words
from jaxllm.utils.processes import check_processes, in_processes, in_threads

TEXT = "Two  words, it's\n\n  \x1c \x1d more\x1c than\u00a0one\u3000 東京 12 123 !? \t\r\n it'll  do\x85 now. "
mixed = st.text(st.sampled_from(list("ab'st12!? \n\n\t\x1c\x85\u00a0\u3000é東")), max_size=60)


@example("a   b", 2)  # a chunk must not end between spaces
@example(TEXT * 3, 1)
@given(mixed, st.integers(1, 20))
def test_chunks_have_the_pieces_of_the_whole(text: str, size: int) -> None:
    chunks = list(chunk_text(text, size))
    assert "".join(chunks) == text
    assert [piece for chunk in chunks for piece in split_pieces(chunk)] == list(split_pieces(text))
    assert [word for chunk in chunks for word in split_words(chunk)] == split_words(text)


def test_chunks_have_the_size_asked_for() -> None:
    chunks = list(chunk_text("word " * 1000, 100))
    assert len(chunks) == 50 and max(map(len, chunks)) <= 105
    assert list(chunk_text("x" * 1000, 100)) == ["x" * 1000]  # one word is never cut
    assert list(chunk_text("", 100)) == [""]


@example(TEXT * 5)
@given(mixed)
def test_encoding_in_chunks_gives_the_same_ids(text: str) -> None:
    tok = BPETokenizer.train(TEXT * 2, 290)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_encoding, "PARALLEL", 7)
        in_chunks = tok.encode(text)
    assert in_chunks == tok.encode(text) == tok.encode_slowly(text)


def test_counts_are_the_same_for_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxllm.tokenizers.pre_tokenize.CHUNK", 500)
    texts = [*(TEXT * i for i in range(20)), TEXT]  # the last is too short for work of its own
    expected = Counter(piece.encode() for text in texts for piece in split_pieces(text))
    assert count_pieces(texts) == count_pieces(iter(texts), threads=2) == expected


def test_work_is_read_a_little_at_a_time_and_results_keep_its_order() -> None:
    taken = []

    def work() -> object:
        for i in range(40):
            taken.append(i)
            yield -i

    for in_parallel in (in_processes, in_threads):
        taken.clear()
        results = in_parallel(abs, work(), 2)
        assert next(results) == 0
        assert len(taken) <= 6  # not all 40
        assert list(results) == list(range(1, 40))


def _die(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(InputError, match="a worker process was killed .* 2 processes, ask for fewer"):
        list(in_processes(_die, [signal.SIGKILL], 2))


def test_an_error_in_a_worker_arrives() -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        list(in_processes(count_gpt2_pieces, [["fine", "a\ud800"]], 2))
    with pytest.raises(InputError, match="lone surrogate"):
        count_pieces(["fine", "a\ud800"], threads=2)


@pytest.mark.parametrize("processes", [0, -1, 1025])
def test_the_number_of_processes_is_checked(processes: int) -> None:
    check_processes(1)
    check_processes(1024)
    with pytest.raises(InputError, match=f"processes is {processes}, but it must be from 1"):
        BPETokenizer.train("text", 300, processes=processes)


def test_words_are_counted_in_any_iterable() -> None:
    assert WordTokenizer.train(chunk_text(TEXT, 3)) == WordTokenizer.train(TEXT)


SCRIPTS = (
    "Ünïcödé Ελληνικά Кириллица עברית العربية हिन्दी বাংলা தமிழ் ไทย 한국어 日本語 中文 ქართული አማርኛ ᏣᎳᎩ 𝔐𝔞𝔱𝔥 👩‍👩‍👧🇬🇧❤️"
)
HARD = [
    "", "a  b   c    d", "  lead and trail  ", "it's IT'S we'll 'tis don''t '", "x\t\ty \r\n\r\n z\u00a0\u2003\u3000w", SCRIPTS,
    SCRIPTS.replace(" ", "  "), "1 22 333 ½ ² ١٢٣ Ⅷ", "!? ...---... <|endoftext|> $%&", "\0\x1c\x85\u2028", "aA1!" * 300,
]  # fmt: skip


def test_gpt2_ids_are_tiktokens(gpt2: BPETokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in chunks, with the published pattern: any text, and random bytes decoded with replacement."""
    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=gpt2.ranks, special_tokens={})
    broken = [np.random.default_rng(i).bytes(2000).decode(errors="replace") for i in range(20)]
    runs = [character * 10_000 for character in "a 1^\n東🙂"]

    @given(st.text(st.characters(exclude_categories=("Cs", "Cn"))))
    def same(text: str) -> None:
        assert gpt2.encode(text) == theirs.encode_ordinary(text)

    for parallel in (bpe_encoding.PARALLEL, 5):
        monkeypatch.setattr(bpe_encoding, "PARALLEL", parallel)
        for text in (*HARD, *broken, *runs):
            assert gpt2.encode(text) == theirs.encode_ordinary(text)
            assert gpt2.decode(gpt2.encode(text)) == text
        same()
