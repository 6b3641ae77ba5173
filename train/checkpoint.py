"""Checkpoints by Orbax: one folder a step, written aside and renamed when whole."""

import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxllm.errors import InputError
from train.step import TrainState


class Checkpoints:
    """The checkpoints of a run folder. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each save at length
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest step saved, None without any."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write the state in the background; its arrays are copied first, so they may be donated."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state._asdict()))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, with the shapes and dtypes of `like`. Raises InputError where there is none."""
        step = self.latest_step()
        if step is None:
            raise InputError(f"{self._manager.directory} holds no checkpoint; start the run anew in another folder.")
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        return TrainState(**self._manager.restore(step, args=ocp.args.StandardRestore(shapes)))


def latest_step(folder: Path) -> int | None:
    """The newest step saved in the folder, None without any; writes nothing."""
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None
