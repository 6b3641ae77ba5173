"""Added tokens that are not special: found in any text, kept by every file; the ids are those of `tokenizers` 0.23."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.data import shard_writer
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import open_split
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files, save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, bpe_encoding, chunks, load_tokenizer
from jaxllm.tokenizers.chunks import rechunk
from jaxllm.tokenizers.formats import from_hugging_face, to_hugging_face
from jaxllm.tokenizers.formats.byte_level import to_characters
from jaxllm.tokenizers.formats.read_tokenizer_json import begin_token_of
from jaxllm.tokenizers.listing import vocabulary_text
from jaxllm.tokenizers.sentencepiece import BYTES
from train.cli import main

pytestmark = pytest.mark.newest

SINGLE = [bytes([i]) for i in range(256)]
END, CALL, THINK, SPACES = "<|endoftext|>", "<tool_call>", "<think>", "   "
QWEN = BPETokenizer([*SINGLE, b"  "], {END: 257, CALL: 258, THINK: 259}, "qwen2", "NFC")  # as older versions read it
ADDED = BPETokenizer(
    [*SINGLE, b"  "], {END: 257}, "qwen2", "NFC", {CALL: 258, THINK: 259, SPACES: 260}, normalized=[SPACES]
)
Flags = tuple[str, bool, bool]  # a token, whether it is special, and whether it is found in the normalized text


def tokenizer_json(folder: Path, tokens: list[Flags], normalizer: Any = None) -> Path:
    """A tokenizer.json of single bytes, whose ids are 0 to 255, and these tokens from 256 on."""
    path = folder / "tokenizer.json"
    to_hugging_face(BPETokenizer(SINGLE, []), path)
    content = json.loads(path.read_text())
    content["normalizer"] = normalizer
    content["added_tokens"] = [
        {"id": 256 + i, "content": name, "special": special, "normalized": normalized,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i, (name, special, normalized) in enumerate(tokens)
    ]  # fmt: skip
    path.write_text(json.dumps(content))
    return path


OVERLAPPING: list[Flags] = [("   ", False, False), ("<b>", True, False), ("<b>x", False, False), (" <", False, True), ("  ", False, True)]  # fmt: skip
COMPOSED: list[Flags] = [("<t>", False, False), ("<u>", False, True), ("e\u0301", False, True), ("e\u0301q", False, False)]  # fmt: skip
NFC = {"type": "NFC"}


@pytest.mark.parametrize(
    ("tokens", "normalizer", "text", "ids"),
    [
        (OVERLAPPING, None, "a   b", [97, 256, 98]),
        (OVERLAPPING, None, "a    b", [97, 256, 32, 98]),
        (OVERLAPPING, None, "     ", [256, 260]),
        (OVERLAPPING, None, "<b>x", [258]),
        (OVERLAPPING, None, "<b> ", [257, 32]),
        (OVERLAPPING, None, "a <b>", [97, 32, 257]),
        (OVERLAPPING, None, "a <", [97, 259]),
        (COMPOSED, NFC, "<t>\u0338", [256, *"\u0338".encode()]),
        (COMPOSED, NFC, "<u>\u0338", [*"<u≯".encode()]),
        (COMPOSED, NFC, "e\u0301", [258]),
        (COMPOSED, NFC, "\u00e9", [258]),
        (COMPOSED, NFC, "e\u0301q", [259]),
        (COMPOSED, NFC, "\u00e9q", [258, 113]),
    ],
)
def test_the_ids_of_tokenizers(tokens: list[Flags], normalizer: Any, text: str, ids: list[int], tmp_path: Path) -> None:
    """Tokens that are not normalized are found first, special or not: the leftmost, and the longest that begins there."""
    tok = from_hugging_face(tokenizer_json(tmp_path, tokens, normalizer))
    assert isinstance(tok, BPETokenizer)
    assert tok.encode(text, tok.special_tokens) == tok.encode_slowly(text, tok.special_tokens) == ids
    assert tok.decode(ids) == tok.decode(tok.encode(tok.decode(ids), tok.special_tokens))


def test_a_special_token_is_text_unless_it_is_allowed(tmp_path: Path) -> None:
    tok = from_hugging_face(tokenizer_json(tmp_path, OVERLAPPING))
    assert tok.encode("<b>") == [*b"<b>"] and tok.encode("<b>x") == [258]
    assert tok.encode_parts(["a", 257, "x   "]) == [97, 257, 120, 256]
    with pytest.raises(InputError, match="'   ' is not a special token; there are <b>"):
        tok.encode("a", ["   "])


def test_a_message_may_hold_them() -> None:
    chat = ChatFormat(chat_template="{{ messages[0].content }}<|endoftext|>")
    ids = encode_chat(ADDED, chat, [{"role": "user", "content": f"{THINK}{END}"}])
    assert ids == [259, *END.encode(), 257]


def test_a_file_keeps_them(tmp_path: Path) -> None:
    ADDED.save(tmp_path / "t.json")
    read = load_tokenizer(tmp_path / "t.json")
    assert read == ADDED != QWEN and read.fingerprint() == ADDED.fingerprint()
    assert read.encode(f"a   b{CALL}  ") == [97, 260, 98, 258, 256] and read.vocab_size == 261
    assert read.decode([258, 260, 257]) == f"{CALL}   {END}"


def test_what_has_none_is_kept_as_before() -> None:
    """Runs and prepared data of earlier versions depend on it."""
    assert QWEN.fingerprint() == "5b190065a0271403127f9d45ef05178fd4e9343fe3ee6fa03593b339b4c37860"
    assert BPETokenizer(SINGLE).fingerprint() == "11d9ae20b0ecadef7681ed5e06d28060e1a8cde414ab2a9b7c302f6dea89676b"
    assert list(BPETokenizer(SINGLE).to_dict()) == ["special_tokens", "tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"added": {"": 258}}, "special and added tokens must be distinct and not empty"),
        ({"added": {END: 258}}, "special and added tokens must be distinct and not empty"),
        ({"added": {"x": 257}}, "ids of special and added tokens must be distinct and below 259"),
        ({"added": {"x": 900}}, "ids of special and added tokens must be distinct and below 259"),
        ({"added": {"x": "1"}}, "the ids of 'added' must be integers"),
        ({"added": ["x"]}, "the ids of 'added' must be integers"),
        ({"added": {"\ud800": 258}}, "lone surrogate"),
        ({"normalized": ["x"]}, "normalized names 'x', but the added tokens are"),
        ({"normalized": {}}, "'normalized' must be a list of strings"),
        ({"end": "x"}, "'end' is 'x', which is no special token"),
        ({"end": [1]}, "'end' is .*, which is no special token"),
    ],
)
def test_damaged_files_are_named(change: dict[str, Any], message: str) -> None:
    fields = ADDED.to_dict() | {"added": {}, "normalized": [], "special_tokens": {END: 257}}
    with pytest.raises(InputError, match=message):
        BPETokenizer.from_dict(fields | change)


def test_what_would_give_other_ids_is_refused(tmp_path: Path) -> None:
    path = tokenizer_json(tmp_path, OVERLAPPING)
    content = json.loads(path.read_text())
    content["added_tokens"][0]["single_word"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has a token '   ' with single_word, which would give other ids"):
        from_hugging_face(path)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a <r> \n\u3000b", [97, 32, 256, 98]),
        ("a \t<l> b", [97, 257, 32, 98]),
        ("a <b> b <b>", [97, 258, 98, 258]),
        ("<r> <b>", [256, 258]),
        ("<r>\x1cb", [256, 28, 98]),  # white space for Python, but not for Unicode
    ],
)
def test_the_white_space_beside_a_token(text: str, ids: list[int]) -> None:
    strips = {"<r>": "right", "<l>": "left", "<b>": "both"}
    tok = BPETokenizer(SINGLE, ["<r>", "<l>", "<b>"], strips=strips)
    assert tok.encode(text, tok.special_tokens) == ids
    added = BPETokenizer(SINGLE, [], added=tok.special_tokens, strips=strips)
    last = BPETokenizer(SINGLE, [], "gpt2", "NFC", tok.special_tokens, [*strips], strips=strips)
    assert added.encode(text) == last.encode(text) == added.encode_parts([text]) == ids


def test_export_keeps_the_flags(tmp_path: Path) -> None:
    to_hugging_face(ADDED, tmp_path / "t.json")
    listed = {one["content"]: one for one in json.loads((tmp_path / "t.json").read_text())["added_tokens"]}
    assert {name: (one["id"], one["special"], one["normalized"]) for name, one in listed.items()} == {
        END: (257, True, False), CALL: (258, False, False), THINK: (259, False, False), SPACES: (260, False, True),
    }  # fmt: skip
    assert from_hugging_face(tmp_path / "t.json") == ADDED
    save_tokenizer_files(tmp_path, ADDED)
    assert load_tokenizer_files(tmp_path, 263)[0].encode(f"a   {CALL}") == [97, 260, 258]


def test_export_keeps_what_a_token_takes(tmp_path: Path) -> None:
    strips = {"<r>": "right", "<l>": "left", "<b>": "both"}
    tok = BPETokenizer(
        SINGLE, {"<n>": 256, "<r>": 257}, "gpt2", "NFC", {"<l>": 258, "<b>": 259}, ["<b>"], strips=strips
    )
    to_hugging_face(tok, tmp_path / "t.json")
    assert from_hugging_face(tmp_path / "t.json") == tok


def test_a_token_that_begins_texts_may_be_one(tmp_path: Path) -> None:
    to_hugging_face(ADDED, tmp_path / "t.json", begin_token=259)
    assert begin_token_of(json.loads((tmp_path / "t.json").read_text()), "") == 259


def test_two_tokens_of_one_name_do_not_go_out(tmp_path: Path) -> None:
    tok = BPETokenizer([*SINGLE, b"th"], [], added={"th": 256})
    assert tok.encode("the") == [256, 101]
    with pytest.raises(InputError, match="'th' is a special or added token, and also how .* write token 257"):
        to_hugging_face(tok, tmp_path / "t.json")


def test_gguf_calls_them_user_defined() -> None:
    names = {i: to_characters(token) for token, i in ADDED.ranks.items()} | {
        i: name for name, i in (ADDED.special_tokens | ADDED.added).items()
    }
    kinds = [1] * 257 + [3, 4, 4, 4]
    keys = {"model": "gpt2", "pre": "qwen2", "tokens": [names[i] for i in range(261)], "token_type": np.array(kinds), "merges": ["Ġ Ġ"]}  # fmt: skip
    tok, _ = read_gguf_tokenizer({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "x.gguf")
    assert (tok.special_tokens, tok.added) == ({END: 257}, {CALL: 258, THINK: 259, SPACES: 260})
    assert tok.encode(f"a   b{THINK}{END}") == [97, 260, 98, 259, *END.encode()]
    # A user must not end a turn by writing the token that ends it.
    tok, _ = read_gguf_tokenizer(
        {f"tokenizer.ggml.{key}": value for key, value in (keys | {"eos_token_id": 259}).items()}, "x.gguf"
    )
    assert (tok.special_tokens, tok.added) == ({END: 257, THINK: 259}, {CALL: 258, SPACES: 260})
    keys["tokens"][258] = "<|im_end|>"
    tok, _ = read_gguf_tokenizer({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "x.gguf")
    assert tok.special_tokens == {END: 257, "<|im_end|>": 258}


def test_what_is_shown_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tok = BPETokenizer([*SINGLE, b"  ", b"   "], {END: 259}, added={"   ": 256})
    lines = vocabulary_text(tok).splitlines()
    assert lines[256:] == ["[   ] 256 added", "[ ][ ] -> [  ] 257", "[  ][ ] -> [   ] 258", f"[{END}] 259 special"]
    tok.save(tmp_path / "t.json")
    assert main(["tokenizer", "show", str(tmp_path / "t.json"), "--text", "a   ", "--top", "9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a|   \n2 tokens, 4 bytes") and "       1  [   ] 256" in out
    assert main(["tokenizer", "show", str(tmp_path / "t.json"), "--top", "9"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["257", "258"]


WITHIN = BPETokenizer([*SINGLE, b" b"], [END], added={"a b": 258, "b a b": 259, "x\n": 260, "é": 261})
hard = st.text("ab \nxyé", max_size=60)


@given(hard, st.integers(1, 20))
def test_no_chunk_ends_within_one(text: str, size: int) -> None:
    texts = [text[i : i + size] for i in range(0, len(text), size)]
    found = list(rechunk(texts, lambda rest: WITHIN.chunks(rest, size)))
    assert "".join(found) == text and all(found)
    assert [i for chunk in found for i in WITHIN.encode(chunk)] == WITHIN.encode(text)


@given(hard)
def test_a_long_text_has_the_ids_of_the_whole(text: str) -> None:
    whole = WITHIN.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe_encoding, "PARALLEL", 2)
        assert WITHIN.encode(text) == whole


def test_data_and_commands_cut_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A corpus is read in chunks, which end before a space."""
    monkeypatch.setattr(chunks, "CHUNK", 5)
    monkeypatch.setattr(shard_writer, "CHUNK", 8)
    text = "yyyy a b a b xyyya b\nx\nyyyx\nyyyyyy b a b a b y"
    (tmp_path / "text.txt").write_text(text)
    WITHIN.save(tmp_path / "t.json")
    assert list(chunks.chunk_text(text))[:2] == ["yyyy a", " b a b"]
    index = prepare_shards([str(tmp_path / "text.txt")], WITHIN, tmp_path / "out", validation=0)
    assert open_split(tmp_path / "out", index, "train")[:].tolist() == WITHIN.encode(text)
    assert main(shlex.split(f"tokenizer encode {tmp_path}/t.json {tmp_path}/text.txt")) == 0
    assert [int(i) for i in capsys.readouterr().out.split()] == WITHIN.encode(text)


def test_sentencepiece_takes_the_longest_of_both_kinds() -> None:
    tok = SentencePieceTokenizer(["<s>", "</s>", *BYTES, "x", "<s>x"], [], ["<s>", "</s>"], ["<s>x"], "none")
    assert tok.encode("<s>x<s>", ["<s>"]) == [259, 0]
