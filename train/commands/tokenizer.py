"""`jaxllm tokenizer`: trains, uses, shows, exports and imports tokenizers."""

import argparse
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

from ..outputs import check_new
from ..progress import counted
from .options import Parser, add_parser, add_reading, add_sources, add_tokenizer
from .tokenizer_show import show_text, show_vocabulary


def add_options(parser: Parser) -> None:
    """The options of everything that can be done with tokenizers."""
    kinds = parser.add_subparsers(dest="tokenizer", metavar="WHAT", required=True)
    train = add_parser(kinds, "train", "learn a tokenizer from text")
    train.runs(run_train, "jaxllm tokenizer train python-stdlib --vocab-size 32768 --out tok.json")
    add_sources(train)
    train.add_argument("--out", required=True, metavar="FILE.json", help="a readable FILE.vocab.txt comes beside it")
    train.add_argument("--kind", choices=("bpe", "char", "word"), default="bpe", help="default bpe")
    train.add_argument("--vocab-size", type=int, metavar="N", help="required for bpe, possible for word")
    add_reading(train)
    encode = add_parser(kinds, "encode", "text to ids")
    encode.runs(run_encode, "jaxllm tokenizer encode tok.json my-text.txt")
    decode = add_parser(kinds, "decode", "ids to text")
    decode.runs(run_decode, "jaxllm tokenizer decode tok.json ids.txt")
    for command in (encode, decode):
        add_tokenizer(command)
        command.add_argument("file", nargs="?", metavar="FILE", help="default: standard input")
    show = add_parser(kinds, "show", "the most used merges, or the pieces of a text")
    show.runs(run_show, 'jaxllm tokenizer show gpt2 --text "Every effort moves you"')
    add_tokenizer(show)
    text = show.add_mutually_exclusive_group()
    text.add_argument("--text", metavar="TEXT", help="colour the pieces of this text")
    text.add_argument("--file", metavar="FILE", help="colour the pieces of this file")
    show.add_argument("--top", type=int, default=20, metavar="N", help="how many merges or tokens; default 20")
    export = add_parser(kinds, "export", "write a tokenizer for other programs")
    export.runs(run_export, "jaxllm tokenizer export tok.json --out for-transformers/tokenizer.json")
    add_tokenizer(export)
    import_ = add_parser(kinds, "import", "read a tokenizer of another program")
    import_.runs(run_import, "jaxllm tokenizer import theirs.tiktoken --out tok.json")
    import_.add_argument("path", metavar="FILE", help="Hugging Face's tokenizer.json, or tiktoken's ranks")
    import_.add_argument(
        "--pattern", metavar="PATTERN",
        help="how a tiktoken file's text is split: gpt2, cl100k, o200k, llama3, smollm, qwen2 or a regular expression; "
        "not needed for published files and those of `export`",
    )  # fmt: skip
    for command in (export, import_):
        command.add_argument("--out", required=True, metavar="FILE")
        command.add_argument(
            "--format", choices=("huggingface", "tiktoken"),
            help="default: tiktoken for FILE.tiktoken, else huggingface; Llama 3's tokenizer.model is tiktoken",
        )  # fmt: skip


def open_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a file or of a run folder, or GPT-2's."""
    if path == "gpt2" and not os.path.exists(path):
        return BPETokenizer.gpt2()
    if not os.path.isdir(path):
        return load_tokenizer(path)
    tokenizer, pretrained = load_tokenizer(Path(path) / "tokenizer.json"), Path(path) / "pretrained.json"
    return tokenizer.ending_documents_with(ChatFormat.load(pretrained).eos_token) if pretrained.exists() else tokenizer


def run_train(arguments: argparse.Namespace) -> None:
    """Write the tokenizer and its vocabulary, and print how well it compresses the text."""
    kind, vocab_size, out, processes = arguments.kind, arguments.vocab_size, arguments.out, arguments.processes
    if kind == "bpe" and vocab_size is None:
        raise InputError("--vocab-size is missing; byte-pair encoding needs it, for example 32768.")
    if kind == "char" and vocab_size is not None:
        raise InputError(
            f"--vocab-size is {vocab_size}, but a character tokenizer has one id for each character of the text; "
            "leave it out."
        )
    processes = usable_cores() if processes is None else processes
    check_processes(processes)
    vocabulary = Path(out).with_suffix(".vocab.txt")
    for path in (Path(out), vocabulary):
        check_new(path)
    tokenizer, summary = (_learn_pairs if kind == "bpe" else _learn)(
        kind, vocab_size, arguments.sources, arguments.field, processes
    )
    tokenizer.save(out)
    replace_file(vocabulary, vocabulary_text(tokenizer).encode())
    print(f"{out}: {kind} tokenizer with {tokenizer.vocab_size:,} ids{summary}; to read: {vocabulary}")


def _learn(
    kind: str, vocab_size: int | None, sources: Sequence[str], field: str, processes: int
) -> tuple[Tokenizer, str]:
    """A tokenizer of characters or words, and an empty summary."""
    with _texts(sources, field) as texts:
        return (CharTokenizer.train(texts) if kind == "char" else WordTokenizer.train(texts, vocab_size)), ""


def _learn_pairs(
    kind: str, vocab_size: int | None, sources: Sequence[str], field: str, processes: int
) -> tuple[Tokenizer, str]:
    """A tokenizer of byte pairs and, in words, how many bytes of the text a token holds."""
    assert vocab_size is not None
    BPETokenizer.check_size(vocab_size)
    with _texts(sources, field) as texts:
        pieces = count_pieces(texts, processes)
    with counted("learning byte pairs", vocab_size) as report:
        tokenizer = BPETokenizer.from_pieces(pieces, vocab_size, progress=report)
    n_bytes = sum(len(piece) * times for piece, times in pieces.items())
    tokens = sum(len(tokenizer.encode(piece.decode())) * times for piece, times in pieces.items())
    return tokenizer, f", {n_bytes:,} bytes in {tokens:,} tokens, {n_bytes / tokens:.3f} bytes per token"


@contextmanager
def _texts(sources: Sequence[str], field: str) -> Iterator[Iterator[str]]:
    """The parts of all documents, with progress."""
    with counted("reading, million characters", None) as report:
        yield _counting(read_documents(sources, field), report)


def _counting(documents: Iterable[Document], report: Callable[[int], None]) -> Iterator[str]:
    """The parts of documents; reports how many million characters have been read."""
    characters = 0
    for document in documents:
        for part in document.chunks:
            characters += len(part)
            report(characters // 10**6)
            yield part


def run_encode(arguments: argparse.Namespace) -> None:
    """Print the ids, separated by spaces."""
    tokenizer, before = open_tokenizer(arguments.path), ""
    for ids in tokenizer.encode_stream([read_text(arguments.file)]):
        if ids:
            sys.stdout.write(before + " ".join(map(str, ids)))
            before = " "
    print()


def run_decode(arguments: argparse.Namespace) -> None:
    """Write the bytes of the text."""
    tokenizer = open_tokenizer(arguments.path)
    ids = []
    for place, word in enumerate(read_text(arguments.file).split(), start=1):
        if not word.isascii() or not word.lstrip("-").isdigit() or len(word) > 18:
            raise InputError(f"{word[:40]!r}, number {place:,} of the ids, is not a whole number.")
        ids.append(int(word))
        if not 0 <= ids[-1] < tokenizer.vocab_size:
            raise InputError(f"id {word}, number {place:,}, is outside the vocabulary of {tokenizer.vocab_size:,} ids.")
    sys.stdout.flush()
    sys.stdout.buffer.write(tokenizer.text_bytes(ids))
    sys.stdout.buffer.flush()


def read_text(file: str | None) -> str:
    """The text of a file, or of standard input. Raises InputError where it cannot be read or is not UTF-8."""
    try:
        content = Path(file).read_bytes() if file else sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}.") from None
    return decoded(content, file or "standard input")


def run_show(arguments: argparse.Namespace) -> None:
    """Print the first merges, which were the most frequent ones in training; or a text's pieces and its tokens."""
    if arguments.top < 0:
        raise InputError(f"--top is {arguments.top}, but it must be 0 or more.")
    tokenizer = open_tokenizer(arguments.path)
    if arguments.text is None and arguments.file is None:
        show_vocabulary(tokenizer, arguments.top)
    else:
        show_text(tokenizer, read_text(arguments.file) if arguments.text is None else arguments.text, arguments.top)


def run_export(arguments: argparse.Namespace) -> None:
    """Write the file; for tiktoken two files."""
    path, out, format = arguments.path, arguments.out, arguments.format
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


def run_import(arguments: argparse.Namespace) -> None:
    """Read the other program's file and write ours, with the vocabulary beside it."""
    path, out, pattern = arguments.path, arguments.out, arguments.pattern
    theirs = _format(path, arguments.format)
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
    """The number of special tokens, and the first of their names."""
    names = list(tokenizer.special_tokens)
    shown = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} special token{'s' * (len(names) != 1)}{shown}"


def _format(path: str, given: str | None) -> str:
    return given or ("tiktoken" if path.endswith(".tiktoken") else "huggingface")
