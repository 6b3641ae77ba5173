"""The page on byte-pair encoding, alone, gives the merges, ids and texts of `BPETokenizer`."""

import ast
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxllm.tokenizers import BPETokenizer, textbook
from jaxllm.tokenizers.bpe_training import learn_merges
from jaxllm.tokenizers.pre_tokenize import count_pieces

TEXTS = {
    "sentence": "Please buy an apple and an orange. The apple's cores, 1234 of them, aren't oranges.\n",
    "words": "low lower lowest " * 9,
    "marks": "🙂🙂👩‍👩‍👧 🙂🙂 é東京 e\u0301\r\n\t \u00a0\u2003 end  ",
    "spaces": ("x" + " " * 8 + "\n") * 9 + "  y",  # two spaces are a token, and here they are in two pieces
    "letters": "aaabdaaabac",
    "one": "x",
}
assigned = st.characters(exclude_categories=("Cs", "Cn"))  # libraries of different ages split the others differently


def bpe(text: str, n_merges: int) -> BPETokenizer:
    """The tokenizer with so many merges, and no note where the text has fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BPETokenizer.train(text, 256 + n_merges, special_tokens=())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("n_merges", [0, 1, 20, 200])
def test_it_learns_encodes_and_decodes_as_the_tokenizer(name: str, n_merges: int) -> None:
    text = TEXTS[name]
    merges, tok = textbook.train(text, 256 + n_merges), bpe(text, n_merges)
    assert merges == learn_merges(count_pieces([text]), n_merges)
    assert textbook.tokens_of(merges) == list(tok.tokens)
    for other in (*TEXTS.values(), ""):
        ids = textbook.encode(other, merges)
        assert ids == tok.encode(other)
        assert textbook.decode(ids, merges) == other
        assert textbook.decode(ids[:-1], merges) == tok.decode(ids[:-1])  # which may end within a character


@example("it's we'll I'M don't 12 ab12")
@given(st.text(assigned))
def test_any_text(text: str) -> None:
    merges = textbook.train(text, 266)
    assert textbook.encode(text, merges) == (bpe(text, 10).encode(text) if text else [])
    assert textbook.decode(textbook.encode(text, merges), merges) == text


def test_a_text_of_nothing_teaches_nothing() -> None:
    assert textbook.train("", 300) == textbook.encode("", [(97, 97)]) == [] and textbook.decode([], []) == ""


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="vocab_size is 255, but the bytes alone are 256 ids"):
        textbook.train("a", 255)
    for refused in (lambda: textbook.train("a\ud800", 300), lambda: textbook.encode("\ud800", [])):
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            refused()
    for i in (-1, 257):
        with pytest.raises(KeyError, match=str(i)):
            textbook.decode([i], [(97, 97)])


def test_it_needs_nothing_of_jaxllm() -> None:
    page = ast.parse(Path(textbook.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(page) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(page) if isinstance(node, ast.Import) for name in node.names}
    assert modules == {"collections", "collections.abc", "itertools", "regex"}
