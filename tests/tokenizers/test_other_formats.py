"""Tokenizers to and from the files of other programs: equal ids, and settings that would change them refused."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import hugging_face_tokenizers

from jaxllm import InputError
from jaxllm.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)
from jaxllm.tokenizers.formats import from_hugging_face, from_tiktoken, to_hugging_face, to_tiktoken
from jaxllm.tokenizers.formats.read_tokenizer_json import begin_token_of
from jaxllm.tokenizers.listing import vocabulary_text
from jaxllm.tokenizers.merges import merges_of
from jaxllm.tokenizers.split_patterns import GPT2_FAST_PATTERN
from jaxllm.utils.utf8 import visible

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. Ünïcödé 東京 🙂🙂 123 1234\n\n  the end."
END = "<|endoftext|>"
BPE = BPETokenizer.train(TEXT, 300, special_tokens=[END, "<|pad|>"])
FIRST = BPETokenizer(BPE.tokens, {END: 0, "<|pad|>": 7})  # special tokens among the others
HARD = [
    TEXT,
    "a  b   c \n\n d",
    "it's WE'LL I'm 'tis",
    "\t\r\n \u00a0\u2003x",
    "مرحبا שלום नमस्ते 한국어",
    "👩‍👩‍👧 e\u0301",
    "١٢٣ ½ ²",
    "",
]
assigned = st.text(st.characters(exclude_categories=("Cs", "Cn")))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name, tok in (("last", BPE), ("first", FIRST)):
        to_hugging_face(tok, folder / f"{name}.json")
        to_tiktoken(tok, folder / f"{name}.tiktoken")
    return folder


@pytest.mark.parametrize("name", ["last", "first"])
def test_hugging_face_gives_the_same_ids(exported: Path, name: str) -> None:
    tokenizers = hugging_face_tokenizers()
    theirs = tokenizers.Tokenizer.from_file(str(exported / f"{name}.json"))
    ours = from_hugging_face(exported / f"{name}.json")
    assert ours == {"last": BPE, "first": FIRST}[name]

    @given(assigned)
    def same(text: str) -> None:
        assert theirs.encode(text).ids == ours.encode(text, {END})  # hypothesis tries texts of the sources too

    same()
    for text in HARD:
        assert theirs.encode(text).ids == ours.encode(text)
        assert theirs.decode(theirs.encode(text).ids) == text
    assert theirs.encode(f"a {END} b").ids == ours.encode(f"a {END} b", {END})
    assert theirs.get_vocab_size() == ours.vocab_size


@pytest.mark.parametrize("ids", [[299], [298], [7], []])
def test_hugging_face_puts_the_ids_of_a_post_processor_before_a_text(ids: list[int], exported: Path) -> None:
    tokenizers = hugging_face_tokenizers()
    content = json.loads((exported / "last.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {END: {"id": END, "ids": ids, "tokens": [END] * len(ids)}},
    }
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content)).encode(TEXT).ids
    begins = begin_token_of(content, "t.json")
    assert theirs == [*([] if begins is None else [begins]), *BPE.encode(TEXT)]


def test_what_hugging_face_has_trained_comes_in(tmp_path: Path) -> None:
    tokenizers = hugging_face_tokenizers()
    level = tokenizers.pre_tokenizers.ByteLevel
    for special in ([], [END]):
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
        theirs.pre_tokenizer = level(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=level.alphabet(), show_progress=False)  # fmt: skip
        theirs.train_from_iterator([TEXT], trainer)
        theirs.save(str(tmp_path / "t.json"))
        ours = from_hugging_face(tmp_path / "t.json")
        assert ours.special_tokens == {name: 0 for name in special}
        for text in HARD:
            assert theirs.encode(text).ids == ours.encode(text)


def test_the_same_merges_as_hugging_face_where_the_tie_rule_is_the_same() -> None:
    """Their rule is ours, lowest ids first, but their ids of bytes are in the order of GPT-2's characters.

    So each byte is handed to them as a character that sorts where the byte does.
    """
    tokenizers = hugging_face_tokenizers()
    from jaxllm.tokenizers.pre_tokenize import split_pieces

    text = TEXT * 3 + Path(__file__).read_text()
    n, base = 700, 0x4E00
    pieces = ["".join(chr(base + b) for b in piece.encode()) for piece in split_pieces(text)]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    alphabet = [chr(base + b) for b in range(256)]
    theirs.train_from_iterator(pieces, tokenizers.trainers.BpeTrainer(vocab_size=n, initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    ids = {i: bytes(ord(c) - base for c in token) for token, i in theirs.get_vocab().items()}
    assert tuple(ids[i] for i in range(n)) == BPETokenizer.train(text, n, special_tokens=()).tokens


def test_tiktoken_gives_the_same_ids(exported: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    for name, ours in (("last", BPE), ("first", FIRST)):
        ranks = load_tiktoken_bpe(str(exported / f"{name}.tiktoken"))
        theirs = tiktoken.Encoding("x", pat_str=GPT2_FAST_PATTERN, mergeable_ranks=ranks, special_tokens={})
        for text in HARD:
            assert theirs.encode_ordinary(text) == ours.encode(text)
    assert from_tiktoken(exported / "last.tiktoken", [END, "<|pad|>"]) == BPE


OVERLAPPING = st.text(st.sampled_from(" <b>xte\u0301\u0338é\nq"), max_size=30)


@pytest.mark.parametrize("normalization", [None, "NFC"])
def test_added_tokens_that_are_not_special(normalization: str | None, tmp_path: Path) -> None:
    """Special or not, normalized or not, and many that overlap: as we read them, and as we write them."""
    tokenizers = hugging_face_tokenizers()
    flags = [
        ("   ", False, False), ("<b>", True, False), ("<b>x", False, False), (" <", False, True), ("  ", False, True),
        ("e\u0301", False, normalization is not None), ("e\u0301q", False, False), ("x\n", False, True),
        ("b>", False, True), ("\n<t>", True, False),
    ]  # fmt: skip
    to_hugging_face(BPETokenizer(BPE.tokens, [], "qwen2", normalization), tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    same_flags = {"single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"] = [
        {"id": len(BPE.tokens) + i, "content": name, "special": special, "normalized": normalized, **same_flags}
        for i, (name, special, normalized) in enumerate(flags)
    ]
    (tmp_path / "t.json").write_text(json.dumps(content))
    theirs, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json")), from_hugging_face(tmp_path / "t.json")
    to_hugging_face(ours, tmp_path / "again.json")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    assert from_hugging_face(tmp_path / "again.json") == ours

    @settings(max_examples=300)
    @given(OVERLAPPING)
    def same(text: str) -> None:
        ids = theirs.encode(text).ids
        assert ids == ours.encode(text, ours.special_tokens) == again.encode(text).ids
        for skip in (True, False):
            assert theirs.decode(ids, skip_special_tokens=skip) == again.decode(ids, skip_special_tokens=skip)

    same()


def test_special_tokens_may_have_any_ids(tmp_path: Path) -> None:
    text = f"{TEXT} {END}"
    ids = FIRST.encode(text, {END})
    assert ids[-1] == 0 and FIRST.end_of_text == 0
    assert FIRST.decode(ids) == text and FIRST.encode_slowly(text, {END}) == ids
    assert FIRST.encode(TEXT) == [i + 1 if i < 6 else i + 2 for i in BPE.encode(TEXT)]
    FIRST.save(tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json") == FIRST != BPE
    for special in ({END: 299, "<|pad|>": 299}, {END: 300}, {END: -1}):
        with pytest.raises(InputError, match="must be distinct and below"):
            BPETokenizer(BPE.tokens, special)


def changed(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return content | changes


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "normalizer": (lambda c: changed(c, normalizer={"type": "NFKC"}), "has a normalizer that is not NFC, which would give other ids"),
    "no pre_tokenizer": (lambda c: changed(c, pre_tokenizer=None), "a pre_tokenizer that is none of gpt2, smollm, llama3, qwen2"),
    "prefix space": (lambda c: changed(c, pre_tokenizer=c["pre_tokenizer"] | {"add_prefix_space": True}), "pre_tokenizer"),
    "digits together": (lambda c: changed(c, pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, c["pre_tokenizer"]]}), "pre_tokenizer"),
    "split kept by half": (lambda c: changed(c, pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": GPT2_FAST_PATTERN}, "behavior": "Removed", "invert": False}, c["pre_tokenizer"] | {"use_regex": False}]}), "pre_tokenizer"),
    "template without a token": (lambda c: changed(c, post_processor={"type": "TemplateProcessing"}), "is no tokenizer.json of byte pairs: KeyError"),
    "end token": (lambda c: changed(c, post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": END}}]}), "a post_processor that adds more than one token before"),
    "two tokens": (lambda c: changed(c, post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": END}}] * 2 + [{"Sequence": {"id": "A"}}]}), "a post_processor that adds more than one token before"),
    "roberta": (lambda c: changed(c, post_processor={"type": "RobertaProcessing"}), "a post_processor that adds"),
    "dropout": (lambda c: changed(c, model=c["model"] | {"dropout": 0.1}), "has model.dropout"),
    "truncation": (lambda c: changed(c, truncation={"max_length": 5}), "has truncation, which"),
    "padding": (lambda c: changed(c, padding={"length": 5}), "has padding, which"),
    "prefix of subwords": (lambda c: changed(c, model=c["model"] | {"continuing_subword_prefix": "##"}), "has model.continuing_subword_prefix, which"),
    "token that is a word": (lambda c: changed(c, added_tokens=[c["added_tokens"][0], c["added_tokens"][1] | {"single_word": True}]), "with single_word"),
    "unknown": (lambda c: changed(c, model=c["model"] | {"unk_token": "<unk>", "end_of_word_suffix": "x"}), "model.unk_token and model.end_of_word_suffix"),
    "bytes of characters": (lambda c: changed(c, model=c["model"] | {"byte_fallback": True}), "a normalizer and a pre_tokenizer that do more than write spaces"),
    "unigram": (lambda c: changed(c, model=c["model"] | {"type": "Unigram"}), "model.type 'Unigram'"),
    "merges": (lambda c: changed(c, model=c["model"] | {"merges": c["model"]["merges"][::-1]}), "not in the order of the ids"),
    "other merges": (lambda c: changed(c, model=c["model"] | {"merges": [["t", "h"], ["Ġt", "h"]] + [m for m in c["model"]["merges"][1:] if "".join(m) != "Ġth"]}), "do not make token|not in the order"),
    "no merge": (lambda c: changed(c, model=c["model"] | {"merges": c["model"]["merges"][:-1]}), "do not make token 297, '.*', as its rank would"),
    "merge of nothing": (lambda c: changed(c, model=c["model"] | {"merges": [["", "th"], *c["model"]["merges"]]}), "not in the order of the ids"),
    "merge that makes no token": (lambda c: changed(c, model=c["model"] | {"merges": [["z", "q"], *c["model"]["merges"]]}), "not in the order of the ids"),
    "merge of three": (lambda c: changed(c, model=c["model"] | {"merges": [["t", "h", "e"]]}), "is no tokenizer.json of byte pairs: ValueError"),
    "byte that is no token": (lambda c: changed(c, model=c["model"] | {"vocab": {("zz" if t == "t" else t): i for t, i in c["model"]["vocab"].items()}}), "holds a byte that is no token itself"),
    "gap": (lambda c: changed(c, added_tokens=[c["added_tokens"][0] | {"id": 400}]), "are not 0 to 299, each once"),
    "no byte": (lambda c: changed(c, model=c["model"] | {"vocab": c["model"]["vocab"] | {"東": 300}}), "'東' holds '東', which stands for no byte"),
    "nothing": (lambda c: {}, "is no tokenizer.json of byte pairs"),
    "a list": (lambda c: [c], "is no tokenizer.json of byte pairs"),
    "wrong types": (lambda c: changed(c, model=c["model"] | {"vocab": [1]}), "is no tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_give_other_ids_is_refused(case: str, exported: Path, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(change(json.loads((exported / "last.json").read_text()))))
    with pytest.raises(InputError, match=message) as error:
        from_hugging_face(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="is not (JSON|UTF-8|a tokenizer.json)"):
        from_hugging_face(tmp_path / "t.json")


def test_the_pattern_may_stand_before_byte_level(exported: Path, tmp_path: Path) -> None:
    content = json.loads((exported / "last.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": GPT2_FAST_PATTERN}, "behavior": "Isolated", "invert": False}
    level = content["pre_tokenizer"] | {"use_regex": False}
    for pattern, works in (
        (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", True),
        ("x", False),
    ):
        split["pattern"] = {"Regex": pattern}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]] if works else []
        (tmp_path / "t.json").write_text(json.dumps(content))
        if works:
            assert from_hugging_face(tmp_path / "t.json") == BPE
        else:
            with pytest.raises(InputError, match="pre_tokenizer"):
                from_hugging_face(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:5] + ["!!! 5"] + lines[6:], "line 6 of .* is not a token in base64"),
        (lambda lines: lines[:5] + lines[6:], "line 6 of .* has rank 6, where 5 is expected"),
        (lambda lines: lines[:5] + ["YQ=="], "line 6 of .* is not a token"),
        (lambda lines: lines[:200], "must hold each of the 256 bytes"),
        (lambda lines: lines[:-1] + [f"{base64.b64encode(b'th').decode()} {len(lines) - 1}"], "holds a token twice"),
        (lambda lines: lines + [f"{lines[-1].split()[0]} {len(lines)}"], "holds a token twice"),
    ],
)
def test_damaged_ranks_are_named(
    change: Callable[[list[str]], list[str]], message: str, exported: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.tiktoken"
    path.write_text("\n".join(change((exported / "last.tiktoken").read_text().splitlines())))
    with pytest.raises(InputError, match=message):
        from_tiktoken(path)
    with pytest.raises(InputError, match="cannot read .*: No such file"):
        from_tiktoken(tmp_path / "none")


def test_a_vocabulary_to_read() -> None:
    lines = vocabulary_text(BPE).splitlines()
    assert len(lines) == 300
    assert lines[ord("\n")] == r"[\n] 10" and lines[255] == r"[\xff] 255"
    assert lines[256] == "[t][h] -> [th] 256" and lines[-2:] == [f"[{END}] 298 special", "[<|pad|>] 299 special"]
    assert [a + b for a, b in merges_of(BPE)] == list(BPE.tokens[256:])
    assert vocabulary_text(CharTokenizer("a\nb")) == "[a] 0\n[\\n] 1\n[b] 2\n"
    assert vocabulary_text(WordTokenizer(["a"])).splitlines()[1] == f"[{END}] 1"
    assert visible("a\x1b[31m\u202e🙂".encode()) == r"a\x1b[31m\u202e🙂"
    with pytest.raises(InputError, match="token 256, 'abc', is not two others merged"):
        merges_of(BPETokenizer([bytes([i]) for i in range(256)] + [b"abc"]))


ALL: list[Tokenizer] = [BPE, FIRST, CharTokenizer.train(TEXT), WordTokenizer.train(TEXT)]


@pytest.mark.parametrize("tok", ALL, ids=["bpe", "bpe special first", "char", "word"])
def test_a_stream_of_text_is_the_text(tok: Tokenizer) -> None:
    @given(st.lists(st.integers(0, tok.vocab_size - 1), max_size=30))
    def same(ids: list[int]) -> None:
        assert "".join(tok.decode_stream(iter(ids))) == tok.decode(ids)

    same()
    assert "".join(tok.decode_stream(tok.encode(TEXT))) == tok.decode(tok.encode(TEXT))
    with pytest.raises(InputError, match="is outside the vocabulary"):
        list(tok.decode_stream([0, tok.vocab_size]))


def test_a_stream_waits_for_a_whole_character() -> None:
    given_out = []

    def ids() -> Any:
        for i in BPETokenizer([bytes([i]) for i in range(256)]).encode("é🙂x"):
            given_out.append(i)
            yield i

    seen = [(len(given_out), text) for text in BPETokenizer([bytes([i]) for i in range(256)]).decode_stream(ids())]
    assert seen == [(2, "é"), (6, "🙂"), (7, "x")]
