"""nanoGPT's side of `jaxllm bench speedrun`: its own train.py, unchanged, with its README's recipe for a laptop."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.utils.errors import InputError

from ..errors import RunError
from ..inputs import Prepared
from .alternate import Program
from .process import last_line, worker_environment
from .whole_run import Clock, Tail, WholeRun, run_watched
from .workload import FOLDER

CONFIG = "config/train_shakespeare_char.py"
RECIPE = [
    CONFIG, "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000",
    "--dropout=0.0",
]  # fmt: skip
ALL_CHECKPOINTS = "--always_save_checkpoint=True"  # at each of its evaluations, not only at a lower estimate
SEED = 1337  # of its torch.manual_seed; it has no option for it
FILES = ("train.py", "model.py", "configurator.py", CONFIG)
DATA = Path("data", "shakespeare_char")
CHECKPOINT = Path("out-shakespeare-char", "ckpt.pt")
LOSSES = FOLDER / "nanogpt_losses.py"


def check_recipe(peer: Program, prepared: Prepared) -> None:
    """Raises InputError for a folder without nanoGPT's recipe, and for tokens that are not the characters of a text."""
    path = Path(str(peer.path))
    for name in FILES:
        if not (path / name).is_file():
            raise InputError(f"--peer {path}: there is no {name} in it; name a checkout of karpathy/nanoGPT.")
    config = prepared.config
    if config.tokenizer.kind != "char" or len(config.data.sources) > 1:
        raise InputError(
            f"tokenizer.kind is {config.tokenizer.kind!r} and data.source {config.data.source!r}, but nanogpt's recipe "
            "is for the characters of one text; name a text and leave [tokenizer] out."
        )


def train_nanogpt(peer: Program, prepared: Prepared) -> tuple[WholeRun, dict[str, Any]]:
    """Train it on the same text, split at the same character; its losses are computed after its end, and its versions.

    Each loss is over the whole validation split, by its own model from the checkpoint that it had written then.
    Raises RunError if a process fails or leaves no checkpoint, or if a loss is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="jaxllm-nanogpt-") as place:
        folder = Path(place)
        _write_files(folder, Path(str(peer.path)), prepared)
        kept = _KeptCheckpoints(folder)
        environment = worker_environment() | {"PYTHONUNBUFFERED": "1"}  # each line is there when it is printed
        python = os.path.abspath(shutil.which(peer.python) or peer.python)  # valid from its working folder
        command = [python, "train.py", *RECIPE, ALL_CHECKPOINTS]
        seconds = run_watched(peer.name, command, environment, folder, kept.output, kept.watch)
        if not kept.paths:
            raise RunError(f"{peer.name} has written no checkpoint: no loss of it is known.")
        job = {"peer": place, "ids": str(folder / DATA / "val.bin"), "checkpoints": list(map(str, kept.paths))}
        answer = _losses(peer, job)
    curve = tuple(zip(kept.seconds, answer["losses"], strict=True))
    for after_s, loss in curve:
        if not math.isfinite(loss):
            raise RunError(
                f"the validation loss of {peer.name} is {loss} after {after_s:.1f} s, but it must be finite: its "
                "training has diverged; check the torch of its Python, or take another text."
            )
    return WholeRun(seconds, curve), answer["versions"]


def _write_files(folder: Path, checkout: Path, prepared: Prepared) -> None:
    """A working folder: nanoGPT's files, the ids of both splits and the size of the vocabulary.

    Our ids of characters are nanoGPT's: both number them in code point order.
    """
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / name, folder / name)
    data = folder / DATA
    data.mkdir(parents=True)
    for name, ids in (("train.bin", prepared.train_ids), ("val.bin", prepared.validation_ids)):
        np.asarray(ids, np.uint16).tofile(data / name)
    # {"vocab_size": V} in the format that it reads: an open dict, the key, the number, the end.
    (data / "meta.pkl").write_bytes(b"(S'vocab_size'\nI%d\nd." % prepared.tokenizer.vocab_size)


class _KeptCheckpoints:
    """Every checkpoint of a run, which train.py itself overwrites, and the seconds at which its weights were there."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output.txt"
        self.paths: list[Path] = []
        self.seconds: list[float] = []
        self._checkpoint, self._lines = folder / CHECKPOINT, Tail(self.output)

    def watch(self, clock: Clock) -> None:
        """Move the checkpoint away once the line after its announcement shows that it is written."""
        for line in self._lines.lines():
            if len(self.seconds) > len(self.paths):
                path = self.output.with_name(f"{len(self.paths)}.pt")
                os.replace(self._checkpoint, path)
                self.paths.append(path)
            if line.startswith("saving checkpoint"):
                self.seconds.append(clock())


def _losses(peer: Program, job: dict[str, Any]) -> dict[str, Any]:
    """The answer of the script that computes the losses. Raises RunError if it fails."""
    command = [peer.python, str(LOSSES)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=worker_environment())
    if done.returncode:
        words = last_line(done.stderr, f"exit code {done.returncode}")
        raise RunError(f"the losses of {peer.name} cannot be computed: {words}.")
    return dict(json.loads(done.stdout))
