"""`jaxllm tokenizer`: train, encode, decode, export and import."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxllm.data import read_documents
from jaxllm.data.documents import Document
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)
from jaxllm.tokenizers.formats import from_hugging_face, from_tiktoken, to_hugging_face, to_tiktoken
from jaxllm.tokenizers.formats.tiktoken_files import settings_path
from jaxllm.tokenizers.listing import vocabulary_text
from jaxllm.tokenizers.pre_tokenize import count_pieces
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.processes import check_processes, usable_cores
from jaxllm.utils.utf8 import decoded

from ..progress import counted


def open_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a file or a run folder, or GPT-2's."""
    if path == "gpt2" and not os.path.exists(path):
        return BPETokenizer.gpt2()
    if not os.path.isdir(path):
        return load_tokenizer(path)
    tokenizer, pretrained = load_tokenizer(Path(path) / "tokenizer.json"), Path(path) / "pretrained.json"
    return tokenizer.ending_documents_with(ChatFormat.load(pretrained).eos_token) if pretrained.exists() else tokenizer


def train_command(
    sources: Sequence[str], kind: str, vocab_size: int | None, out: str, field: str, processes: int | None
) -> None:
    """Learns, writes the file and the vocabulary beside it, and prints how well the text is compressed."""
    if kind == "bpe" and vocab_size is None:
        raise InputError("--vocab-size is missing; byte-pair encoding needs it, for example 32768.")
    if kind == "char" and vocab_size is not None:
        raise InputError(f"--vocab-size is {vocab_size}, but characters are as many as they are; leave it out.")
    processes = usable_cores() if processes is None else processes
    check_processes(processes)
    vocabulary = Path(out).with_suffix(".vocab.txt")
    for path in (Path(out), vocabulary):
        check_new(path)
    tokenizer, summary = (_learn_pairs if kind == "bpe" else _learn)(kind, vocab_size, sources, field, processes)
    tokenizer.save(out)
    replace_file(vocabulary, vocabulary_text(tokenizer).encode())
    print(f"{out}: {kind} tokenizer with {tokenizer.vocab_size:,} ids{summary}; to read: {vocabulary}")


def check_new(path: Path) -> None:
    """Raises InputError unless a file can be made there."""
    if path.exists():
        raise InputError(f"{path} exists already; choose another name with --out.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; make it first.")


def _learn(
    kind: str, vocab_size: int | None, sources: Sequence[str], field: str, processes: int
) -> tuple[Tokenizer, str]:
    """The tokenizer of characters or words, and nothing more to say of it."""
    with _texts(sources, field) as texts:
        return (CharTokenizer.train(texts) if kind == "char" else WordTokenizer.train(texts, vocab_size)), ""


def _learn_pairs(
    kind: str, vocab_size: int | None, sources: Sequence[str], field: str, processes: int
) -> tuple[Tokenizer, str]:
    """The tokenizer and, in words, how many bytes of the text a token holds."""
    assert vocab_size is not None
    BPETokenizer.check_size(vocab_size)
    with _texts(sources, field) as texts:
        pieces = count_pieces(texts, processes)
    with counted("learning byte pairs", vocab_size) as tell:
        tokenizer = BPETokenizer.from_pieces(pieces, vocab_size, progress=tell)
    n_bytes = sum(len(piece) * times for piece, times in pieces.items())
    tokens = sum(len(tokenizer.encode(piece.decode())) * times for piece, times in pieces.items())
    return tokenizer, f", {n_bytes:,} bytes in {tokens:,} tokens, {n_bytes / tokens:.3f} bytes per token"


@contextmanager
def _texts(sources: Sequence[str], field: str) -> Iterator[Iterator[str]]:
    """The parts of all documents, with progress."""
    with counted("reading, million characters", None) as tell:
        yield _told(read_documents(sources, field), tell)


def _told(documents: Iterable[Document], tell: Callable[[int], None]) -> Iterator[str]:
    characters = 0
    for document in documents:
        for part in document.chunks:
            characters += len(part)
            tell(characters // 10**6)
            yield part


def encode_command(path: str, file: str | None) -> None:
    """Prints the ids, separated by spaces."""
    tokenizer, before = open_tokenizer(path), ""
    for ids in tokenizer.encode_stream([read_text(file)]):
        if ids:
            sys.stdout.write(before + " ".join(map(str, ids)))
            before = " "
    print()


def decode_command(path: str, file: str | None) -> None:
    """Writes the text, to the byte."""
    tokenizer = open_tokenizer(path)
    ids = []
    for place, word in enumerate(read_text(file).split(), start=1):
        if not word.isascii() or not word.lstrip("-").isdigit() or len(word) > 18:
            raise InputError(f"{word[:40]!r}, number {place:,} of the ids, is not a whole number.")
        ids.append(int(word))
        if not 0 <= ids[-1] < tokenizer.vocab_size:
            raise InputError(f"id {word}, number {place:,}, is outside the vocabulary of {tokenizer.vocab_size:,} ids.")
    sys.stdout.flush()
    sys.stdout.buffer.write(tokenizer.text_bytes(ids))
    sys.stdout.buffer.flush()


def read_text(file: str | None) -> str:
    """A file's text, or what comes in on standard input. Raises InputError where it cannot be read or is no UTF-8."""
    try:
        content = Path(file).read_bytes() if file else sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}.") from None
    return decoded(content, file or "standard input")


def export_command(path: str, out: str, format: str | None) -> None:
    """Writes the file; for tiktoken two."""
    tokenizer = open_tokenizer(path)
    check_new(Path(out))
    if _format(out, format) != "tiktoken":
        to_hugging_face(tokenizer, out)
        print(f"{out}: {tokenizer.vocab_size:,} ids for {_format(out, format)}")
        return
    if not isinstance(tokenizer, BPETokenizer):
        raise InputError(f"{path} is a {tokenizer.kind} tokenizer, but tiktoken's files hold byte pairs of bytes only.")
    check_new(settings_path(out))
    to_tiktoken(tokenizer, out)
    print(f"{out}: {len(tokenizer.tokens):,} ranks; {settings_path(out)}: the pattern and {_special(tokenizer)}")


def import_command(path: str, out: str, format: str | None, pattern: str | None) -> None:
    """Reads the other program's file and writes ours, with the vocabulary beside it."""
    theirs = _format(path, format)
    if pattern is not None and theirs != "tiktoken":
        raise InputError(
            "--pattern is for tiktoken's files, and a tokenizer.json has its own pattern; leave it out, or give "
            "--format tiktoken."
        )
    tokenizer = from_tiktoken(path, pattern=pattern) if theirs == "tiktoken" else from_hugging_face(path)
    vocabulary = Path(out).with_suffix(".vocab.txt")
    for file in (Path(out), vocabulary):
        check_new(file)
    tokenizer.save(out)
    replace_file(vocabulary, vocabulary_text(tokenizer).encode())
    made = f", {len(tokenizer.tokens):,} ranks and {_special(tokenizer)}" if theirs == "tiktoken" else ""
    print(f"{out}: {tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} ids{made}; to read: {vocabulary}")


def _special(tokenizer: BPETokenizer | SentencePieceTokenizer) -> str:
    """How many special tokens there are, and the first of them."""
    names = list(tokenizer.special_tokens)
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} special token{'s' * (len(names) != 1)}{shown}"


def _format(path: str, given: str | None) -> str:
    return given or ("tiktoken" if path.endswith(".tiktoken") else "huggingface")
