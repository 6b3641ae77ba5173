"""How well a model does on the validation examples of a tuning: loss, accuracy, margin, confusion of labels."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.fast import on_mesh
from jaxllm.gpt import GPT, traced_once
from jaxllm.loss import learned
from jaxllm.parallel import ROWS
from jaxllm.utils.errors import shown

from ..eval_weights import eval_weights
from ..evaluate import AHEAD, Abandoned, evaluation_rows
from ..objective import Objective
from ..state import TrainState
from .batches import Answers
from .kinds import objective_of
from .objectives import class_logits
from .partition import joined, partition_of

if TYPE_CHECKING:
    from ..inputs import Prepared

Batches = Iterable[tuple[Any, Any]]  # of inputs and targets
LOSS, COUNT = "train_loss", "count"


def examples_measure(
    run: "Prepared", model: GPT, abandon: Callable[[], bool] = lambda: False, mesh: Mesh | None = None
) -> Callable[[TrainState], dict[str, float]]:
    """A function that returns the figures of a state on all validation examples of its run, {} once abandoned.

    They are those of `measure` and, where `eval.weights` are others than the parameters, their loss as
    averaged_val_loss. `abandon` is called before each batch.
    """
    parts, averaged, data = partition_of(run.config), eval_weights(run.config), run.examples
    of_batch = measuring_step(objective_of(run.config), model, mesh)
    assert data is not None

    def of(state: TrainState) -> dict[str, float]:
        batches = data.batches("validation", evaluation_rows(run.config))
        return measure(of_batch, joined(parts, state), _until(abandon, batches, mesh))

    def figures(state: TrainState) -> dict[str, float]:
        try:
            found = of(state)
            if averaged:
                found["averaged_val_loss"] = of(state._replace(params=averaged(state)))["val_loss"]
        except Abandoned:
            return {}
        return found

    return figures


def _until(abandon: Callable[[], bool], batches: Batches, mesh: Mesh | None) -> Iterator[tuple[Any, Any]]:
    """The batches on the devices. Raises Abandoned."""
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(ROWS))

    def put(x: Any) -> Array:
        return jnp.asarray(x) if sharding is None else jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

    for batch in batches:
        if abandon():
            raise Abandoned
        yield jax.tree.map(put, batch)


def measuring_step(objective: Objective, model: GPT, mesh: Mesh | None = None) -> Callable[..., dict[str, Array]]:
    """The jitted function params, inputs, targets -> sums over a batch, without dropout: of losses, further ones, the
    number of losses."""

    def sums(params: Any, inputs: Array, targets: Any) -> dict[str, Array]:
        loss, further = objective.loss(traced_once(model), on_mesh.gathered_ends(params), inputs, targets, {})
        # The count is at least 1, and a batch of filled rows alone has the loss 0.
        return {LOSS: loss, COUNT: jnp.asarray(objective.n_losses(targets)), **further}

    return jax.jit(on_mesh.traced_on(mesh, sums))


def measure(step: Callable[..., dict[str, Array]], params: Any, batches: Batches) -> dict[str, float]:
    """The means over all batches, of a `measuring_step`: val_loss, and of its kind val_accuracy and val_margin.

    The sums of batches are added in float64.
    """
    sums: dict[str, list[float]] = {}
    dispatched: deque[dict[str, Array]] = deque()  # fetched while others are computed

    def fetch() -> None:
        for name, value in dispatched.popleft().items():
            sums.setdefault(name, []).append(float(value))

    for inputs, targets in batches:
        dispatched.append(step(params, inputs, targets))
        if len(dispatched) > AHEAD:
            fetch()
    while dispatched:
        fetch()
    total = {name: math.fsum(values) for name, values in sums.items()}
    count = total.pop(COUNT)
    return {f"val_{name.removeprefix('train_')}": value / count for name, value in total.items()}


def confusion(model: GPT, params: Any, batches: Batches) -> np.ndarray:
    """How often texts of each label are classified as each label: int64 [C, C], row the label, column the answer."""
    n = model.config.n_classes
    answers = jax.jit(partial(_likeliest, model))
    counts = np.zeros((n, n), np.int64)
    for inputs, targets in batches:
        here = np.asarray(learned(targets.ids))
        given = np.asarray(answers(params, inputs, targets))
        np.add.at(counts, (np.asarray(targets.ids)[here], given[here]), 1)
    return counts


def _likeliest(model: GPT, params: Any, inputs: Array, targets: Answers) -> Array:
    return class_logits(model, params, inputs, targets).argmax(-1)


def confusion_table(counts: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Lines of a table of `confusion`: a row for each label with its texts by answer, and the share that is right."""
    names = [shown(label) for label in labels]
    rows = [["label \\ classified as", *names, "right"]]
    for name, row, i in zip(names, counts.tolist(), range(len(names)), strict=True):
        rows.append([name, *(f"{n:,}" for n in row), f"{row[i] / sum(row):.1%}" if sum(row) else "-"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
