"""Text to ids and back, by characters, words or byte pairs.

    tok = BPETokenizer.train(text, vocab_size=1024)
    ids = tok.encode("some text")
    tok.decode(ids)
    tok.save("tokenizer.json")
    tok == load_tokenizer("tokenizer.json")

`textbook` explains byte-pair encoding on one page. `char`, `word`, `bpe` and `sentencepiece` are the tokenizers, `base`
is what they share. Byte pairs take four steps: `special_tokens` finds special and added tokens, `pre_tokenize` splits
the text between them into pieces (by `split_patterns`, or a `custom_pattern`), `bpe_training` learns merges and
`bpe_encoding` applies them. `chunks` cuts long texts, `merges` and `listing` show a vocabulary to people, and `formats`
reads and writes the files of other programs.
"""

import json
from pathlib import Path

from jaxllm.tokenizers.base import FORMAT, VERSION, Tokenizer
from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.char import CharTokenizer
from jaxllm.tokenizers.sentencepiece import SentencePieceTokenizer
from jaxllm.tokenizers.word import WordTokenizer
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.utf8 import decoded

__all__ = ["BPETokenizer", "CharTokenizer", "SentencePieceTokenizer", "Tokenizer", "WordTokenizer", "load_tokenizer"]

KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind for kind in (CharTokenizer, WordTokenizer, BPETokenizer, SentencePieceTokenizer)
}


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote. Raises InputError for a file that is missing, damaged or not a tokenizer's."""
    try:
        content = json.loads(decoded(read_file(path), path))
    except OSError as error:
        raise InputError(f"cannot read the tokenizer {path}: {error.strerror}.") from None
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a tokenizer file: it is not JSON.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a tokenizer file of jaxllm.")
    kind = content.get("kind")
    if content.get("version") != VERSION or not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"{path} is a tokenizer of version {shown(content.get('version'))} and kind {shown(kind)}; "
            f"this jaxllm reads version {VERSION} of {', '.join(KINDS)}."
        )
    return KINDS[kind].from_dict(content)
