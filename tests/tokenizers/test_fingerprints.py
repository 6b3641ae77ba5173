"""A tokenizer's fingerprint, by which a run recognises its own, is the same in every version."""

import json
from pathlib import Path

import pytest

from jaxllm.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)
from jaxllm.tokenizers.sentencepiece import BYTES
from tests.tokenizers.test_other_formats import ALL, BPE


def test_fingerprints(tmp_path: Path) -> None:
    prints = {tok.fingerprint() for tok in ALL}
    assert len(prints) == 4 and all(len(p) == 64 for p in prints)
    BPE.save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(dict(reversed(content.items())), indent=3))
    assert load_tokenizer(tmp_path / "t.json").fingerprint() == BPE.fingerprint()


@pytest.mark.parametrize(
    ("tokenizer", "begin"),
    [
        (CharTokenizer("abc"), "b00c2bec24e0b048"),
        (WordTokenizer(["a", "b"]), "613da43c5c5257ab"),
        (BPETokenizer([*(bytes([i]) for i in range(256)), b"ab"], ["<|endoftext|>"]), "11474de8884bdcb7"),
        (SentencePieceTokenizer([*BYTES, "<s>", "a"], [], ["<s>"]), "1e349efb6aa1dfa9"),
    ],
    ids=["char", "word", "bpe", "sentencepiece"],
)
def test_fingerprints_stay_as_they_are(tokenizer: Tokenizer, begin: str) -> None:
    """Checkpoints and prepared data record it, and are refused with another one."""
    assert tokenizer.fingerprint().startswith(begin)
