"""Checkpoints: one folder a step, written in the background under a temporary name and renamed when complete.

Orbax writes the arrays. A folder is renamed once its `manifest.json`, with the sha256 of everything in it, is on disk;
older steps are deleted after that. (Orbax's CheckpointManager renames and deletes before anything can be checked.)
Orbax is imported at the first read or write, so that a new run's first step does not wait for it.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import msgspec
import numpy as np

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import sync_folder

from ..errors import DamagedError, DroppedError, NotSavedError, reason
from ..state import TrainState
from .arrays import read_arrays, read_shapes, shapes, write_arrays
from .manifest import (
    Manifest,
    check_arrays,
    check_files,
    describe_arrays,
    new_manifest,
    read_manifest,
    rewrite,
    seal,
)

STATE = "state"  # the folder of the arrays, in the folder of a step
STATE_1 = "default"  # its name in format 1, which had no manifest
T = TypeVar("T")
UNFINISHED, DAMAGED = ".tmp", ".damaged"  # follow the step in the names of folders that are not checkpoints


class Checkpoints:
    """The checkpoints of a run folder. As a context manager it can write; leaving it waits until all is written.

    It keeps the newest `keep` checkpoints and the `keep_best` with the lowest validation loss.
    """

    def __init__(
        self, folder: Path, keep: int = 1, keep_best: int = 0,
        by: str = "config.toml; undo the change of its [model] section",
    ) -> None:  # fmt: skip
        """`by` says what determines the shapes of the parameters, and what to do if they are others."""
        self.folder, self._by = folder.absolute(), by
        self._keep, self._keep_best = keep, keep_best
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.folder.mkdir(exist_ok=True)
        sync_folder(self.folder.parent)
        for unfinished in self.folder.glob(f"*{UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Raises NotSavedError if the last one could not be written, unless another error is being raised."""
        failed = self._await()
        self._writer.shutdown()
        if failed and kind is None:
            raise failed
        if failed:
            print(f"note: {failed}", file=sys.stderr)

    def steps(self) -> list[int]:
        """The saved steps, in order."""
        return saved_steps(self.folder)

    def latest_step(self) -> int | None:
        """The newest saved step; None if there is none."""
        return max(self.steps(), default=None)

    def manifest(self, step: int) -> Manifest | None:
        """The manifest of a step's folder; None for format 1. Raises DamagedError."""
        folder = self.folder / str(step)
        if not self.has_checksums(step):
            return None
        manifest = read_manifest(folder)
        if manifest.step != step:
            raise DamagedError(f"{folder} holds step {manifest.step:,}")
        return manifest

    def has_checksums(self, step: int) -> bool:
        """Whether the step's bytes can be compared; those of format 1 cannot."""
        return not (self.folder / str(step) / STATE_1).is_dir()

    def best_step(self) -> int | None:
        """The evaluated step with the lowest validation loss, the newest of equal ones; None if none was evaluated."""
        losses = self._losses()
        return min(losses, key=lambda step: (losses[step], -step), default=None)

    def save(self, state: TrainState, config: Mapping[str, Any], tokenizer: str, val_loss: float | None = None) -> None:
        """Write a copy of the state in the background, so that its arrays may be donated; a saved step is not repeated.

        If the previous checkpoint could not be written, a note says so and the run goes on; older ones remain.
        """
        if failed := self._await():
            print(f"note: {failed}; training goes on", file=sys.stderr, flush=True)
        step = int(state.step)
        if step in self.steps():
            return
        copy = jax.tree.map(np.array, saved_parts(state))
        manifest = new_manifest(step, val_loss, config, tokenizer)
        self._writing = self._writer.submit(self._write, step, copy, manifest)

    def add_losses(self, step: int, measured: Mapping[str, float]) -> None:
        """Add the `val_loss` that was measured after the step was saved."""
        if "val_loss" in measured and (manifest := self.manifest(step)):
            rewrite(self.folder / str(step), msgspec.structs.replace(manifest, val_loss=measured["val_loss"]))

    def _await(self) -> NotSavedError | None:
        if self._writing is None:
            return None
        error, self._writing = self._writing.exception(), None
        if error is None or isinstance(error, NotSavedError):
            return error
        return NotSavedError(f"checkpoints could not be written to {self.folder} ({reason(error)})")

    def _write(self, step: int, state: dict[str, Any], manifest: Manifest) -> None:
        aside = self.folder / f"{step}{UNFINISHED}"
        try:
            aside.mkdir()
            write_arrays(aside / STATE, state)
            self._publish(aside, state, manifest)
        except Exception as error:  # OSError, or any type that Orbax and its storage raise
            remove(aside)
            raise self._not_written(step, error) from None
        self._drop_old()

    def _publish(self, aside: Path, state: dict[str, Any], manifest: Manifest) -> None:
        seal(aside, manifest, describe_arrays(state))
        os.rename(aside, self.folder / str(manifest.step))
        sync_folder(self.folder)

    def _not_written(self, step: int, error: Exception) -> NotSavedError:
        newest = self.latest_step()
        still = "no checkpoint" if newest is None else f"step {newest:,}"
        return NotSavedError(
            f"the checkpoint of step {step:,} could not be written to {self.folder} ({reason(error)}); {still} is "
            "the newest there, so see that there is room and the right to write"
        )

    def _drop_old(self) -> None:
        with suppress(OSError):  # an extra checkpoint does no harm
            steps, losses = self.steps(), self._losses()
            best = sorted(losses, key=lambda step: (losses[step], -step))[: self._keep_best]
            for step in set(steps[: -self._keep]) - set(best):
                aside = self.folder / f"{step}{UNFINISHED}"
                os.rename(self.folder / str(step), aside)
                shutil.rmtree(aside)

    def _losses(self) -> dict[int, float]:
        losses = {}
        for step in self.steps():
            with suppress(DamagedError):
                manifest = self.manifest(step)
                if manifest and manifest.val_loss is not None:
                    losses[step] = manifest.val_loss
        return losses

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state of a step (default: the newest) with the shapes and dtypes of `like`; every byte is checked.

        If the `opt_state` of `like` is None, the optimizer's arrays are not read, whichever optimizer it was.
        Raises InputError if there is no checkpoint or its arrays have other shapes; DamagedError, which names the file
        and the newest undamaged step, if the bytes have changed; DroppedError if a run has deleted it.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise self.none_yet()
        try:
            return self.check(step, like)
        except DamagedError as error:
            raise DamagedError(
                f"the checkpoint of step {step:,} is damaged: {error}; {self._remedy(step, like)}."
            ) from None

    def leave_out_damaged(self, like: TrainState) -> None:
        """Rename the damaged checkpoints that are newer than the newest undamaged one, with a note for each.

        Raises InputError if all are damaged; then none is renamed.
        """
        if not self.steps():
            return
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                self.check(step, like)
                break
            except DamagedError as error:
                damaged[step] = error
        else:
            raise InputError(f"{self.folder} holds no undamaged checkpoint; start a new run in another folder.")
        for step, fault in damaged.items():
            print(f"note: the checkpoint of step {step:,} is left out: {fault}", file=sys.stderr)
            shutil.rmtree(self.folder / f"{step}{DAMAGED}", ignore_errors=True)
            os.rename(self.folder / str(step), self.folder / f"{step}{DAMAGED}")

    def check(self, step: int, like: TrainState) -> TrainState:
        """The state of that step, with every byte compared. Raises as `restore`, without a remedy."""
        try:
            return self._read(step, like)
        except DamagedError:
            if step not in self.steps():
                raise DroppedError(f"step {step:,} of {self.folder} was dropped for a newer one meanwhile.") from None
            raise

    def none_yet(self) -> InputError:
        """The error to raise where there are none."""
        return InputError(f"{self.folder} holds no checkpoint yet; train the run first.")

    def _remedy(self, damaged: int, like: TrainState) -> str:
        for step in reversed(self.steps()):
            with suppress(InputError):
                if step != damaged:
                    self.check(step, like)
                    return f"step {step:,} is undamaged: read it with --step {step}, or go on with --resume --fall-back"
        return "no other step is undamaged, so start a new run in another folder"

    def _read(self, step: int, like: TrainState) -> TrainState:
        folder, manifest = self.folder / str(step), self.manifest(step)
        place = folder / (STATE if manifest else STATE_1)
        wanted = {part: tree for part, tree in saved_parts(like).items() if tree is not None}
        if manifest:
            check_files(folder, manifest)
            manifest = msgspec.structs.replace(manifest, arrays=_within(manifest.arrays, wanted))
        stored = {name: a.shape for name, a in manifest.arrays.items()} if manifest else read_shapes(place)
        self._check_shapes(_within(stored, wanted), shapes(wanted))
        tree = read_arrays(place, wanted)
        if manifest:
            check_arrays(tree, manifest)
        return like._replace(**tree)

    def _check_shapes(self, there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> None:
        """Raises InputError for the first shape that differs, parameters first; Orbax would report it while reading."""
        for name in sorted(there.keys() | here, key=lambda name: (not name.startswith("params/"), name)):
            found, wanted = there.get(name, "missing"), here.get(name, "missing")
            if found != wanted and name.startswith("params/"):
                raise InputError(
                    f"parameter {name.removeprefix('params/')} is {found} in {self.folder} but {wanted} by {self._by}."
                )
            if found != wanted:
                raise InputError(
                    f"{name} is {found} in {self.folder} but {wanted} in this program's optimizer: the run was trained "
                    "with another optimizer; use the program that trained it, or start a new run."
                )


def saved_parts(state: Any) -> dict[str, Any]:
    """The parts of a state by name, without parameters that do not change: those are read from where they came from."""
    return {part: tree for part, tree in state._asdict().items() if part != "frozen"}


def _within(arrays: Mapping[str, T], parts: Iterable[str]) -> dict[str, T]:
    """The arrays that belong to one of the parts of a state."""
    return {name: array for name, array in arrays.items() if name.partition("/")[0] in parts}


def remove(aside: Path) -> None:
    """Delete a folder to which threads of Orbax may still be writing. The next start deletes any remainder."""
    for _ in range(20):
        shutil.rmtree(aside, ignore_errors=True)
        if not aside.exists():
            return
        time.sleep(0.05)


def saved_steps(folder: Path) -> list[int]:
    """The steps saved in a folder, in order; [] if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
