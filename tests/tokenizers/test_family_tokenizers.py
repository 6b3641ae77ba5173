"""A tiny tokenizer.json with the structure of each family's published one: the ids and texts of Hugging Face tokenizers.

The structures are those of the published files of Pythia, GPT-Neo, Qwen 2.5 and 3, OLMo 2, Phi-3, Phi-4, SmolLM 3 and
Gemma 3: normalizer, pre_tokenizer, options of the model, post_processor, decoder and flags of added tokens.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peers import hugging_face_tokenizers

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat, encode_chat, split_at_special
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.gguf_write_tokenizer import tokenizer_keys
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, load_tokenizer
from jaxllm.tokenizers.chunks import rechunk
from jaxllm.tokenizers.formats import from_hugging_face, to_hugging_face
from jaxllm.tokenizers.formats.write_tokenizer_json import content_of
from jaxllm.tokenizers.split_patterns import LLAMA3_PATTERN, QWEN2_PATTERN
from tests.pretrained.test_gguf_write_tokenizer import WORDS, sentencepiece
from tests.tokenizers.test_other_formats import BPE, END, HARD

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACE_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
# An added token: whether it is special, found in the normalized text, and takes the white space before and after it.
SPECIAL, PLAIN, NORMALIZED = (True, False, False, False), (False, False, False, False), (False, True, False, False)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    one = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [one, LEVEL | {"use_regex": False}]}


FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[bool, bool, bool, bool]]]] = {
    "pythia": (
        {"normalizer": {"type": "NFC"}, "pre_tokenizer": LEVEL, "post_processor": LEVEL},
        {END: SPECIAL, "<|padding|>": SPECIAL, **{" " * n: NORMALIZED for n in range(24, 1, -1)}},
    ),
    "gpt-neo": ({"pre_tokenizer": LEVEL, "post_processor": LEVEL}, {END: (True, True, False, False)}),
    "qwen": (
        {"normalizer": {"type": "NFC"}, "pre_tokenizer": split(QWEN2_PATTERN), "post_processor": LEVEL},
        {END: SPECIAL, "<|im_end|>": SPECIAL, "<tool_call>": PLAIN, "</think>": PLAIN},
    ),
    "olmo2": (
        {"pre_tokenizer": split(LLAMA3_PATTERN, "Removed", True), "decoder": LEVEL | {"add_prefix_space": True}},
        {"<|extra_id_0|>": PLAIN, END: SPECIAL, "|||IP_ADDRESS|||": PLAIN},
    ),
    "phi-4": (
        {"pre_tokenizer": split(LLAMA3_PATTERN, "Removed", True)},
        {END: (True, False, True, True), "<|im_end|>": (True, False, True, True), "<|dummy|>": (True, False, True, False)},
    ),
    "smollm3": (
        {"pre_tokenizer": split(LLAMA3_PATTERN), "post_processor": {"type": "TemplateProcessing", "single": [TEXT], "pair": [TEXT], "special_tokens": {}}, "ignore_merges": True},
        {END: SPECIAL, "<|im_end|>": SPECIAL, "<think>": PLAIN},
    ),
    "phi-3": (
        {"post_processor": {"type": "TemplateProcessing", "single": [BEGIN, TEXT], "pair": [BEGIN, TEXT], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}},
        {"<s>": SPECIAL, "</s>": (False, False, False, True), "<|user|>": (True, False, False, True), "<|end|>": (True, False, False, True)},
    ),
    "gemma3": (
        {"normalizer": TO_SPACE, "pre_tokenizer": SPACE_SPLIT},
        {"<s>": SPECIAL, "</s>": SPECIAL, "<turn>": SPECIAL, "\n\n": PLAIN, "▁▁": PLAIN, "<table>": PLAIN},
    ),
}  # fmt: skip
CHARACTERS = {"phi-3": "part", "gemma3": "none"}  # the families with SentencePiece's tokenizers, and their prefixes
MERGED = {**WORDS, "▁▁": [("▁", "▁")]}
PRE = {"pythia": "olmo", "gpt-neo": "gpt-2", "qwen": "qwen2", "olmo2": "llama-bpe", "smollm3": "llama-bpe"}


def published(family: str) -> dict[str, Any]:
    """A tokenizer.json of the family's structure, with a tiny vocabulary."""
    changes, tokens = FAMILIES[family]
    base = sentencepiece(MERGED, prefix=CHARACTERS[family]) if family in CHARACTERS else BPETokenizer(BPE.tokens, [])
    content = json.loads(json.dumps(content_of(base)))
    vocabulary = content["model"]["vocab"]
    for name in tokens:
        vocabulary.setdefault(name, len(vocabulary))
    content["added_tokens"] = [
        {"id": vocabulary[name], "content": name, "single_word": False, "lstrip": left, "rstrip": right,
         "normalized": normalized, "special": special}
        for name, (special, normalized, left, right) in tokens.items()
    ]  # fmt: skip
    content["model"] |= {"ignore_merges": bool(changes.get("ignore_merges"))}
    if family in CHARACTERS:
        content["model"] |= {"fuse_unk": True}
    return content | {name: value for name, value in changes.items() if name != "ignore_merges"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(family: str, tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(published(family)))
    return path


def parts_of(family: str) -> list[str]:
    return [*FAMILIES[family][1], " ", "\n", "\u3000", "\x1c", "  ", "a", "the", "7", "e\u0301", "東", "🙂", "<", "\t"]


def test_ids_and_texts_are_theirs(family: str, path: Path, tmp_path: Path) -> None:
    theirs, ours = hugging_face_tokenizers().Tokenizer.from_file(str(path)), from_hugging_face(path)
    to_hugging_face(ours, tmp_path / "again.json")
    again = hugging_face_tokenizers().Tokenizer.from_file(str(tmp_path / "again.json"))
    assert from_hugging_face(tmp_path / "again.json") == ours
    ours.save(tmp_path / "ours.json")
    assert load_tokenizer(tmp_path / "ours.json") == ours

    @settings(max_examples=60)
    @given(st.lists(st.sampled_from(parts_of(family)), max_size=9).map("".join) | st.sampled_from(HARD))
    def same(text: str) -> None:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text, ours.special_tokens) == again.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        if isinstance(ours, BPETokenizer):
            assert ours.encode_slowly(text, ours.special_tokens) == ids

    same()


def test_gguf_keeps_them(family: str, path: Path) -> None:
    """Also that Phi-3's tokens take white space, which llama.cpp knows by the name of the model."""
    ours = from_hugging_face(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what llama.cpp does in another way
        if family == "phi-4":
            with pytest.raises(InputError, match="a GGUF file cannot hold the strips of this tokenizer"):
                tokenizer_keys(ours, ChatFormat(), ours.vocab_size)
            return
        keys = tokenizer_keys(ours, ChatFormat(), ours.vocab_size, "my phi3")
    assert keys["general.name"] == ("my phi3" if family == "phi-3" else "my phi 3")
    assert keys["tokenizer.ggml.pre"] == PRE.get(family, "default")
    read, _ = read_gguf_tokenizer(keys, "x.gguf")
    for text in HARD:
        assert read.encode(text) == ours.encode(text)
    text = "a" + " \nthe".join(FAMILIES[family][1]) + " "
    assert read.encode(text, read.special_tokens) == ours.encode(text, ours.special_tokens)


CHARS = sentencepiece()
PHI3 = SentencePieceTokenizer(CHARS.tokens, CHARS.merges, ["<s>"], ["</s>"], strips={"</s>": "right", "<s>": "both"})
PHI4 = BPETokenizer(BPE.tokens, {END: 298}, "llama3", None, {"</s>": 299}, strips={"</s>": "both"})


@pytest.mark.parametrize("tokenizer", [PHI3, PHI4], ids=["characters", "bytes"])
def test_no_chunk_divides_the_white_space_of_a_token(tokenizer: Any) -> None:
    """Added tokens, here </s>, are found in each chunk by itself."""

    @example(".\n</s>the", 1)
    @settings(max_examples=100)
    @given(
        st.lists(st.sampled_from(["</s>", " ", "  \n", "\n", "\t", ".", "the"]), max_size=12).map("".join),
        st.integers(1, 5),
    )
    def same(text: str, size: int) -> None:
        start, ids = 0, []
        for chunk in rechunk([text], lambda text: tokenizer.chunks(text, size)):
            ids += tokenizer.encode_chunk(chunk, start)
            start += len(chunk)
        assert ids == tokenizer.encode(text)

    same()


def test_a_conversation_is_written_without_the_white_space() -> None:
    chat = ChatFormat(
        chat_template="{% for m in messages %}{{ bos_token }}\n{{ m.content }}{% endfor %}", bos_token="<s>"
    )
    messages = [{"role": "user", "content": " the <s> "}, {"role": "user", "content": ""}]
    begin = PHI3.special_tokens["<s>"]
    assert encode_chat(PHI3, chat, messages) == [begin, *PHI3.encode("the <s>"), begin]
    assert split_at_special(chat.render_tracked(messages), PHI3) == [(0, begin), (5, "the <s>"), (13, begin)]


@pytest.mark.parametrize(
    ("pre", "pattern", "normalization"), [("dbrx", "llama3", None), ("mpt", "gpt2", "NFC"), ("phi-2", "gpt2", None)]
)
def test_other_names_of_pre_tokenizers(pre: str, pattern: str, normalization: str | None) -> None:
    """Without a begin token, where the file does not say that there is one."""
    tokenizer = BPETokenizer(BPE.tokens, [END], pattern, normalization)
    keys = tokenizer_keys(tokenizer, ChatFormat(298, bos_token=END), tokenizer.vocab_size)
    assert keys.pop("tokenizer.ggml.add_bos_token") and keys["tokenizer.ggml.bos_token_id"] == 298
    read, chat = read_gguf_tokenizer(keys | {"tokenizer.ggml.pre": pre}, "x.gguf")
    assert read == tokenizer and chat.begin_token is None


@pytest.mark.parametrize("strips", [{"<x>": "left"}, {"<s>": "up"}])
def test_other_sides_and_names_are_refused(strips: dict[str, str]) -> None:
    for make in (
        lambda: BPETokenizer(BPE.tokens, ["<s>"], strips=strips),
        lambda: SentencePieceTokenizer(PHI3.tokens, PHI3.merges, ["<s>"], strips=strips),
    ):
        with pytest.raises(InputError, match="must name a special or added token, and one of left, right, both"):
            make()
    with pytest.raises(InputError, match="'strips' must be a table of sides by token"):
        BPETokenizer.from_dict(BPE.to_dict() | {"strips": ["left"]})
