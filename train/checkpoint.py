"""Checkpoints by Orbax: one folder a step, written aside and renamed when whole.

Orbax is imported when there is something to read or write: that takes a third of a second, for which a new run's first
step does not wait.
"""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from jaxllm.errors import InputError
from train.step import TrainState


class Checkpoints:
    """The checkpoints of a run folder. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self._folder = folder.absolute()
        self._keep = keep

    @cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each save at length
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep)
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=ocp.StandardCheckpointHandler())

    def __enter__(self) -> "Checkpoints":
        self._folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if "_manager" in self.__dict__:  # it has been made
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest step saved, None without any."""
        return latest_step(self._folder)

    def save(self, state: TrainState) -> None:
        """Write the state in the background; its arrays are copied first, so they may be donated."""
        import orbax.checkpoint as ocp

        self._manager.save(int(state.step), args=ocp.args.StandardSave(state._asdict()))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, with the shapes and dtypes of `like`.

        Raises InputError where there is none, where its parameters have other shapes, or where it cannot be read.
        """
        import orbax.checkpoint as ocp

        step = self.latest_step()
        if step is None:
            raise InputError(f"{self._folder} holds no checkpoint; start the run anew in another folder.")
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        try:
            self._check_shapes(self._manager.item_metadata(step).tree["params"], like.params)
            return TrainState(**self._manager.restore(step, args=ocp.args.StandardRestore(shapes)))
        except InputError:
            raise
        except Exception as error:  # whatever Orbax and its storage make of a damaged file
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the checkpoint of step {step} in {self._folder} is damaged ({reason}); delete its folder to go on "
                "from the one before."
            ) from None

    def _check_shapes(self, stored: Any, wanted: Any) -> None:
        """Orbax would report the first shape that differs while others are still being read; this names it first."""
        there, here = (
            {"/".join(path): tuple(leaf.shape) for path, leaf in flatten_dict(tree).items()}
            for tree in (stored, wanted)
        )
        for name in sorted(there | here):
            if there.get(name) != here.get(name):
                raise InputError(
                    f"parameter {name} is {there.get(name, 'missing')} in {self._folder} but "
                    f"{here.get(name, 'missing')} by config.toml; undo the change of its [model] section."
                )


def latest_step(folder: Path) -> int | None:
    """The newest step saved in the folder, None without any; writes nothing."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    import orbax.checkpoint as ocp

    return max(ocp.utils.checkpoint_steps(folder), default=None)
