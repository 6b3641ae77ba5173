"""`jaxllm evaluate` of a run on examples: the figures of its validation examples, and confused labels."""

from collections.abc import Iterator
from typing import Any

from jaxllm.utils.errors import InputError

from ..evaluate import evaluation_rows
from ..inputs import Prepared, prepare
from ..nonfinite import check_computed
from ..runs.folder import RunFolder
from ..runs.load import TrainedRun
from ..tune.kinds import objective_of
from ..tune.measures import confusion, confusion_table, measure, measuring_step
from ..tune.referenced import referenced

NAMES = {"val_loss": "validation loss", "val_accuracy": "accuracy", "val_margin": "margin"}


def evaluate_examples(path: str, trained: TrainedRun) -> Iterator[str]:
    """Lines of the figures, computed on all validation examples. Raises InputError and NonFiniteError."""
    run = referenced(prepare(trained.config, trained.tokenizer, trained.chat), RunFolder(path).path)
    assert run.examples is not None
    rows = evaluation_rows(run.config)
    found = measure(measuring_step(objective_of(run.config), trained.model), trained.params, _batches(run, rows))
    check_computed([*found.values()], path, trained.params)
    yield f"step             {trained.step:,}"
    yield f"examples         {len(run.examples.validation.examples):,}"
    for name, value in found.items():
        yield f"{NAMES.get(name, name):<17}{value:.4f}{' nats' if name == 'val_loss' else ''}"
    if run.examples.labels:
        yield ""
        yield from confusion_table(confusion(trained.model, trained.params, _batches(run, rows)), run.examples.labels)


def _batches(run: Prepared, rows: int) -> Iterator[tuple[Any, Any]]:
    assert run.examples is not None
    return run.examples.batches("validation", rows)


def check_plain(kind: str, **options: str | None) -> None:
    """Raises InputError for options that are for runs on a text."""
    if given := [name for name, value in options.items() if value is not None]:
        raise InputError(
            f"--{given[0]} is for runs on a text, but this one learned from examples (tune.kind = {kind!r}); leave it "
            "out."
        )
