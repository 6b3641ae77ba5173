"""Checkpoints of a run by several processes: each writes its parts of the arrays, process 0 the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental.multihost_utils import sync_global_devices

from ..state import TrainState
from .arrays import write_arrays
from .checkpoint import STATE, UNFINISHED, Checkpoints, remove, saved_parts
from .manifest import new_manifest


class CheckpointsOfAll(Checkpoints):
    """As Checkpoints, for several processes with one file system. They write together, while training waits.

    A checkpoint that cannot be written ends the run. Everything but its arrays is left to process 0.
    """

    def __enter__(self) -> "CheckpointsOfAll":
        self._leads = jax.process_index() == 0
        if self._leads:
            super().__enter__()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._leads:
            super().__exit__(kind, *error)

    def save(self, state: TrainState, config: Mapping[str, Any], tokenizer: str, val_loss: float | None = None) -> None:
        """Write the state; a saved step is not repeated. Raises NotSavedError. All processes call it alike."""
        step = int(state.step)
        if step in self.steps():
            return
        aside, arrays = self.folder / f"{step}{UNFINISHED}", saved_parts(state)
        try:
            if self._leads:
                aside.mkdir()
            write_arrays(aside / STATE, arrays)
            if self._leads:
                self._publish(aside, arrays, new_manifest(step, val_loss, config, tokenizer))
                self._drop_old()
        except Exception as error:  # as in `Checkpoints`
            if self._leads:
                remove(aside)
            raise self._not_written(step, error) from None
        sync_global_devices(f"step {step} is saved")

    def add_losses(self, step: int, measured: Mapping[str, float]) -> None:
        if self._leads:
            super().add_losses(step, measured)


def checkpoints_of(folder: Path, keep: int, keep_best: int) -> Checkpoints:
    """The checkpoints that a run writes, by this process or by several."""
    kind = CheckpointsOfAll if jax.process_count() > 1 else Checkpoints
    return kind(folder, keep, keep_best)
