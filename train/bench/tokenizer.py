"""`jaxllm bench tokenizer`: training byte pairs and encoding with them, beside tiktoken, Hugging Face and rustbpe.

All sides take turns in one process, on the same texts. Every side encodes with our vocabulary and must produce our
ids, or the bench exits with 1.
"""

import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxllm import __version__
from jaxllm.data import read_documents
from jaxllm.tokenizers import BPETokenizer
from jaxllm.tokenizers.formats import to_hugging_face
from jaxllm.tokenizers.split_patterns import GPT2_FAST_PATTERN
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.processes import usable_cores

from ..outputs import check_output
from .machine import processor
from .statistics import Spread, speed_ratio

Train = Callable[[list[str], int], Any]
Encode = Callable[[str], Sequence[int]]
PACKAGES = {"tiktoken": "tiktoken", "hf": "tokenizers", "rustbpe": "rustbpe"}  # what each peer is imported from


def bench_tokenizer_command(
    sources: list[str], field: str, vocab_size: int, against: list[str] | None, rounds: int, json_file: str | None
) -> bool:
    """Prints the table and writes the JSON; returns whether all produced our ids."""
    if not 1 <= rounds <= 1000:
        raise InputError(f"--rounds is {rounds}, but it must be from 1 to 1,000.")
    check_output("--json", json_file, (".json",))
    BPETokenizer.check_size(vocab_size)
    peers = _present(against)
    texts = ["".join(document.chunks) for document in read_documents(sources, field)]
    whole = "\n".join(texts)
    print(
        f"{' and '.join(sources)}: {len(texts):,} documents, {len(whole.encode()):,} bytes; {vocab_size:,} ids",
        flush=True,
    )
    training = _by_turns({name: _timed(train, texts, vocab_size) for name, train in _trainers(peers).items()}, rounds)
    tokenizer = BPETokenizer.train(texts, vocab_size)
    encoders = _encoders(peers, tokenizer)
    ids = tokenizer.encode(whole)
    differing = [name for name, encode in encoders.items() if list(encode(whole)) != ids]
    encoding = _by_turns({name: _timed(encode, whole) for name, encode in encoders.items()}, rounds)
    figures = _figures({"training": training, "encoding": encoding}, len(whole.encode()), len(ids), vocab_size, peers)
    print("\n".join(_table(figures)))
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1)}\n".encode())
    for name in differing:
        print(f"{name} produced other ids: the two do not compute the same")
    return not differing


def _present(against: list[str] | None) -> list[str]:
    """The peers asked for, or all that are installed. Raises InputError for one that is not."""
    installed = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    for name in against or []:
        if name not in installed:
            raise InputError(f"--against {name}: there is no {PACKAGES[name]} in this Python; pip install it first.")
    return against or installed


def _trainers(peers: list[str]) -> dict[str, Train]:
    """The sides that can train, ours first."""
    trainers = {"hf": _train_hf, "rustbpe": _train_rustbpe}
    return {"ours": _train_ours} | {name: trainers[name] for name in peers if name in trainers}


def _train_ours(texts: list[str], vocab_size: int) -> BPETokenizer:
    return BPETokenizer.train(texts, vocab_size, processes=usable_cores())


def _train_hf(texts: list[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    level = pre_tokenizers.ByteLevel
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_rustbpe(texts: list[str], vocab_size: int) -> Any:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=GPT2_FAST_PATTERN)
    return tokenizer


def _encoders(peers: list[str], tokenizer: BPETokenizer) -> dict[str, Encode]:
    """The sides that can encode with our vocabulary, ours first."""
    encoders: dict[str, Encode] = {"ours": tokenizer.encode}
    if "tiktoken" in peers:
        import tiktoken

        theirs = tiktoken.Encoding(
            "ours", pat_str=GPT2_FAST_PATTERN, mergeable_ranks=tokenizer.ranks, special_tokens={}
        )
        encoders["tiktoken"] = theirs.encode_ordinary
    if "hf" in peers:
        from tokenizers import Tokenizer

        with tempfile.TemporaryDirectory() as folder:
            to_hugging_face(tokenizer, Path(folder) / "tokenizer.json")
            loaded = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        encoders["hf"] = lambda text: loaded.encode(text).ids
    return encoders


def _timed(function: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    def turn() -> float:
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    return turn


def _by_turns(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, A B C A B C."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return seconds


def _figures(
    seconds: dict[str, dict[str, list[float]]], n_bytes: int, n_ids: int, vocab_size: int, peers: list[str]
) -> dict[str, Any]:
    """All figures; a ratio is our speed over the peer's, its median over the rounds."""
    sides: dict[str, dict[str, Any]] = {}
    ratios: dict[str, dict[str, Any]] = {}
    for what, of_each in seconds.items():
        for name, taken in of_each.items():
            median = Spread.of(taken).median
            sides.setdefault(name, {})[what] = {"s": median, "mb_per_s": n_bytes / median / 1e6, "rounds_s": taken}
            if name != "ours":
                ratio = speed_ratio([[s] for s in of_each["ours"]], [[s] for s in taken])
                ratios.setdefault(name, {})[what] = {"median": ratio.median, "spread": [ratio.low, ratio.high]}
    return {
        "ours": sides.pop("ours"), "peer": sides, "ratio": ratios,
        "sizes": {"bytes": n_bytes, "tokens": n_ids, "bytes_per_token": n_bytes / n_ids, "vocab_size": vocab_size},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"jaxllm": __version__, "python": platform.python_version()}
        | {PACKAGES[name]: metadata.version(PACKAGES[name]) for name in peers},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _table(figures: dict[str, Any]) -> list[str]:
    lines = [f"{figures['machine']['processor']}, {figures['machine']['cores']} cores; {figures['date'][:10]}"]
    lines.append(f"{figures['sizes']['tokens']:,} tokens, {figures['sizes']['bytes_per_token']:.3f} bytes per token")
    for what in ("training", "encoding"):
        for name, side in (("jaxllm", figures["ours"]), *figures["peer"].items()):
            if what in side:
                line = f"{what:<9} {name:<9} {side[what]['s']:>8.2f} s {side[what]['mb_per_s']:>8.2f} MB/s"
                if name != "jaxllm":
                    ratio = figures["ratio"][name][what]
                    low, high = ratio["spread"]
                    line += f"   jaxllm {ratio['median']:.2f} times as fast ({low:.2f} to {high:.2f})"
                lines.append(line)
    lines.append(", ".join(f"{name} {version}" for name, version in figures["versions"].items()))
    return lines
