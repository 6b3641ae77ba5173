"""Tokens that only the files beside tokenizer.json name; the expected values are those of transformers 5.24."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretrained_files import LLAMA, saved

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_added_tokens import without_ids_from
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.tokenizers.formats import to_hugging_face
from jaxllm.tokenizers.formats.byte_level import TO_CHARACTER
from train.cli import main

pytestmark = pytest.mark.newest

SINGLE = [bytes([i]) for i in range(256)]
END, STOP, TOOL = "<|endoftext|>", "<|im_end|>", "<tool>"
AS_CONTENT = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
Loaded = tuple[BPETokenizer | SentencePieceTokenizer, ChatFormat]


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def two_files(folder: Path, **files: Any) -> Path:
    """Write vocab.json, of the 256 bytes and the end of text, an empty merges.txt, and other files."""
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return write(folder, vocab={TO_CHARACTER[b]: b for b in range(256)} | {END: 256}, **files)


def with_json(folder: Path, special: dict[str, bool], **files: Any) -> Path:
    """Write tokenizer.json with these tokens from the id 256 on, and other files."""
    to_hugging_face(BPETokenizer(SINGLE, list(special)), folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    for one in content["added_tokens"]:
        one["special"] = special[one["content"]]
    return write(folder, tokenizer=content, **files)


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """The messages of all warnings in the block."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(one.message) for one in caught]


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_added_tokens_json(kind: str, tmp_path: Path) -> None:
    """Its token is special if it has a role or is among the additional special tokens."""
    config = {"tokenizer_class": kind, "eos_token": STOP, "additional_special_tokens": ["<more>"]}
    two_files(tmp_path, tokenizer_config=config, added_tokens={TOOL: 258, STOP: 257, "<more>": 259})
    tokenizer, chat = load_tokenizer_files(tmp_path)
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.special_tokens == {END: 256, STOP: 257, "<more>": 259}
    assert (tokenizer.added, tokenizer.normalized) == ({TOOL: 258}, (TOOL,))
    assert tokenizer.encode(f"a{STOP}{TOOL}", [STOP]) == [97, 257, 258]
    assert (chat.end_tokens, chat.eos_token) == ((257,), STOP)


def test_the_end_of_text_may_be_in_added_tokens_json(tmp_path: Path) -> None:
    """As in Qwen's first folders, where no file gives it a role."""
    write(two_files(tmp_path, added_tokens={END: 256}), vocab={TO_CHARACTER[b]: b for b in range(256)})
    tokenizer, chat = load_tokenizer_files(tmp_path)
    assert (tokenizer.special_tokens, tokenizer.end_of_text, chat.end_tokens) == ({END: 256}, 256, (256,))


def test_added_tokens_json_is_not_read_beside_added_tokens_decoder(tmp_path: Path) -> None:
    decoder = {"257": {"content": STOP, "special": True, **AS_CONTENT}}
    two_files(tmp_path, added_tokens={TOOL: 258, STOP: 257}, tokenizer_config={"added_tokens_decoder": decoder})
    tokenizer, _ = load_tokenizer_files(tmp_path)
    assert (tokenizer.special_tokens, tokenizer.added, tokenizer.vocab_size) == ({END: 256, STOP: 257}, {}, 258)


def test_added_tokens_json_adds_to_tokenizer_json(tmp_path: Path) -> None:
    with_json(tmp_path, {STOP: True, TOOL: False}, added_tokens={"<new>": 258, TOOL: 300})
    tokenizer, _ = load_tokenizer_files(tmp_path)
    assert isinstance(tokenizer, BPETokenizer)
    assert (tokenizer.added, tokenizer.normalized) == ({TOOL: 257, "<new>": 258}, ("<new>",))


def test_the_ids_of_the_vocabulary_count(tmp_path: Path) -> None:
    decoder = {"300": {"content": TOOL, "special": True, **AS_CONTENT}}
    vocab = {TO_CHARACTER[b]: b for b in range(256)} | {END: 256, TOOL: 257}
    write(two_files(tmp_path, added_tokens={TOOL: 300}), vocab=vocab)
    assert load_tokenizer_files(tmp_path)[0].added == {TOOL: 257}
    write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    assert load_tokenizer_files(tmp_path)[0].special_tokens == {END: 256, TOOL: 257}


def test_a_gap_is_for_the_model_to_fill(tmp_path: Path) -> None:
    two_files(tmp_path, added_tokens={STOP: 258}, tokenizer_config={"eos_token": STOP})
    assert load_tokenizer_files(tmp_path, 259)[0].special_tokens == {END: 256, STOP: 258, "[PAD257]": 257}
    with pytest.raises(InputError, match="are not 0 to 257, each once"):
        load_tokenizer_files(tmp_path)


@pytest.mark.parametrize("content", [[1], {"<x>": "257"}, {"<x>": 1.5}, {"<x>": None}, {"<x>": 3}, {"\ud800": 257}, 5])
def test_damaged_added_tokens_json(content: Any, tmp_path: Path) -> None:
    two_files(tmp_path, added_tokens=content)
    with pytest.raises(InputError) as error:
        load_tokenizer_files(tmp_path)
    assert "\n" not in str(error.value)
    if content == {"<x>": 3}:
        assert "added_tokens.json gives '<x>' the id 3, which '" in str(error.value)
    elif content != {"\ud800": 257}:
        assert "added_tokens.json must be a table of ids by name" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"eos_token": STOP}, 257),  # special_tokens_map.json takes precedence
        ({"eos_token": None}, 257),
        ({"eos_token": STOP, "added_tokens_decoder": {}}, 256),  # and is not read
    ],
)
def test_which_of_two_files_names_the_end(fields: dict[str, Any], end: int, tmp_path: Path) -> None:
    with_json(tmp_path, {STOP: True, "<f>": True}, tokenizer_config=fields, special_tokens_map={"eos_token": "<f>"})
    assert load_tokenizer_files(tmp_path)[1].end_tokens == (end,)


@pytest.mark.parametrize(
    ("config", "special"),
    [
        ({}, False),
        ({"eos_token": TOOL}, True),
        ({"additional_special_tokens": [TOOL]}, False),
        ({"added_tokens_decoder": {"256": {"content": TOOL, "special": True, **AS_CONTENT}}}, True),
        ({"added_tokens_decoder": {"256": {"content": TOOL}}}, False),
        ({"eos_token": TOOL, "added_tokens_decoder": {"256": {"content": TOOL, "special": False, **AS_CONTENT}}}, True),
    ],
)
def test_which_file_says_what_is_special(config: dict[str, Any], special: bool, tmp_path: Path) -> None:
    tokenizer, _ = load_tokenizer_files(with_json(tmp_path, {TOOL: False}, tokenizer_config=config))
    assert (TOOL in tokenizer.special_tokens, TOOL in tokenizer.added) == (special, not special)


def test_a_special_token_may_become_one_of_any_text(tmp_path: Path) -> None:
    decoder = {"256": {"content": TOOL, "special": False, **AS_CONTENT, "lstrip": True}}
    with_json(tmp_path, {TOOL: True}, tokenizer_config={"added_tokens_decoder": decoder})
    assert load_tokenizer_files(tmp_path)[0].encode(f"a {TOOL}") == [97, 256]
    decoder["256"]["single_word"] = True
    write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    with pytest.raises(InputError, match="has a token '<tool>' with single_word, which would give other ids"):
        load_tokenizer_files(tmp_path)


@pytest.mark.parametrize(
    ("files", "messages", "ends"),
    [
        ({"tokenizer_config": {"eos_token": "<x>"}}, ["eos_token names '<x>', but the tokenizer has no such token; nothing else ends an answer, so it continues to --max-new-tokens."], ()),
        ({"tokenizer_config": {"eos_token": "<x>"}, "generation_config": {"eos_token_id": 256}}, ["eos_token names '<x>', but the tokenizer has no such token."], (256,)),
        ({"special_tokens_map": {"pad_token": {"content": "<p>"}, "bos_token": "<b>"}}, ["bos_token names '<b>', but", "pad_token names '<p>', but"], ()),
        ({"tokenizer_config": {"additional_special_tokens": [STOP, "<y>"]}}, ["additional_special_tokens names '<y>', but"], ()),
        ({"generation_config": {"eos_token_id": [256, 50256], "pad_token_id": -1}}, ["eos_token_id 50256 of generation_config.json is outside the vocabulary of 257 ids and is ignored", "pad_token_id -1 of gen"], (256,)),
        ({"config": {"eos_token_id": 257, "bos_token_id": 257}}, ["bos_token_id 257 of config.json is outside", "eos_token_id 257 of config.json is outside"], ()),
        ({"tokenizer_config": {"eos_token": STOP, "pad_token": STOP}, "config": {"eos_token_id": 0, "pad_token_id": 256}}, [], (0, 256)),
    ],
)  # fmt: skip
def test_a_named_token_that_is_missing_is_reported(
    files: dict[str, Any], messages: list[str], ends: tuple[int, ...], tmp_path: Path
) -> None:
    with_json(tmp_path, {STOP: True}, **files)
    with recorded_warnings() as recorded:
        assert load_tokenizer_files(tmp_path)[1].end_tokens == ends
    assert len(recorded) == len(messages) and all(a.startswith(b) for a, b in zip(recorded, messages, strict=True)), (
        recorded
    )


def test_import_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    saved(folder, replace(LLAMA, vocab_size=260))
    with_json(folder, {STOP: True}, tokenizer_config={"eos_token": "<x>"})
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0
    error = capsys.readouterr().err
    assert error.startswith(
        "note: eos_token names '<x>', but the tokenizer has no such token; nothing else ends an answer"
    )
    assert error.count("\n") == 1


def test_what_begins_a_text_is_no_token(tmp_path: Path) -> None:
    """add_bos_token without a bos_token is ignored, as in transformers."""
    with_json(tmp_path, {STOP: True}, tokenizer_config={"add_bos_token": True, "bos_token": None})
    assert load_tokenizer_files(tmp_path)[1] == ChatFormat()
    write(tmp_path, tokenizer_config={"add_bos_token": True})
    assert load_tokenizer_files(tmp_path)[1] == ChatFormat()
    to_hugging_face(BPETokenizer(SINGLE, [STOP]), tmp_path / "tokenizer.json", begin_token=256)
    assert load_tokenizer_files(tmp_path)[1].begin_token == 256
    write(tmp_path, tokenizer_config={"add_bos_token": True, "bos_token": "<x>"})
    with pytest.raises(InputError, match="puts bos_token '<x>' before each text, but the tokenizer has no such token"):
        load_tokenizer_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "begins"),
    [
        ({"add_bos_token": True}, 256),
        ({"add_bos_token": True, "bos_token": None}, None),
        ({"add_bos_token": True, "tokenizer_class": "Qwen2Tokenizer"}, None),
        ({}, None),
    ],
)
def test_the_class_of_gpt2_has_a_beginning_token(config: dict[str, Any], begins: int | None, tmp_path: Path) -> None:
    assert load_tokenizer_files(two_files(tmp_path, tokenizer_config=config))[1].begin_token == begins


def test_the_named_end_separates_documents(tmp_path: Path) -> None:
    with_json(tmp_path, {"<a>": True, "<done>": False}, tokenizer_config={"eos_token": "<done>"})
    assert load_tokenizer_files(tmp_path)[0].end_of_text == 257
    (tmp_path / "two").mkdir()
    two_files(tmp_path / "two", added_tokens={STOP: 257}, tokenizer_config={"eos_token": STOP})
    assert load_tokenizer_files(tmp_path / "two")[0].end_of_text == 256


def test_tokens_beyond_the_model_are_left_out() -> None:
    """As Gemma 3's `<image_soft_token>`, unless an id is needed or a token is another's merge."""
    single = [bytes([i]) for i in range(256)]
    tokens = [f"<0x{b:02X}>" for b in range(256)]
    for whole in (
        BPETokenizer(single, ["<b>", "<i>"], strips={"<i>": "right"}),
        BPETokenizer(single, {"<b>": 256}, added={"<i>": 257}, normalized=["<i>"]),
        SentencePieceTokenizer([*tokens, "<b>", "<i>"], [], ["<b>"], ["<i>"], "none", strips={"<i>": "left"}),
    ):
        with pytest.warns(UserWarning, match="the model has 257 ids, so the tokens '<i>' beyond are left out"):
            found = without_ids_from(whole, 257)
        assert found.vocab_size == 257 and found.decode(found.encode("a<i>")) == "a<i>"
        assert {**found.special_tokens, **found.added} == {"<b>": 256} and not found.strips
        assert (
            without_ids_from(whole, 257, [257]) is without_ids_from(whole, 258) is without_ids_from(whole, 255) is whole
        )
