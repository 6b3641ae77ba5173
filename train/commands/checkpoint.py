"""`jaxllm checkpoint`: what a run has saved, and whether it is whole."""

from contextlib import suppress
from pathlib import Path

from jaxllm.tokenizers import load_tokenizer
from jaxllm.utils.errors import printable

from ..errors import DamagedError, DroppedError
from ..runs.checkpoint import DAMAGED, Checkpoints
from ..runs.folder import RunFolder
from ..runs.load import model_of
from ..state import abstract_state


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
    by = ", ".join(f"{name} {printable(manifest.versions.get(name, '?'), 20)}" for name in ("jaxllm", "jax", "python"))
    return f"{loss:>8}  {size:>9.1f}  {by}"


def verify_command(path: str) -> bool:
    """Reads every byte of every checkpoint; prints a line for each and returns whether all are whole."""
    folder = RunFolder(path)
    checkpoints = _open(folder)
    config = folder.read_config()
    like = abstract_state(model_of(config, load_tokenizer(folder.tokenizer)), config)
    whole = True
    for step in checkpoints.steps():
        try:
            checkpoints.check(step, like)
            said = (
                "every byte is as it was written" if checkpoints.has_checksums(step) else "readable (format 1, no sums)"
            )
        except DroppedError:
            continue
        except DamagedError as error:
            whole, said = False, f"damaged: {error}"
        print(f"step {step:>9,}  {said}", flush=True)
    return whole


def _open(folder: RunFolder) -> Checkpoints:
    folder.read_config()  # whether it is a run at all
    checkpoints = Checkpoints(folder.checkpoints)
    if not checkpoints.steps():
        raise checkpoints.none_yet()
    return checkpoints


def _bytes(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a run that is training may drop it
            found += path.stat().st_size if path.is_file() else 0
    return found
