"""`jaxllm data`: prepares corpora for training, verifies prepared ones, and shows the pairs that training reads."""

import argparse
from pathlib import Path

import numpy as np

from jaxllm.data.shard_writer import prepare_shards, separator_of
from jaxllm.data.shards import Index, read_index
from jaxllm.data.shards import verify as verify_shards
from jaxllm.tokenizers import Tokenizer, WordTokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.processes import usable_cores
from jaxllm.utils.utf8 import visible

from ..progress import counted
from .data_pairs import show_pairs
from .options import Parser, add_parser, add_reading, add_sources, add_tokenizer
from .tokenizer import open_tokenizer, read_text


def add_options(parser: Parser) -> None:
    """The options of `jaxllm data prepare`, `jaxllm data verify` and `jaxllm data pairs`."""
    kinds = parser.add_subparsers(dest="data", metavar="WHAT", required=True)
    prepare = add_parser(kinds, "prepare", "tokenize a corpus of any size into shards, or continue where that stopped")
    prepare.runs(run_prepare, "jaxllm data prepare corpus/ --tokenizer tok.json --out data/books")
    add_sources(prepare)
    add_tokenizer(prepare, "--tokenizer", required=True)
    prepare.add_argument("--out", required=True, metavar="DIR", help="folder to make, or to continue in")
    prepare.add_argument(
        "--validation", type=float, default=0.01, metavar="SHARE",
        help="share of the documents for validation, chosen by hash; default 0.01",
    )  # fmt: skip
    add_reading(prepare)
    verify = add_parser(kinds, "verify", "compare every shard of prepared data with its sha256")
    verify.runs(run_verify, "jaxllm data verify data/books")
    verify.add_argument("folder", metavar="DIR")
    pairs = add_parser(kinds, "pairs", "show the input-target pairs of a text, the target of each token under it")
    pairs.runs(run_pairs, 'jaxllm data pairs "Please buy an apple and an orange" --context-length 4 --stride 1')
    pairs.add_argument(
        "text", metavar="TEXT|FILE",
        help="a text, or the name of a file that holds it; without --tokenizer its words are the tokens",
    )  # fmt: skip
    add_tokenizer(pairs, "--tokenizer")
    pairs.add_argument("--context-length", type=int, default=4, metavar="N", help="tokens of an input; default 4")
    pairs.add_argument(
        "--stride", type=int, default=1, metavar="N", help="tokens from one input to the next; default 1"
    )
    pairs.add_argument("--top", type=int, default=8, metavar="N", help="how many pairs; default 8")


def run_prepare(arguments: argparse.Namespace) -> None:
    """Tokenize into shards, with progress, and print what they hold."""
    a = arguments
    processes = usable_cores() if a.processes is None else a.processes
    tokenizer = open_tokenizer(a.tokenizer)
    with counted("tokenizing, million characters", None) as report:
        index = prepare_shards(
            a.sources, tokenizer, a.out, a.field, a.validation, processes, lambda done: report(done // 10**6)
        )
    print("\n".join([*describe(a.out, index), f"documents are separated by {describe_separator(tokenizer)}"]))
    if not index.documents["validation"]:
        print("note: no document is for validation; the last tenth of the tokens will be, or raise --validation")


def run_verify(arguments: argparse.Namespace) -> None:
    """Read every shard and print what they hold."""
    folder = arguments.folder
    index = read_index(folder)
    size = sum(shard.count for split in index.splits.values() for shard in split) * np.dtype(index.dtype).itemsize
    with counted("reading, bytes", size) as report:
        verify_shards(folder, index, report)
    print("\n".join([*describe(folder, index), "every shard is as it was written"]))


def run_pairs(arguments: argparse.Namespace) -> None:
    """Print the first pairs. Without --tokenizer, words are the tokens: those of the text itself."""
    a = arguments
    if a.top < 1:
        raise InputError(f"--top is {a.top}, but it must be at least 1.")
    text, name = text_or_file(a.text)
    tokenizer = open_tokenizer(a.tokenizer) if a.tokenizer else WordTokenizer.train(text)
    source = f"{name}, by {a.tokenizer or 'its words'}"
    show_pairs(tokenizer, tokenizer.encode(text), a.context_length, a.stride, a.top, source)


def text_or_file(given: str) -> tuple[str, str]:
    """The text and what to call it: the content of a file, or what was given where there is no such file.

    One word that ends in .txt is a file. Raises InputError where it cannot be read.
    """
    if is_file(given):
        return read_text(given), given
    return given, "the text"


def is_file(given: str) -> bool:
    """Whether something on the command line names a file rather than being a text."""
    if len(given.split()) == 1 and given.endswith(".txt"):
        return True
    try:
        return bool(given) and Path(given).exists()
    except (OSError, ValueError):  # too long for a name, or with a character that no name has
        return False


def describe(folder: str | Path, index: Index) -> list[str]:
    """Lines on what prepared data holds."""
    lines = [f"{folder}: {index.characters:,} characters, {index.vocab_size:,} ids, {index.dtype}"]
    for split, shards in index.splits.items():
        count = sum(shard.count for shard in shards)
        lines.append(
            f"{split:<10} {index.documents[split]:>12,} documents {count:>15,} tokens {len(shards):>6,} shards"
        )
    return lines


def describe_separator(tokenizer: Tokenizer) -> str:
    """What separates two documents, in words."""
    ids = separator_of(tokenizer)
    if tokenizer.end_of_text is not None:
        return f"the token {visible(tokenizer.decode_bytes(ids))}, id {ids[0]}"
    return f"{'a newline' if ids else 'nothing'}, because the tokenizer has no end token"
