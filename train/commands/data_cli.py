"""The parsers of `jaxllm tokenizer ...` and `jaxllm data ...`."""

import argparse

from .options import Parser, add_command

SOURCES = "text files, folders, .jsonl or .ndjson, any of them .gz, or named corpora"
TOKENIZER = "a tokenizer.json, a run folder, or gpt2"


def add_data_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Both commands with all that they can do."""
    tokenizer = commands.add_parser(
        "tokenizer", help="train and use tokenizers", description="Train and use tokenizers."
    )
    kinds = tokenizer.add_subparsers(dest="tokenizer", metavar="WHAT", required=True)
    _add_train(kinds)
    for kind, help, example in (
        ("encode", "text to ids", "jaxllm tokenizer encode tok.json my-text.txt"),
        ("decode", "ids to text", "jaxllm tokenizer decode tok.json ids.txt"),
    ):
        parser = add_command(kinds, kind, _RUN[kind], help, example)
        parser.add_argument("path", metavar="TOKENIZER", help=TOKENIZER)
        parser.add_argument("file", nargs="?", metavar="FILE", help="default: standard input")
    show = add_command(
        kinds, "show", _show, "the most used merges, and a text in its pieces",
        'jaxllm tokenizer show gpt2 --text "Every effort moves you"',
    )  # fmt: skip
    show.add_argument("path", metavar="TOKENIZER", help=TOKENIZER)
    text = show.add_mutually_exclusive_group()
    text.add_argument("--text", metavar="TEXT", help="colour its pieces")
    text.add_argument("--file", metavar="FILE", help="colour the pieces of this file")
    show.add_argument("--top", type=int, default=20, metavar="N", help="so many merges or tokens; default 20")
    _add_exchange(kinds)

    data = commands.add_parser("data", help="prepare corpora for training", description="Prepare corpora for training.")
    kinds = data.add_subparsers(dest="data", metavar="WHAT", required=True)
    _add_prepare(kinds)
    verify = add_command(
        kinds,
        "verify",
        _verify,
        "compare every shard of prepared data with its sha256",
        "jaxllm data verify data/books",
    )
    verify.add_argument("folder", metavar="DIR")


def _add_train(kinds: "argparse._SubParsersAction[Parser]") -> None:
    train = add_command(
        kinds, "train", _train, "learn a tokenizer from text",
        "jaxllm tokenizer train python-stdlib --vocab-size 32768 --out tok.json",
    )  # fmt: skip
    train.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCES)
    train.add_argument("--out", required=True, metavar="FILE.json", help="a readable FILE.vocab.txt comes beside it")
    train.add_argument("--kind", choices=("bpe", "char", "word"), default="bpe", help="default bpe")
    train.add_argument("--vocab-size", type=int, metavar="N", help="for bpe and, if wanted, for word")
    _add_reading(train)


def _add_prepare(kinds: "argparse._SubParsersAction[Parser]") -> None:
    prepare = add_command(
        kinds, "prepare", _prepare, "tokenize a corpus of any size into shards; an interrupted one goes on",
        "jaxllm data prepare corpus/ --tokenizer tok.json --out data/books",
    )  # fmt: skip
    prepare.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCES)
    prepare.add_argument("--tokenizer", required=True, metavar="TOKENIZER", help=TOKENIZER)
    prepare.add_argument("--out", required=True, metavar="DIR", help="folder to make, or to go on in")
    prepare.add_argument(
        "--validation", type=float, default=0.01, metavar="SHARE", help="of the documents, by hash; default 0.01"
    )
    _add_reading(prepare)


def add_field(parser: argparse.ArgumentParser) -> None:
    """`--field` for a command that reads sources."""
    parser.add_argument("--field", default="text", metavar="NAME", help="of the text in JSON lines; default text")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add_field(parser)
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")


def _add_exchange(kinds: "argparse._SubParsersAction[Parser]") -> None:
    formats = ("huggingface", "tiktoken")
    export = add_command(
        kinds, "export", _export, "write a tokenizer for other programs",
        "jaxllm tokenizer export tok.json --out for-transformers/tokenizer.json",
    )  # fmt: skip
    export.add_argument("path", metavar="TOKENIZER", help=TOKENIZER)
    brought = add_command(
        kinds, "import", _import, "take over a tokenizer of another program",
        "jaxllm tokenizer import theirs.tiktoken --out tok.json",
    )  # fmt: skip
    brought.add_argument("path", metavar="FILE", help="Hugging Face's tokenizer.json, or tiktoken's ranks")
    brought.add_argument(
        "--pattern", metavar="PATTERN",
        help="how a tiktoken file's text is cut: gpt2, cl100k, o200k, llama3, smollm, qwen2 or a regular expression; "
        "published files and those of `export` are known",
    )  # fmt: skip
    for parser in (export, brought):
        parser.add_argument("--out", required=True, metavar="FILE")
        parser.add_argument(
            "--format",
            choices=formats,
            help="default: tiktoken for FILE.tiktoken, else huggingface; Llama 3's tokenizer.model is tiktoken",
        )


# The commands import what they need when they run.


def _train(arguments: argparse.Namespace) -> None:
    from .tokenizer import train_command

    a = arguments
    train_command(a.sources, a.kind, a.vocab_size, a.out, a.field, a.processes)


def _encode(arguments: argparse.Namespace) -> None:
    from .tokenizer import encode_command

    encode_command(arguments.path, arguments.file)


def _decode(arguments: argparse.Namespace) -> None:
    from .tokenizer import decode_command

    decode_command(arguments.path, arguments.file)


def _show(arguments: argparse.Namespace) -> None:
    from .tokenizer_show import show_command

    show_command(arguments.path, arguments.text, arguments.file, arguments.top)


def _export(arguments: argparse.Namespace) -> None:
    from .tokenizer import export_command

    export_command(arguments.path, arguments.out, arguments.format)


def _import(arguments: argparse.Namespace) -> None:
    from .tokenizer import import_command

    import_command(arguments.path, arguments.out, arguments.format, arguments.pattern)


def _prepare(arguments: argparse.Namespace) -> None:
    from .data import prepare_command

    a = arguments
    prepare_command(a.sources, a.tokenizer, a.out, a.field, a.validation, a.processes)


def _verify(arguments: argparse.Namespace) -> None:
    from .data import verify_command

    verify_command(arguments.folder)


_RUN = {"encode": _encode, "decode": _decode}
