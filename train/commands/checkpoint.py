"""`jaxllm checkpoint`: lists and verifies the checkpoints of a run."""

import argparse
from contextlib import suppress
from pathlib import Path

from jaxllm.tokenizers import load_tokenizer
from jaxllm.utils.errors import printable

from ..errors import DamagedError, DroppedError
from ..runs.checkpoint import DAMAGED, Checkpoints
from ..runs.folder import RunFolder
from ..runs.load import model_of
from ..state import abstract_state
from .options import Parser, add_parser, add_run


def add_options(parser: Parser) -> None:
    """The options of `jaxllm checkpoint list` and `jaxllm checkpoint verify`."""
    kinds = parser.add_subparsers(dest="checkpoint", metavar="WHAT", required=True)
    for kind, run, help in (
        ("list", run_list, "the checkpoints of a run with their validation losses"),
        ("verify", run_verify, "compare every byte of every checkpoint with its sum; exit 1 if one is damaged"),
    ):
        command = add_parser(kinds, kind, help)
        command.runs(run, f"jaxllm checkpoint {kind} runs/first")
        add_run(command, step=False)


def run_list(arguments: argparse.Namespace) -> None:
    """Print a line for each checkpoint. It reads their manifests, not their arrays."""
    checkpoints = _open(RunFolder(arguments.path))
    best = checkpoints.best_step()
    print(f"{'step':>9}  {'val_loss':>8}  {'MiB':>9}")
    for step in checkpoints.steps():
        size = _bytes(checkpoints.folder / str(step)) / 2**20
        print(f"{step:>9,}  {_describe(checkpoints, step, size)}{'  best' if step == best else ''}")
    for left_out in sorted(checkpoints.folder.glob(f"*{DAMAGED}")):
        print(f"left out: {left_out}")


def _describe(checkpoints: Checkpoints, step: int, size: float) -> str:
    try:
        manifest = checkpoints.manifest(step)
    except DamagedError as error:
        return f"{'':>8}  {size:>9.1f}  damaged: {error}"
    if manifest is None:
        return f"{'':>8}  {size:>9.1f}  format 1, without sums"
    loss = "" if manifest.val_loss is None else f"{manifest.val_loss:.4f}"
    by = ", ".join(f"{name} {printable(manifest.versions.get(name, '?'), 20)}" for name in ("jaxllm", "jax", "python"))
    return f"{loss:>8}  {size:>9.1f}  {by}"


def run_verify(arguments: argparse.Namespace) -> int:
    """Read every byte of every checkpoint and print a line for each; returns 1 if one is damaged."""
    folder = RunFolder(arguments.path)
    checkpoints = _open(folder)
    config = folder.read_config()
    like = abstract_state(model_of(config, load_tokenizer(folder.tokenizer)), config)
    whole = True
    for step in checkpoints.steps():
        try:
            checkpoints.check(step, like)
            found = (
                "every byte is as it was written" if checkpoints.has_checksums(step) else "readable (format 1, no sums)"
            )
        except DroppedError:
            continue
        except DamagedError as error:
            whole, found = False, f"damaged: {error}"
        print(f"step {step:>9,}  {found}", flush=True)
    return 0 if whole else 1


def _open(folder: RunFolder) -> Checkpoints:
    folder.read_config()  # raises InputError unless it is a run
    checkpoints = Checkpoints(folder.checkpoints)
    if not checkpoints.steps():
        raise checkpoints.none_yet()
    return checkpoints


def _bytes(folder: Path) -> int:
    """The size of all files in it."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a run that is training may delete it
            size += path.stat().st_size if path.is_file() else 0
    return size
