"""Tokenizers like those of published models, and folders that we write, in Hugging Face's own programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import hugging_face_tokenizers

from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files, save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, CharTokenizer
from jaxllm.tokenizers.formats import from_hugging_face, to_hugging_face
from jaxllm.tokenizers.formats.byte_level import to_characters
from jaxllm.tokenizers.formats.read_tokenizer_json import begin_token_of
from jaxllm.tokenizers.merges import merges_of
from jaxllm.tokenizers.split_patterns import pre_tokenizer_of
from tests.tokenizers.test_other_formats import BPE, END, HARD, TEXT, assigned

HARDER = ["I'M we'LL 'ſ 1 12 123 1234 12.5 x1y", "(yes) _id --- ...\n\n!", "a \n b\r\n\r\n  \n c   ", "  1  2\n3", "Å e\u0301\u0338 <\u0338", "½\x1c\x85\x01\x7f", "camelCase PDFs I'M\n//\n/!\n/ \r\n/", "a \n \n  "]  # fmt: skip
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
hard = st.text(st.sampled_from("/abst'STLle12 \n\r\t!?.-_<|>\u017fÅ\u0301\u0338東🙂१½\u3000\xa0\x1c\x85\u2028\x01\x7f"), max_size=40)  # fmt: skip

# The pre_tokenizers of published files: SmolLM2's, Llama 3's, Qwen2.5's and Qwen3's, gpt-oss's.
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "smollm": [{"type": "Digits", "individual_digits": True}, LEVEL],
    "llama3": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
        LEVEL | {"use_regex": False},
    ],
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
        LEVEL | {"use_regex": False},
    ],
    "o200k": [
        {"type": "Split", "pattern": {"Regex": "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
        LEVEL | {"use_regex": False},
    ],
    "cl100k": pre_tokenizer_of("cl100k")["pretokenizers"],  # no published file has tiktoken's current pattern
}  # fmt: skip


@pytest.mark.parametrize("alphabet", [True, False], ids=["every byte", "not every byte"])
@pytest.mark.parametrize("pattern", PUBLISHED)
def test_tokenizers_with_the_pre_tokenizers_of_published_models(pattern: str, alphabet: bool, tmp_path: Path) -> None:
    """With special tokens first and, as in SmolLM2, without tokens for some bytes."""
    tokenizers = hugging_face_tokenizers()
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.save(str(tmp_path / "t.json"))
    content = json.loads((tmp_path / "t.json").read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PUBLISHED[pattern]}
    content["normalizer"] = {"type": "NFC"} if pattern == "qwen2" else None
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    bytes_of = tokenizers.pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=[END, "<|im_end|>"], initial_alphabet=bytes_of, show_progress=False)  # fmt: skip
    theirs.train_from_iterator([Path(__file__).read_text(), *HARD], trainer)
    theirs.save(str(tmp_path / "t.json"))
    ours = from_hugging_face(tmp_path / "t.json")
    assert (ours.pattern, ours.special_tokens) == (pattern, {END: 0, "<|im_end|>": 1})

    @settings(max_examples=50)
    @given(assigned | hard)
    def same(text: str) -> None:
        assert theirs.encode(text).ids == ours.encode(text, ours.special_tokens)

    same()
    for text in (*HARD, *HARDER):
        assert theirs.encode(text).ids == ours.encode(text)
    to_hugging_face(ours, tmp_path / "again.json")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    for text in (*HARD, *HARDER):
        assert again.encode(text).ids == ours.encode(text)
        assert again.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    assert from_hugging_face(tmp_path / "again.json") == ours


def test_a_vocabulary_of_tiktokens_as_transformers_writes_it(tmp_path: Path) -> None:
    """Like Llama 3's: pieces that are tokens stay whole, all merges that make a token are listed, texts get a first token.

    The last two tokens occur only as whole pieces, or in two parts that merging does not reach.
    """
    tokenizers = hugging_face_tokenizers()
    tokens = [*BPE.tokens, b"  ", b"    ", b"   ", b"zqxj", b"rone "]
    ours = BPETokenizer(tokens, [END, "<|begin|>"], "llama3")
    to_hugging_face(ours, tmp_path / "t.json", begin_token=len(tokens) + 1)
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["model"]["ignore_merges"] and content["model"]["merges"].count(["Ġ", "ĠĠĠ"]) == 1
    assert from_hugging_face(tmp_path / "t.json") == ours and begin_token_of(content, "") == len(tokens) + 1
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    for text in (*HARD, *HARDER, "zqxj", " zqxj zqx", "rone ", "The throne thought.", *(" " * n for n in range(20))):
        assert theirs.encode(text).ids == [len(tokens) + 1, *ours.encode(text)]
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_transformers_opens_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without warnings, for the same ids and conversations; what it saves again equals what we wrote."""
    pytest.importorskip("transformers", reason="transformers is in the extra `peers`")
    from transformers import AutoTokenizer

    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}{{ eos_token }}"
    names = [END, "<|im_start|>", "<|im_end|>"]
    for pattern, normalization, begin in (("smollm", None, None), ("llama3", None, 1), ("qwen2", "NFC", None)):
        folder = tmp_path / pattern
        folder.mkdir()
        ours = BPETokenizer(BPE.tokens, {name: i for i, name in enumerate(names)}, pattern, normalization)
        chat = ChatFormat(begin, (2,), names[1], names[2], template)
        save_tokenizer_files(folder, ours, chat)
        theirs = AutoTokenizer.from_pretrained(folder)
        for text in (*HARD, *HARDER, f"a {END} b"):
            ids = [begin] * (begin is not None) + ours.encode(text, names)
            assert theirs.encode(text) == ids and theirs.decode(ids) == ours.decode(ids)
        messages = [{"role": "user", "content": " What is 12? \n"}, {"role": "assistant", "content": "12."}]
        assert theirs.apply_chat_template(messages, tokenize=False) == chat.render(messages)
        assert theirs.apply_chat_template(messages)["input_ids"] == encode_chat(ours, chat, messages)
        assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)
        theirs.save_pretrained(folder / "again")
        assert load_tokenizer_files(folder / "again") == load_tokenizer_files(folder) == (ours, chat)
    characters = CharTokenizer.train(TEXT)
    save_tokenizer_files(tmp_path, characters)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXT) == characters.encode(TEXT) and theirs.decode(characters.encode(TEXT)) == TEXT
    said = [line for line in capfd.readouterr().err.splitlines() if "PyTorch was not found" not in line]
    assert not said


def test_what_transformers_skips_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is in the extra `peers`")
    from transformers import AutoTokenizer

    n = len(BPE.tokens)
    tok = BPETokenizer(
        BPE.tokens, {END: n, "<|im_end|>": n + 1}, "qwen2", "NFC", {"<tool_call>": n + 2, "<think>": n + 3}
    )
    text = "a <tool_call> <think>b<|im_end|>"
    for i in range(2):
        folder = tmp_path / str(i)
        folder.mkdir()
        save_tokenizer_files(folder, tok, ChatFormat(None, (n + 1,), None, "<|im_end|>"))
        theirs = AutoTokenizer.from_pretrained(folder)
        assert theirs.encode(text) == tok.encode(text, tok.special_tokens)
        assert theirs.decode(theirs.encode(text), skip_special_tokens=True) == "a <tool_call> <think>b"
        theirs.save_pretrained(tmp_path / f"again{i}")
        read, _ = load_tokenizer_files(tmp_path / f"again{i}")
        assert read == tok


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize("beside", ["nothing", "map", "decoder"])
def test_folders_without_tokenizer_json(kind: str, beside: str, tmp_path: Path) -> None:
    """With added_tokens.json, special_tokens_map.json and added_tokens_decoder, which contradict each other."""
    pytest.importorskip("transformers", reason="transformers is in the extra `peers`")
    from transformers import AutoTokenizer

    n = len(BPE.tokens)
    config = {"tokenizer_class": kind, "eos_token": "<|a|>"}
    files: dict[str, Any] = {
        "config": {"model_type": "gpt2" if kind == "GPT2Tokenizer" else "qwen2"},
        "vocab": {to_characters(token): i for token, i in BPE.ranks.items()} | {END: n},
        "added_tokens": {"<|a|>": n + 1, "<|b|>": n + 2, "<tool>": n + 3},
    }
    if beside == "map":
        files["special_tokens_map"] = {"eos_token": "<|b|>"}
    if beside == "decoder":
        config |= {"added_tokens_decoder": {str(n + 1): {"content": "<|a|>", "special": True}}}
        files["special_tokens_map"] = {"eos_token": "<|b|>"}
    for name, fields in (files | {"tokenizer_config": config}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(fields))
    lines = [f"{to_characters(a)} {to_characters(b)}" for a, b in merges_of(BPE)]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours, chat = load_tokenizer_files(tmp_path)
    assert isinstance(ours, BPETokenizer)
    assert theirs.eos_token == chat.eos_token and (theirs.eos_token_id,) == chat.end_tokens
    special = {one.content: i for i, one in theirs.added_tokens_decoder.items() if one.special}
    added = {one.content: i for i, one in theirs.added_tokens_decoder.items() if not one.special}
    assert (special, added) == (ours.special_tokens, ours.added)
    for text in (*HARD, *HARDER, f"a<|a|><tool>\u0338<|b|>{END}<tool>"):
        assert theirs.encode(text) == ours.encode(text, ours.special_tokens)
