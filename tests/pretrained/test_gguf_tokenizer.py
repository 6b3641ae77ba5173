"""Tokenizers from GGUF files: the ids of the original tokenizer, and what the names of tokens decide."""

from typing import Any

import numpy as np
import pytest

from jaxllm import InputError
from jaxllm.pretrained.chat import encode_chat
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.tokenizers import BPETokenizer
from jaxllm.tokenizers.formats.byte_level import check_ids, listed_merges, to_characters

pytestmark = pytest.mark.newest

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. 123 1234\n\n  e\u0301 東京 "
TOKENS = BPETokenizer.train(TEXT * 2, 300, ()).tokens
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def metadata(tokenizer: BPETokenizer, pre: str, **more: Any) -> dict[str, Any]:
    """The keys as llama.cpp's converter writes them."""
    names = {i: to_characters(token) for token, i in tokenizer.ranks.items()}
    names |= {i: name for name, i in tokenizer.special_tokens.items()}
    special = set(tokenizer.special_tokens.values())
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [names[i] for i in range(len(names))],
        "token_type": np.array([CONTROL if i in special else NORMAL for i in range(len(names))], "<i4"),
        "merges": [f"{to_characters(a)} {to_characters(b)}" for a, b in listed_merges(tokenizer)[0]],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | more).items()}


@pytest.mark.parametrize(
    ("pre", "pattern", "normalization"),
    [("gpt-2", "gpt2", None), ("smollm", "smollm", None), ("llama-bpe", "llama3", None), ("qwen2", "qwen2", "NFC")],
)
def test_the_same_tokenizer(pre: str, pattern: str, normalization: str | None) -> None:
    first = BPETokenizer([t for t in TOKENS if t != b"\x01"], {"<|a|>": 0, "<|b|>": 3}, pattern, normalization)
    tokenizer, chat_format = read_gguf_tokenizer(metadata(first, pre), "x.gguf")
    assert tokenizer == first
    assert tokenizer.encode(TEXT + "<|b|>", ["<|b|>"]) == first.encode(TEXT) + [3]
    assert chat_format.to_dict() == dict.fromkeys(chat_format.to_dict()) | {"end_tokens": ()}


@pytest.mark.parametrize(
    "ids", [{"a": 0.0, "b": 1.0}, {"a": False, "b": True}, {"a": 0, "b": "1"}, {"a": 1, "b": 2}, {"a": 0, "b": 0}]
)
def test_ids_are_whole_numbers_from_0_on(ids: Any) -> None:
    """A number in JSON may be 1.0 or true, which equal 1 in Python."""
    with pytest.raises(InputError, match="the ids in x.json are not 0 to 1, each once"):
        check_ids(ids.values(), "x.json")
    check_ids([1, 0], "x.json")


def test_tokens_that_no_merge_makes_are_whole_pieces_of_llama_3() -> None:
    llama = BPETokenizer([*TOKENS, b"zqxj"], ["<|begin_of_text|>"], "llama3")
    assert read_gguf_tokenizer(metadata(llama, "llama-bpe"), "x.gguf")[0] == llama
    with pytest.raises(InputError, match="the merges in x.gguf do not make token 300, 'zqxj'"):
        read_gguf_tokenizer(metadata(llama, "qwen2"), "x.gguf")


def test_how_texts_and_answers_begin_and_end() -> None:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD304]"]
    tok = BPETokenizer(TOKENS, names, "smollm")
    kinds = np.array([NORMAL] * 300 + [CONTROL] * 3 + [USER_DEFINED, UNUSED])
    ids = {"bos_token_id": 301, "eos_token_id": 302, "eom_token_id": 303, "unknown_token_id": 300}
    keys = metadata(tok, "smollm", token_type=kinds, **ids) | {"tokenizer.chat_template": "{{ eos_token }}"}
    tokenizer, chat = read_gguf_tokenizer(keys, "x.gguf")
    assert list(tokenizer.special_tokens) == names
    assert (chat.begin_token, chat.bos_token, chat.eos_token) == (None, "<|im_start|>", "<|im_end|>")
    assert chat.end_tokens == (302, 303, 300)
    assert encode_chat(tokenizer, chat, []) == [302]
    begins = "tokenizer.ggml.add_bos_token"
    assert read_gguf_tokenizer(keys | {begins: True}, "x.gguf")[1].begin_token == 301
    keys["tokenizer.ggml.pre"] = "llama-bpe"  # whose texts begin with a token unless the file says otherwise
    assert read_gguf_tokenizer(keys, "x.gguf")[1].begin_token == 301
    assert read_gguf_tokenizer(keys | {begins: False}, "x.gguf")[1].begin_token is None


PLAIN = BPETokenizer(TOKENS, ["<|endoftext|>"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "t5"}, "has a tokenizer of model 't5' and pre-tokenizer 'gpt-2', but this jaxllm reads llama, and gpt2 with gpt-2, phi-2, olmo"),
        ({"pre": "default"}, "pre-tokenizer 'default'"),
        ({"pre": np.arange(3)}, r"pre-tokenizer .\[0 1 2\]"),
        ({"pre": None}, "pre-tokenizer .None"),
        ({"tokens": ["a", "a"], "token_type": np.array([1, 1])}, "holds a token twice"),
        ({"token_type": np.array([1, 3])}, "not a type for each of its 301 tokens"),
        ({"token_type": "x"}, "is no GGUF file with a tokenizer of byte pairs: TypeError|not a type for each"),
        ({"tokens": np.arange(3)}, "x.gguf"),
        ({"tokens": ["a", "b" * 1025], "token_type": np.array([1, 1])}, "holds a token of 1,025 characters, more than the 1,024 allowed"),
        ({"merges": ["t h e"]}, "is no GGUF file with a tokenizer of byte pairs: ValueError"),
        ({"merges": 7}, "is no GGUF file with a tokenizer of byte pairs: TypeError"),
        ({"eos_token_id": True}, "tokenizer.ggml.eos_token_id is True, but it must be an integer"),
        ({"bos_token_id": "<s>"}, "tokenizer.ggml.bos_token_id is '<s>', but it must be an integer"),
        ({"eot_token_id": 2.0}, "tokenizer.ggml.eot_token_id is 2.0, but it must be an integer"),
        ({"eom_token_id": np.arange(2)}, r"tokenizer.ggml.eom_token_id is array\(\[0, 1\]\), but it must be an integer"),
    ],
)  # fmt: skip
def test_what_is_not_supported_or_damaged_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        changed = {f"tokenizer.ggml.{key}": value for key, value in change.items()}
        read_gguf_tokenizer(metadata(PLAIN, "gpt-2") | changed, "x.gguf")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("outside", [-1, -301, 301, 999, 2**32 - 1])
@pytest.mark.parametrize("key", ["bos", "eos", "eot", "eom"])
def test_an_id_outside_the_table_is_left_out_and_reported(key: str, outside: int) -> None:
    """As in llama.cpp, whose converters write 4294967295 for no token. A negative id does not count from the end."""
    name = f"tokenizer.ggml.{key}_token_id"
    right = metadata(PLAIN, "gpt-2", bos_token_id=300, eos_token_id=300, add_bos_token=True)
    with pytest.warns(
        UserWarning, match=f"^{name} is {outside}, outside the 301 ids of the tokenizer; it is ignored.$"
    ):
        _, chat = read_gguf_tokenizer(right | {name: outside}, "x.gguf")
    right.pop(name, None)
    assert chat == read_gguf_tokenizer(right, "x.gguf")[1]


def test_the_last_id_of_the_table_is_in_it() -> None:
    keys = metadata(PLAIN, "gpt-2", bos_token_id=np.uint32(0), eos_token_id=np.int64(300), add_bos_token=True)
    chat = read_gguf_tokenizer(keys, "x.gguf")[1]
    assert (chat.begin_token, chat.end_tokens, chat.eos_token) == (0, (300,), "<|endoftext|>")
    assert type(chat.begin_token) is int


def test_keys_that_are_missing_are_named() -> None:
    for key in ("tokens", "token_type", "merges"):
        keys = metadata(PLAIN, "gpt-2")
        del keys[f"tokenizer.ggml.{key}"]
        with pytest.raises(InputError, match=f"KeyError, 'tokenizer.ggml.{key}'"):
            read_gguf_tokenizer(keys, "x.gguf")
