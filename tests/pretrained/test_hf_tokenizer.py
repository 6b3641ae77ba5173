"""The tokenizer of a Hugging Face folder: which file takes precedence, and a folder written and read."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files, save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from jaxllm.tokenizers.formats.byte_level import to_characters
from jaxllm.tokenizers.merges import merges_of

pytestmark = pytest.mark.newest

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. 123 e\u0301 東京"
TOKENS = BPETokenizer.train(TEXT * 2, 300, ()).tokens
NAMES = ["<|endoftext|>", "<|begin|>", "<|end|>"]  # 300, 301, 302
TOKENIZER = BPETokenizer(TOKENS, NAMES, "llama3")
CHAT = ChatFormat(301, (302, 300), "<|begin|>", "<|end|>", "{{ bos_token }}\n{{ messages[0].content }}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer_files(tmp_path, TOKENIZER, CHAT)
    return tmp_path


def change(folder: Path, name: str, **fields: Any) -> None:
    """Change fields of a JSON file, which may be new; None removes a field."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    content = (json.loads(path.read_text()) if path.exists() else {}) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("tokenizer", "chat"),
    [
        (TOKENIZER, CHAT),
        (BPETokenizer([*TOKENS, b"zqxj"], NAMES), ChatFormat(end_tokens=(301,), eos_token="<|endoftext|>")),
        (BPETokenizer([t for t in TOKENS if t != b"\xff"], {"<|a|>": 0}, "qwen2", "NFC"), ChatFormat()),
    ],
)
def test_a_folder_written_and_read(tokenizer: BPETokenizer, chat: ChatFormat, tmp_path: Path) -> None:
    save_tokenizer_files(tmp_path, tokenizer, chat)
    read, chat_read = load_tokenizer_files(tmp_path)
    assert read == tokenizer
    eos = tokenizer.special_tokens.get(chat.eos_token or "")
    ends = chat.end_tokens if eos in (None, *chat.end_tokens) else (*chat.end_tokens, eos)
    assert chat_read == ChatFormat(**chat.to_dict() | {"end_tokens": ends})


def test_where_answers_end(folder: Path) -> None:
    def ends() -> tuple[int, ...]:
        return load_tokenizer_files(folder)[1].end_tokens

    change(folder, "config", eos_token_id=7)
    assert ends() == (302, 300)
    change(folder, "generation_config", eos_token_id=301)
    assert ends() == (301, 302)
    change(folder, "generation_config", eos_token_id=None)
    assert ends() == (7, 302)
    change(folder, "tokenizer_config", eos_token={"content": "<|begin|>", "special": True})
    assert ends() == (7, 301)
    change(folder, "tokenizer_config", eos_token=None)
    assert ends() == (7, 300)  # 300 is <|endoftext|>
    change(folder, "special_tokens_map", eos_token="<|end|>")
    assert ends() == (7, 302)


def test_special_tokens_map_wins_where_it_is_read(folder: Path) -> None:
    """As in transformers, which reads it only where tokenizer_config.json has no added_tokens_decoder."""
    change(folder, "generation_config", eos_token_id=None)
    change(folder, "special_tokens_map", eos_token="<|endoftext|>", chat_template="of the map")
    change(folder, "tokenizer_config", eos_token="<|begin|>", bos_token="<|end|>", chat_template="of the config")
    (folder / "chat_template.jinja").unlink()
    chat = load_tokenizer_files(folder)[1]
    assert (chat.eos_token, chat.end_tokens) == ("<|endoftext|>", (300,))
    assert (chat.bos_token, chat.chat_template) == ("<|end|>", "of the map")  # a field that only one file has is kept
    change(folder, "tokenizer_config", added_tokens_decoder={})
    chat = load_tokenizer_files(folder)[1]
    assert (chat.eos_token, chat.end_tokens) == ("<|begin|>", (301,))
    assert (chat.bos_token, chat.chat_template) == ("<|end|>", "of the config")


def test_tokenizer_json_is_read_where_there_are_also_vocabulary_and_merges(folder: Path) -> None:
    change(folder, "vocab", **{"a": 0, "b": 1})
    (folder / "merges.txt").write_text("a b\n")
    assert load_tokenizer_files(folder)[0] == TOKENIZER


def test_the_id_0_ends_answers_and_begins_texts(tmp_path: Path) -> None:
    """It is not confused with an id that is not given."""
    tokens = [t for t in TOKENS if t != b"\xff"]
    save_tokenizer_files(
        tmp_path, BPETokenizer(tokens, {"<|a|>": 0, "<|b|>": len(tokens) + 1}), ChatFormat(0, (0,), "<|a|>", "<|b|>")
    )
    change(tmp_path, "config", eos_token_id=5)
    chat = load_tokenizer_files(tmp_path)[1]
    assert (chat.begin_token, chat.end_tokens) == (0, (0, len(tokens) + 1))
    change(tmp_path, "generation_config", eos_token_id=0)
    change(tmp_path, "tokenizer_config", eos_token="<|a|>")
    assert load_tokenizer_files(tmp_path)[1].end_tokens == (0,)


def test_where_texts_begin(folder: Path) -> None:
    """tokenizer_config.json takes precedence, as in transformers 5."""
    for value, begins in ((None, 301), (False, None), (True, 301)):
        change(folder, "tokenizer_config", add_bos_token=value)
        assert load_tokenizer_files(folder)[1].begin_token == begins
    change(folder, "tokenizer", post_processor={"type": "ByteLevel"})
    assert load_tokenizer_files(folder)[1].begin_token == 301
    change(folder, "tokenizer_config", add_bos_token=None)
    assert load_tokenizer_files(folder)[1].begin_token is None


def put_before(*ids: Any) -> dict[str, Any]:
    """A post_processor that puts `<|begin|>` before each text, with these ids."""
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": list(ids), "tokens": ["<|begin|>"]}},
    }


@pytest.mark.parametrize(("ids", "begins"), [((301,), 301), ((302,), 302), ((7,), 7), ((), None)])
def test_the_ids_of_the_post_processor_count_and_not_its_name(ids: Any, begins: int | None, folder: Path) -> None:
    """As in tokenizers 0.23."""
    change(folder, "tokenizer", post_processor=put_before(*ids))
    assert load_tokenizer_files(folder)[1].begin_token == begins


@pytest.mark.parametrize("wrong", [303, 999, -1, 2**40, True, "7", 7.0, None])
def test_an_id_before_each_text_that_is_no_token_is_refused(wrong: Any, folder: Path) -> None:
    change(folder, "tokenizer", post_processor=put_before(wrong))
    with pytest.raises(InputError, match="tokenizer.json puts the id .* before each text, but has the ids 0 to 302"):
        load_tokenizer_files(folder)


def test_two_ids_before_each_text_are_refused(folder: Path) -> None:
    change(folder, "tokenizer", post_processor=put_before(301, 302))
    with pytest.raises(InputError, match="a post_processor that adds more than one token before the text"):
        load_tokenizer_files(folder)


def test_where_the_template_is(folder: Path) -> None:
    def template() -> str | None:
        return load_tokenizer_files(folder)[1].chat_template

    change(folder, "tokenizer_config", chat_template="of the config")
    assert template() == CHAT.chat_template
    (folder / "chat_template.jinja").unlink()
    assert template() == "of the config"
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    change(folder, "tokenizer_config", chat_template=named)
    assert template() == "b"
    change(folder, "tokenizer_config", chat_template=named[:1])
    assert template() is None


def test_tokens_that_only_other_files_add(folder: Path) -> None:
    added = {"7": {"content": "<|end|>", "special": True}, "303": {"content": "<tool>", "special": False}}
    change(folder, "tokenizer_config", added_tokens_decoder=added)
    tokenizer, _ = load_tokenizer_files(folder)
    assert (tokenizer.special_tokens, tokenizer.added) == (TOKENIZER.special_tokens, {"<tool>": 303})
    assert tokenizer.encode("a<tool>") == [*TOKENIZER.encode("a"), 303]


def test_ids_that_only_the_model_has(folder: Path) -> None:
    tokenizer, _ = load_tokenizer_files(folder, vocab_size=306)
    assert tokenizer.vocab_size == 306 and tokenizer.decode([302, 305]) == "<|end|>[PAD305]"
    assert tokenizer.encode(TEXT) == TOKENIZER.encode(TEXT)
    assert load_tokenizer_files(folder, vocab_size=5)[0] == TOKENIZER


@pytest.mark.parametrize(
    ("kind", "pattern", "normalization"),
    [(None, "gpt2", None), ("GPT2TokenizerFast", "gpt2", None), ("Qwen2Tokenizer", "qwen2", "NFC")],
)
def test_a_vocabulary_and_its_merges(kind: str | None, pattern: str, normalization: str | None, tmp_path: Path) -> None:
    change(tmp_path, "vocab", **{to_characters(t): i for i, t in enumerate(TOKENS)}, **{"<|endoftext|>": 300})
    lines = ["#version: 0.2", *(f"{to_characters(a)} {to_characters(b)}" for a, b in merges_of(TOKENIZER)), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    if kind:
        change(tmp_path, "tokenizer_config", tokenizer_class=kind)
    tokenizer, chat = load_tokenizer_files(tmp_path)
    assert tokenizer == BPETokenizer(TOKENS, NAMES[:1], pattern, normalization)
    assert chat == ChatFormat(end_tokens=(300,), eos_token="<|endoftext|>")
    change(tmp_path, "tokenizer_config", tokenizer_class="LlamaTokenizer")
    with pytest.raises(InputError, match="has no tokenizer.json; without it .* GPT2Tokenizer, Qwen2Tokenizer, not 'L"):
        load_tokenizer_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "a"}}}, "is no folder with a tokenizer"),
        ("tokenizer_config", {"added_tokens_decoder": [1]}, "is no folder with a tokenizer"),
        ("tokenizer_config", {"eos_token": ["a"]}, "is no folder with a tokenizer"),
        (
            "tokenizer_config",
            {"add_bos_token": True, "bos_token": "<none>"},
            "puts bos_token '<none>' before each text, but the tokenizer has no such token; correct it in tokenizer_config.json",
        ),
        ("tokenizer_config", {"chat_template": 5}, "pretrained.chat_template is 5"),
        ("generation_config", {"eos_token_id": "x"}, "pretrained.end_tokens is"),
        ("tokenizer", {"model": 5}, "is no folder with a tokenizer"),
        ("tokenizer", {"added_tokens": 5}, "is no folder with a tokenizer"),
    ],
)
def test_damaged_files_are_named(name: str, fields: dict[str, Any], message: str, folder: Path) -> None:
    if "chat_template" in fields:
        (folder / "chat_template.jinja").unlink()
    change(folder, name, **fields)
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer_files(folder)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(folder: Path) -> None:
    for name, content, message in (
        ("generation_config.json", b"[1]", "is no folder with a tokenizer"),
        ("tokenizer_config.json", b"{", "is not a tokenizer_config.json: it is not JSON"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja is not UTF-8"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_tokenizer_files(folder)
        (folder / name).write_bytes(before)
    (folder / "tokenizer.json").unlink()
    half = folder / "half"  # a vocabulary without its merges
    change(half, "vocab", a=0)
    for nothing in (folder, half, folder / "none"):
        with pytest.raises(InputError, match="has no tokenizer.json, nor vocab.json and merges.txt; save it"):
            load_tokenizer_files(nothing)


def test_what_has_no_form_there(tmp_path: Path) -> None:
    save_tokenizer_files(tmp_path, CharTokenizer("ab"))
    with pytest.raises(InputError, match="model.type 'WordLevel'"):
        load_tokenizer_files(tmp_path)
    with pytest.raises(InputError, match="a tokenizer of kind word has no form in other programs"):
        save_tokenizer_files(tmp_path, WordTokenizer(["a"]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="begin_token is 5, but must be the id of a special token"):
        save_tokenizer_files(tmp_path, TOKENIZER, ChatFormat(5))
