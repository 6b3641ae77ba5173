"""`jaxllm checkpoint`: what a run has saved, and whether it is whole."""

from pathlib import Path

from jaxllm.errors import InputError
from jaxllm.tokenizers import load_tokenizer
from train.checkpoint import DAMAGED, Checkpoints
from train.errors import DamagedError
from train.folder import RunFolder
from train.trained import abstract_state


def list_command(path: str) -> None:
    """A line for each checkpoint; reads their manifests, not their arrays."""
    checkpoints = _open(RunFolder(path))
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
    by = ", ".join(f"{name} {manifest.versions.get(name, '?')}" for name in ("jaxllm", "jax", "python"))
    return f"{loss:>8}  {size:>9.1f}  {by}"


def verify_command(path: str) -> bool:
    """Reads every byte of every checkpoint; prints a line for each and returns whether all are whole."""
    folder = RunFolder(path)
    checkpoints = _open(folder)
    like = abstract_state(folder.read_config(), load_tokenizer(folder.tokenizer))
    whole = True
    for step in checkpoints.steps():
        try:
            checkpoints.check(step, like)
        except DamagedError as error:
            whole = False
            print(f"step {step:>9,}  damaged: {error}", flush=True)
        else:
            sums = "every byte is as it was written" if checkpoints.manifest(step) else "readable (format 1, no sums)"
            print(f"step {step:>9,}  {sums}", flush=True)
    return whole


def _open(folder: RunFolder) -> Checkpoints:
    folder.read_config()  # whether it is a run at all
    checkpoints = Checkpoints(folder.checkpoints)
    if not checkpoints.steps():
        raise InputError(f"{folder.checkpoints} holds no checkpoint yet; train the run first.")
    return checkpoints


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
