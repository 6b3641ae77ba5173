"""Byte pairs over characters: the ids of a plain merge of the whole text, and round trips through files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peers import hugging_face_tokenizers

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files, save_tokenizer_files
from jaxllm.tokenizers import SentencePieceTokenizer, load_tokenizer, textbook
from jaxllm.tokenizers.formats.read_tokenizer_json import tokenizer_of
from jaxllm.tokenizers.listing import vocabulary_text
from jaxllm.tokenizers.sentencepiece import BYTES, PREFIXES, SPACE

pytestmark = pytest.mark.newest

TEXT = "the theatre that  the thieves <b> </b> thought    of then there the\tend\nof <b> </b> it ther"
SPECIAL, ADDED = ["<unk>", "<s>", "</s>"], ["<b>", "\n\n"]
hard = st.text("thein <>/bs \n\té東🙂▁", max_size=40)


def tokens_and_merges(n: int = 40) -> tuple[list[str], list[tuple[int, int]]]:
    """Special tokens, bytes, characters, and the tokens that merging the most frequent pairs of the text makes.

    Pairs are counted across words, so some tokens have spaces within, which is rare in real vocabularies.
    """
    written = TEXT.replace(" ", SPACE)
    tokens = [*SPECIAL, *BYTES, *sorted(set(written)), *ADDED[:1]]
    ids: list[int] = [tokens.index(character) for character in written]
    merges = []
    while len(merges) < n:
        counts = textbook.count_pairs({tuple(ids): 1})
        left, right = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append((left, right))
        if tokens[left] + tokens[right] not in tokens:
            tokens.append(tokens[left] + tokens[right])
        ids = textbook.merge(ids, (left, right), tokens.index(tokens[left] + tokens[right]))
    return [*tokens, ADDED[1]], merges


TOKENS, MERGES = tokens_and_merges()


def tokenizer(prefix: str = "part", added: Any = ADDED) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TOKENS, MERGES, SPECIAL, added, prefix)


def merged(text: str) -> list[int]:
    """The ids after merging, again and again, the leftmost occurrence of the pair that is first in the list."""
    ids = []
    for c in text.replace(" ", SPACE):
        ids += [TOKENS.index(c)] if c in TOKENS else [TOKENS.index(BYTES[b]) for b in c.encode()]
    while found := [(MERGES.index(pair), i) for i, pair in enumerate(pairwise(ids)) if pair in MERGES]:
        _, i = min(found)
        ids[i : i + 2] = [TOKENS.index(TOKENS[ids[i]] + TOKENS[ids[i + 1]])]
    return ids


@settings(max_examples=150)
@example("", "none")
@example(TEXT, "none")
@example(" " * 33 + "the " * 20, "part")
@given(hard, st.sampled_from(PREFIXES))
def test_words_merge_as_the_whole_text_does(text: str, prefix: str) -> None:
    before = prefix == "part" or prefix != "none" and text[:1] not in (" ", SPACE)
    assert tokenizer(prefix, ()).encode(text) == (merged(" " * before + text) if text else [])


def test_some_tokens_have_spaces_within() -> None:
    assert any(SPACE in token.strip(SPACE) for token in TOKENS) and tokenizer()._word_starts.pattern.startswith("(?<=")
    assert tokenizer("none", ())._word_starts.split(f"a{SPACE}b") == ["a", f"{SPACE}b"]


@settings(max_examples=100)
@given(hard, st.sampled_from(PREFIXES))
def test_the_text_comes_back(text: str, prefix: str) -> None:
    ids = tokenizer(prefix).encode(text)
    assert "".join(tokenizer(prefix).decode_stream(iter(ids))) == tokenizer(prefix).decode(ids)
    if prefix in ("none", "part"):  # the others add no space before a space, and remove one when decoding
        tok = tokenizer(prefix, ())
        assert tok.decode(tok.encode(text)) == text.replace(SPACE, " ")


def test_what_is_put_before() -> None:
    text = "the<b> the"
    spaces = {"none": "the|<b>| the", "part": " the|<b>|  the", "always": " the|<b>| the", "first": " the|<b>| the"}
    for prefix, written in spaces.items():
        first, mark, last = written.split("|")
        assert tokenizer(prefix).encode(text) == [*merged(first), TOKENS.index(mark), *merged(last)]
    for prefix, last in (("always", " the"), ("first", "the")):
        assert tokenizer(prefix).encode("<s>the", ["<s>"]) == [1, *merged(last)]
        assert tokenizer(prefix).encode_parts([1, "the"]) == [1, *merged(last)]


def test_special_tokens_are_text_unless_allowed() -> None:
    """Even where a merge would make one."""
    tok = SentencePieceTokenizer([*TOKENS, "<s"], [(TOKENS.index("<"), TOKENS.index("s")), (len(TOKENS), TOKENS.index(">"))], SPECIAL, (), "none")  # fmt: skip
    assert tok.encode("<s>") == [len(TOKENS), TOKENS.index(">")]
    assert tok.encode("a<s>", ["<s>"])[-1] == 1 and tok.decode([1, 2]) == "<s></s>"
    with pytest.raises(InputError, match="'<b>' is not a special token; there are <unk>, <s>, </s>"):
        tok.encode("a", ["<b>"])


def test_bytes() -> None:
    tok = tokenizer("none")
    ids = tok.encode("é🙂")
    assert [tok.tokens[i] for i in ids] == ["<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    assert tok.decode(ids) == "é🙂" and tok.decode(ids[:3]) == "é\ufffd"
    assert list(tok.decode_stream(ids)) == ["é", "🙂"]
    assert tokenizer().decode_bytes(tokenizer().encode("the")) == b" the"
    assert "[ the]" in vocabulary_text(tokenizer())
    with pytest.raises(InputError, match="lone surrogate"):
        tok.encode("\ud800")
    with pytest.raises(InputError, match="is outside the vocabulary"):
        tok.decode([tok.vocab_size])


def test_a_conversation() -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}"
    chat = ChatFormat(1, (2,), "<s>", "</s>", template)
    tok = tokenizer()
    ids = encode_chat(tok, chat, [{"role": "user", "content": "the </s>"}])
    assert ids == [1, *merged(" [the </s>]"), 2]


def test_a_file_keeps_it(tmp_path: Path) -> None:
    for prefix in PREFIXES:
        tokenizer(prefix).save(tmp_path / "t.json")
        assert load_tokenizer(tmp_path / "t.json") == tokenizer(prefix)
    assert len({tokenizer(prefix).fingerprint() for prefix in PREFIXES}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": TOKENS[1:]}, "there is no token '<unk>'|merge"),
        ({"tokens": [*TOKENS, "<s>"]}, "'tokens' holds a token twice"),
        ({"tokens": [t for t in TOKENS if t != "<0x41>"]}, "there is no token '<0x41>'|merge"),
        ({"tokens": [*TOKENS, "\ud800"]}, "surrogate"),
        ({"added": ["zz"]}, "there is no token 'zz'"),
        ({"prefix": None}, "prefix is 'None', but a SentencePiece tokenizer needs 256 bytes and a prefix of none, part"),
        ({"merges": 5}, "'merges' must be a list of pairs of ids"),
        ({"merges": [[1, 2, 3]]}, "'merges' must be a list of pairs of ids"),
        ({"merges": [[0, len(TOKENS)]]}, "'merges' must be a list of pairs of ids"),
        ({"merges": [[0, -1]]}, "'merges' must be a list of pairs of ids"),
        ({"merges": [[0, True]]}, "'merges' must be a list of pairs of ids"),
        ({"merges": [[0, 0]]}, "merge 0 makes '<unk><unk>', which is not a token"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer().save(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps(json.loads((tmp_path / "t.json").read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path / "t.json")


def metadata(**more: Any) -> dict[str, Any]:
    """Keys of a GGUF file: a token's score says when it is merged."""
    made = [TOKENS[left] + TOKENS[right] for left, right in MERGES]
    kinds = [3 if t in SPECIAL else 6 if t in BYTES else 4 if t in ADDED else 1 for t in TOKENS]
    scores = [float(-made.index(token)) if token in made else 0.0 for token in TOKENS]
    keys = {"model": "llama", "tokens": TOKENS, "scores": np.array(scores, "<f4"), "token_type": np.array(kinds), "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | more).items()}


def test_scores_of_gguf() -> None:
    tok, chat = read_gguf_tokenizer(metadata(), "x.gguf")
    assert isinstance(tok, SentencePieceTokenizer) and (tok.prefix, list(tok.added)) == ("part", ADDED)
    assert (chat.begin_token, chat.end_tokens, list(tok.special_tokens)) == (1, (2,), SPECIAL)
    for text in (TEXT, "the</b> <b>  \n\n thé"):
        assert tok.encode(text) == tokenizer().encode(text)
    more = {"add_space_prefix": False, "add_bos_token": False}
    tok, chat = read_gguf_tokenizer(metadata(**more), "x.gguf")
    assert (tok.prefix, chat.begin_token) == ("none", None)  # type: ignore[union-attr]
    for key, value, message in (
        ("scores", [0.0], "tokenizer.ggml.scores has 1 values for 322 tokens"),
        ("scores", "x", "tokenizer.ggml.scores has 1 values for 322 tokens"),
        ("scores", 5, "is no GGUF file with a tokenizer of byte pairs"),
        ("tokens", TOKENS[3:], "or not a type for each of its"),
        ("tokens", [*TOKENS[:-1], TOKENS[0]], "holds a token twice"),
    ):
        with pytest.raises(InputError, match=message):
            read_gguf_tokenizer(metadata(**{key: value}), "x.gguf")


def test_equal_scores_of_gguf() -> None:
    """In the order of transformers: by score, by the length of the left part, and then as in the file."""
    tokens = [*BYTES, "a", "b", "c", "ab", "bc", "abc"]
    scores = np.array([0.0] * 259 + [-2, -2, -1], "<f4")
    keys = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": np.array([6] * 256 + [1] * 6)}
    tok, _ = read_gguf_tokenizer({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "x.gguf")
    assert isinstance(tok, SentencePieceTokenizer)
    pairs = [(tokens[left], tokens[right]) for left, right in tok.merges]
    assert pairs == [("ab", "c"), ("a", "bc"), ("a", "b"), ("b", "c")]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_hugging_face_gives_the_same_ids(prefix: str, tmp_path: Path) -> None:
    """For files that we write and that transformers writes again, with the prefixes of Llama and Gemma among them."""
    tokenizers = hugging_face_tokenizers()
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra `peers`")
    ours, chat = tokenizer(prefix), ChatFormat(1, (2,), "<s>", "</s>", "{{ bos_token }}{{ messages[0].content }}")
    save_tokenizer_files(tmp_path, ours, chat)
    assert load_tokenizer_files(tmp_path) == (ours, chat)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @settings(max_examples=150)
    @example(TEXT + "\n\n<s>" + TEXT)
    @given(hard | st.text(st.characters(exclude_categories=("Cs", "Cn"))))
    def same(text: str) -> None:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text, ours.special_tokens)
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)

    same()
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.encode(TEXT) == [1, *ours.encode(TEXT)]
    auto.save_pretrained(tmp_path / "again")
    assert load_tokenizer_files(tmp_path / "again") == (ours, chat)


def test_other_forms_of_hugging_face(tmp_path: Path) -> None:
    save_tokenizer_files(tmp_path, tokenizer("none"))
    content = json.loads((tmp_path / "tokenizer.json").read_text())

    def read(**change: Any) -> SentencePieceTokenizer:
        tok = tokenizer_of(content | change, "t.json")
        assert isinstance(tok, SentencePieceTokenizer)
        return tok

    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    assert read(normalizer=replace, pre_tokenizer=split) == read(normalizer=replace, pre_tokenizer=None) == read()
    merges = [f"{TOKENS[left]} {TOKENS[right]}" for left, right in MERGES]
    assert read(model=content["model"] | {"merges": merges, "unk_token": "<unk>", "fuse_unk": True}) == read()
    prepend = [{"type": "Prepend", "prepend": SPACE}, replace]
    meta = content["pre_tokenizer"]
    for change in (
        {"normalizer": {"type": "Sequence", "normalizers": prepend[::-1]}, "pre_tokenizer": None},
        {"normalizer": replace, "pre_tokenizer": meta},
        {"pre_tokenizer": meta | {"split": True}},
        {"pre_tokenizer": meta | {"prepend_scheme": "never", "replacement": "_"}},
        {"pre_tokenizer": None},
    ):
        with pytest.raises(InputError, match="do more than write spaces as SentencePiece does, which would give other"):
            read(**change)
    for change, message in (
        ({"model": content["model"] | {"ignore_merges": True}}, "has model.ignore_merges"),
        ({"model": content["model"] | {"merges": [["zz", "z"]]}}, "KeyError, 'zz'"),
        ({"added_tokens": [{"content": "<s>", "id": 400}]}, "are not 0 to"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": prepend}, "pre_tokenizer": None,
             "added_tokens": [{"content": "<s>", "id": 1, "normalized": True}]},
            "has normalized tokens",
        ),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read(**change)
