"""Which checkpoints the words of `jaxllm compare A B` mean."""

from pathlib import Path
from typing import NamedTuple

from jaxllm.utils.errors import InputError

from ..runs.checkpoint import Checkpoints, saved_steps
from ..runs.folder import RunFolder
from ..runs.load import choose_step

Wanted = tuple[RunFolder, str | None]  # a run folder, and the step that the user names


class SavedRun(NamedTuple):
    """A run folder, and the step that its checkpoint is of; None for an imported run, and where none is saved."""

    folder: RunFolder
    step: int | None

    @property
    def imported(self) -> bool:
        """Whether it has weights and no steps."""
        return self.folder.weights.exists()

    @property
    def has_weights(self) -> bool:
        """Whether there is something to load."""
        return self.imported or self.step is not None


def split_step(text: str, step: str | None) -> tuple[str, str | None]:
    """The path and the step that "RUN" or "RUN:STEP" means; `step` is that of a RUN without one."""
    path, colon, own = text.rpartition(":")
    if colon and not Path(text).is_dir() and Path(path).is_dir():
        return path, own
    return text, step


def place_of(text: str, step: str | None) -> Wanted:
    """The run folder and the step that `split_step` finds. Raises InputError for what is no folder."""
    path, step = split_step(text, step)
    if not Path(path).is_dir():
        raise InputError(f"{path} is no run folder; two runs are compared as RUN or RUN:STEP, a config only alone.")
    return RunFolder(path), step


def at_steps(*wanted: tuple[RunFolder, str | None]) -> tuple[list[SavedRun], list[str]]:
    """The two places. Where no step is wanted, it is the newest that both have saved, or else the newest of each."""
    places = [SavedRun(folder, _step(folder, step)) for folder, step in wanted]
    steps = [set(saved_steps(folder.checkpoints)) for folder, _ in wanted]
    if any(step is not None for _, step in wanted) or None in (places[0].step, places[1].step):
        return places, []
    if places[0].step == places[1].step:
        return places, []
    newest = f"{places[0].step:,} and {places[1].step:,}"
    if common := steps[0] & steps[1]:
        step = max(common)
        note = f"both are read at step {step:,}, the newest that both have saved; the newest of each are {newest}"
        return [place._replace(step=step) for place in places], [note]
    return places, [f"steps {newest} are compared, because no step is saved by both"]


def _step(folder: RunFolder, step: str | None) -> int | None:
    """The step of a checkpoint. Raises InputError for one that is not saved, and for a folder without a config."""
    folder.read_config()
    if folder.weights.exists():
        if step is not None:
            raise InputError(f"step {step!r} of {folder.path} is asked for, but it was imported and has no steps.")
        return None
    if step is None and not saved_steps(folder.checkpoints):
        return None
    return choose_step(Checkpoints(folder.checkpoints), step)
