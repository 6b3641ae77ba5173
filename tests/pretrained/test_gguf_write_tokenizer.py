"""Tokenizers and chat formats as keys of a GGUF file: read again as they were, or refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained_files import refusal

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.gguf_write_tokenizer import tokenizer_keys
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer
from jaxllm.tokenizers.sentencepiece import BYTES, SPACE

pytestmark = pytest.mark.newest

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. 123 1234\n\n  e\u0301 東京 "
TOKENS = BPETokenizer.train(TEXT * 2, 300, ()).tokens
NAMES = ["<|endoftext|>", "<|start|>", "<|stop|>", "<|call|>"]
NO_CHAT = ChatFormat()


def keys_of(tokenizer: Tokenizer, chat: ChatFormat = NO_CHAT, vocab_size: int | None = None) -> dict[str, Any]:
    """The keys, without the beginning that all but the template's have."""
    keys = tokenizer_keys(tokenizer, chat, vocab_size or tokenizer.vocab_size)
    return {key.removeprefix("tokenizer.ggml."): value for key, value in keys.items()}


def again(
    tokenizer: Tokenizer, chat: ChatFormat = NO_CHAT, vocab_size: int | None = None
) -> tuple[Tokenizer, ChatFormat]:
    return read_gguf_tokenizer(tokenizer_keys(tokenizer, chat, vocab_size or tokenizer.vocab_size), "x.gguf")


# ---- byte pairs


@pytest.mark.parametrize(
    ("pre", "pattern", "normalization"),
    [
        ("gpt-2", "gpt2", None),
        ("olmo", "gpt2", "NFC"),
        ("smollm", "smollm", None),
        ("llama-bpe", "llama3", None),
        ("qwen2", "qwen2", "NFC"),
    ],
)
def test_byte_pairs_come_back(pre: str, pattern: str, normalization: str | None) -> None:
    special = {"<|endoftext|>": 0, "<|b|>": 3}
    tok = BPETokenizer([t for t in TOKENS if t != b"\x01"], special, pattern, normalization, {"<tool>": 301})
    keys = keys_of(tok)
    assert (keys["model"], keys["pre"]) == ("gpt2", pre) and keys["token_type"].dtype == np.dtype("<i4")
    assert keys["tokens"][:4] == ["<|endoftext|>", "Ā", "Ă", "<|b|>"] and "Ġ t" not in keys["tokens"]
    assert keys["token_type"][[0, 1, 3, 301]].tolist() == [3, 1, 3, 4] and keys["merges"][0] == "t h"
    found, _ = again(tok)
    assert found == tok and found.encode(TEXT + "<tool>") == tok.encode(TEXT + "<tool>")


def test_ids_without_a_token_get_unused_ones() -> None:
    """As in llama.cpp's converter; a token that already has such a name keeps it."""
    tok = BPETokenizer(TOKENS, [*NAMES, "[PAD304]"])
    keys = keys_of(tok, vocab_size=308)
    assert keys["tokens"][300:] == [*NAMES, *(f"[PAD{i}]" for i in range(304, 308))]
    assert keys["token_type"][300:].tolist() == [3] * 4 + [5] * 4
    found, _ = again(tok, vocab_size=308)
    assert found.vocab_size == 308 and found.encode(TEXT) == tok.encode(TEXT)


def test_tokens_that_no_merge_makes() -> None:
    llama = BPETokenizer([*TOKENS, b"zqxj"], ["<|end_of_text|>"], "llama3")
    assert again(llama)[0] == llama
    message = refusal(lambda: keys_of(BPETokenizer([*TOKENS, b"zqxj"], NAMES, "qwen2", "NFC")))
    assert "llama.cpp supports with the pattern llama3 only, but the tokenizer's is qwen2" in message


def test_added_tokens_of_the_normalized_text_are_noted() -> None:
    tok = BPETokenizer(TOKENS, NAMES, added={"<tool>": 304}, normalized=["<tool>"])
    with pytest.warns(UserWarning, match="^GGUF: 1 added tokens are found in the text as it is given, not as norm"):
        assert again(tok)[0].encode("a<tool>") == tok.encode("a<tool>")


# ---- characters with bytes


def pieces(words: dict[str, list[tuple[str, str]]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens: special ones, bytes, letters, and the words, made by these merges in this order."""
    letters = sorted({letter for word in words for letter in word} | {SPACE})
    return ["<unk>", "<s>", "</s>", *BYTES, *letters, *words], [pair for pairs in words.values() for pair in pairs]


WORDS: dict[str, list[tuple[str, str]]] = {
    "th": [("t", "h")], "he": [("h", "e")], "the": [("th", "e"), ("t", "he")], f"{SPACE}t": [(SPACE, "t")],
    f"{SPACE}the": [(f"{SPACE}t", "he"), (SPACE, "the")], "en": [("e", "n")],
    "then": [("the", "n"), ("th", "en")],
}  # fmt: skip


def sentencepiece(words: Any = None, added: tuple[str, ...] = (), prefix: str = "part") -> SentencePieceTokenizer:
    tokens, merges = pieces(WORDS if words is None else words)
    tokens += [name for name in added if name not in tokens]
    pairs = [(tokens.index(left), tokens.index(right)) for left, right in merges]
    return SentencePieceTokenizer(tokens, pairs, ["<unk>", "<s>", "</s>"], added, prefix)


@settings(max_examples=50)
@given(st.text("then <>tool", max_size=20))
def test_characters_come_back(text: str) -> None:
    tok = sentencepiece(added=("<tool>",))
    assert CAME_BACK == tok and CAME_BACK.encode(text) == tok.encode(text)


CAME_BACK = again(sentencepiece(added=("<tool>",)))[0]


def test_the_keys_of_characters() -> None:
    keys = keys_of(sentencepiece(added=("<tool>",)))
    tokens, kinds = keys["tokens"], keys["token_type"].tolist()
    assert (keys["model"], keys["pre"], keys["add_space_prefix"]) == ("llama", "default", True)
    assert kinds[:4] == [2, 3, 3, 6] and kinds[3:259] == [6] * 256 and kinds[259] == 1 and kinds[-1] == 4
    assert (keys["unknown_token_id"], keys["eos_token_id"], keys["scores"].dtype) == (0, 2, np.dtype("<f4"))
    scores = dict(zip(tokens, keys["scores"].tolist(), strict=True))
    assert [scores[word] for word in WORDS] == [0, -1, -2, -3, -4, -5, -6]
    assert scores["<s>"] < -6 and scores["t"] < -6


def test_tokens_of_equal_scores() -> None:
    """Of equal scores the merge with the longer left part is first, whichever token it makes."""
    tokens, _ = pieces({"ab": [], "cd": [], "abcd": [], "abc": [], "bcd": []})
    order = [("a", "b"), ("c", "d"), ("abc", "d"), ("ab", "cd"), ("ab", "c"), ("a", "bcd"), ("b", "cd")]
    pairs = [(tokens.index(left), tokens.index(right)) for left, right in order]
    tok = SentencePieceTokenizer(tokens, pairs, ["<unk>", "<s>", "</s>"])
    keys = keys_of(tok)
    scores = dict(zip(keys["tokens"], keys["scores"].tolist(), strict=True))
    assert scores["ab"] == 0 and scores["cd"] == -1 and scores["abcd"] == scores["abc"] == -2 and scores["bcd"] == -3
    assert again(tok)[0] == tok


@pytest.mark.parametrize("prefix", ["none", "part", "first", "always"])
def test_spaces_before_a_text(prefix: str) -> None:
    tok = sentencepiece(prefix=prefix)
    if prefix in ("none", "part"):
        assert again(tok)[0] == tok
        return
    with pytest.warns(UserWarning, match=f"llama.cpp adds a space before each part of a text; .* rule '{prefix}'"):
        found, _ = again(tok)
    assert isinstance(found, SentencePieceTokenizer) and found.prefix == "part"
    assert found.encode("then the") == tok.encode("then the")


def test_added_tokens_of_spaces_are_made_by_merges() -> None:
    """Gemma has an added token for each run of spaces, which no text with spaces of its own is searched for."""
    run = SPACE * 3
    spaces = {SPACE * 2: [(SPACE, SPACE)], run: [(SPACE * 2, SPACE), (SPACE, SPACE * 2)]}
    tok = sentencepiece(spaces | WORDS, (run, "<tool>"), "none")
    found, _ = again(tok)
    assert found.added == {"<tool>": tok.added["<tool>"]}
    assert tok.added[run] in tok.encode("the   ") and found.encode("the    <tool> the") == tok.encode(
        "the    <tool> the"
    )


# ---- how texts begin and end


def test_a_chat_format_comes_back() -> None:
    tok = BPETokenizer(TOKENS, NAMES)
    chat = ChatFormat(301, (302, 300), "<|start|>", "<|stop|>", "{{ bos_token }}{{ messages }}")
    keys = keys_of(tok, chat)
    assert (keys["bos_token_id"], keys["eos_token_id"], keys["add_bos_token"]) == (301, 302, True)
    assert "eot_token_id" not in keys  # <|endoftext|> is found by its name
    assert keys["tokenizer.chat_template"] == chat.chat_template and again(tok, chat)[1] == chat


def test_three_tokens_may_end_an_answer() -> None:
    tok = BPETokenizer(TOKENS, NAMES[1:])
    chat = ChatFormat(end_tokens=(301, 300, 302), eos_token="<|stop|>")
    keys = keys_of(tok, chat)
    assert [keys[f"{role}_token_id"] for role in ("eos", "eot", "eom")] == [301, 300, 302]
    assert again(tok, chat)[1] == chat
    more = BPETokenizer(TOKENS, [*NAMES[1:], "<|x|>"])
    with pytest.warns(UserWarning, match=r"room for three tokens that end an answer; the ids \[303\] are left out"):
        _, found = again(more, ChatFormat(end_tokens=(301, 300, 302, 303), eos_token="<|stop|>"))
    assert found.end_tokens == (301, 300, 302)


@pytest.mark.parametrize(
    ("chat", "ids"),
    [
        (ChatFormat(), {"eos_token_id": 300, "add_bos_token": False}),
        (ChatFormat(bos_token="<|start|>"), {"bos_token_id": 301, "eos_token_id": 300, "add_bos_token": False}),
        (ChatFormat(302), {"bos_token_id": 302, "eos_token_id": 300, "add_bos_token": True}),
        (ChatFormat(end_tokens=(302,)), {"eos_token_id": 302, "add_bos_token": False}),
        (ChatFormat(0, (0,), chat_template=""), {"bos_token_id": 0, "eos_token_id": 0, "add_bos_token": True}),
        (ChatFormat(bos_token="absent", eos_token="absent"), {"eos_token_id": 300, "add_bos_token": False}),
    ],
    ids=str,
)
def test_which_ids_have_roles(chat: ChatFormat, ids: dict[str, Any]) -> None:
    """A file without an end token would get one by llama.cpp's default, so it names the end of documents."""
    keys = keys_of(BPETokenizer(TOKENS, NAMES), chat)
    assert {key: value for key, value in keys.items() if key.endswith(("_id", "bos_token"))} == ids
    assert keys.get("tokenizer.chat_template") == chat.chat_template


def test_an_added_token_with_a_role_is_special() -> None:
    """As the reader takes it, and llama.cpp."""
    tok = BPETokenizer(TOKENS, NAMES, added={"<tool>": 304, "<|im_end|>": 305, "<end>": 306, "<begin>": 307})
    chat = ChatFormat(end_tokens=(306,), bos_token="<begin>")
    assert keys_of(tok, chat)["token_type"][304:].tolist() == [4, 3, 3, 3]
    assert again(tok, chat)[0].added == {"<tool>": 304}


# ---- what is refused

PLAIN = BPETokenizer(TOKENS, NAMES)
FOLDER = "export a folder with --out FOLDER instead"


@pytest.mark.parametrize(
    ("tokenizer", "chat", "words"),
    [
        (CharTokenizer.train("abc"), NO_CHAT, "a tokenizer of kind char has no form in GGUF"),
        (WordTokenizer.train("a b c"), NO_CHAT, "a tokenizer of kind word has no form in GGUF"),
        (BPETokenizer(TOKENS, NAMES, "cl100k"), NO_CHAT, "pattern 'cl100k' has no name in llama.cpp that gives the same ids; those of gpt2, smollm, llama3, qwen2 have"),
        (BPETokenizer(TOKENS, NAMES, r"[\s\S]"), NO_CHAT, "has no name in llama.cpp"),
        (BPETokenizer(TOKENS, NAMES, "qwen2"), NO_CHAT, "a GGUF file cannot hold the normalization of this tokenizer"),
        (BPETokenizer(TOKENS, NAMES, "smollm", "NFC"), NO_CHAT, "a GGUF file cannot hold the normalization of this tokenizer"),
        (BPETokenizer(TOKENS, [*NAMES, "Ġ"]), NO_CHAT, "GGUF has one id for each name, but the tokenizer uses 'Ġ' twice"),
        (PLAIN, ChatFormat(301, bos_token="<|stop|>"), "texts begin with the id 301, but bos_token is '<|stop|>', the id 302, and a GGUF file has one such token"),
        (sentencepiece(WORDS | {"hen": []}), NO_CHAT, "a GGUF file cannot hold the merges of this tokenizer"),
        (sentencepiece({"th": [("t", "h")], "the": [("t", "he"), ("th", "e")], "he": [("h", "e")]}), NO_CHAT, "a GGUF file cannot hold the merges of this tokenizer"),
    ],
    ids=lambda value: value.kind if isinstance(value, Tokenizer) else "",
)  # fmt: skip
def test_what_gguf_cannot_express_is_refused(tokenizer: Tokenizer, chat: ChatFormat, words: str) -> None:
    message = refusal(lambda: keys_of(tokenizer, chat))
    assert words in message and FOLDER in message


def test_a_tokenizer_of_a_larger_model() -> None:
    assert "has 304 ids, but the model only 303" in refusal(lambda: keys_of(PLAIN, vocab_size=303))
