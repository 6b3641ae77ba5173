"""`jaxllm bench train`: from the words on the command line to the table."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from jaxllm.compare.report import bound_text, error_text
from jaxllm.utils.errors import InputError

from ..config import load_config
from ..errors import DivergedError
from ..outputs import check_output
from ..progress import replace_text
from .alternate import Against, record
from .generate_recording import PEERS, subject_for
from .process import check_python
from .train_report import Report, headline, losses_agree, make_report, table

MOST_ROUNDS = 10_000


def bench_train_command(
    config: str, overrides: list[str], against: str | None, path: str | None, python: str | None, rounds: int,
    json_file: str | None,
) -> bool:  # fmt: skip
    """Prints the table and writes the JSON; returns whether both sides came to the same loss."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    peer = peer_for(against, path, python)
    loaded = load_config(config, overrides)
    subject = subject_for(loaded, against)
    print(f"{config}: " + "\n".join(headline(subject)))
    if subject.model.activation != loaded.model.activation:
        print(f"{against} computes {subject.model.activation}; so does jaxllm here, not {loaded.model.activation}")
    sys.stdout.flush()
    with status() as tell:
        report = make_report(subject, record(subject, peer, rounds, tell), against)
    _check_finite(report)
    print("\n".join(table(report)))
    if json_file:
        replace_text(Path(json_file), json.dumps(report, indent=1, allow_nan=False) + "\n")
    if not losses_agree(report):
        print(
            f"the losses differ by {error_text(report['loss_difference'], report['loss_tolerance'])} of themselves, "
            f"more than {bound_text(report['loss_tolerance'])}: the two do not compute the same"
        )
    return losses_agree(report)


def check_rounds(rounds: int) -> None:
    """Raises InputError for too few or too many."""
    if not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"--rounds is {rounds}, but it must be from 1 to {MOST_ROUNDS:,}.")


def peer_for(against: str | None, path: str | None, python: str | None) -> Against | None:
    """The other side, as far as the command line tells. Raises InputError for options that do not fit."""
    if against is None:
        if path or python:
            raise InputError(f"{'--peer' if path else '--peer-python'} is for a bench --against another program.")
        return None
    if PEERS[against].from_path != bool(path):
        raise InputError(
            f"--against {against} needs --peer PATH, a checkout of karpathy/nanoGPT." if PEERS[against].from_path
            else f"--peer is for --against nanogpt; {against} is taken from the Python that --peer-python names."
        )  # fmt: skip
    if path and not (Path(path) / "model.py").is_file():
        raise InputError(f"--peer {path}: there is no model.py in it; name a checkout of karpathy/nanoGPT.")
    python = python or sys.executable
    check_python(python, PEERS[against].needs, against)
    return Against(against, path and os.path.abspath(path), python)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """On a terminal a line on what is being done, gone at the end; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda doing: None
        return
    with Console(stderr=True).status("", refresh_per_second=1) as status:  # a livelier one would cost the steps time
        yield status.update


def _check_finite(report: Report) -> None:
    for name, side in (("jaxllm", report["ours"]), (report["against"], report["peer"])):
        if side and not math.isfinite(side["loss"]):
            raise DivergedError(f"the loss of {name} is {side['loss']}: lower optimizer.learning_rate.")
