"""Figures of validation examples: those of a loop over them, whatever the size of the batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_gpt
from tuning import TOKENIZER, examples, run_of

from jaxllm import GPT, reference
from train.state import TrainState
from train.tune.measures import confusion, confusion_table, examples_measure

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

CONFIG = replace(TINY, vocab_size=TOKENIZER.vocab_size, context_length=16, n_layers=1)


def state_of(kind: str) -> tuple[GPT, TrainState]:
    model, params = random_gpt(replace(CONFIG, n_classes=3 if kind == "classify" else 0))
    return model, TrainState(jnp.zeros((), jnp.int32), params, ())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", ["instruct", "classify"])
def test_figures_of_answers_and_labels(kind: str, rows: int, tmp_path: Path) -> None:
    """Means over all learned positions; the last batch of three has rows of no target."""
    data = examples(tmp_path, kind)
    model, state = state_of(kind)
    found = examples_measure(run_of(data, kind, rows), model)(state)
    losses, right = [], []
    for inputs, targets in data.batches("validation", 1):
        logits = reference.gpt.forward(model.config, state.params, inputs)
        here = targets.ids >= 0
        losses += reference.loss.token_losses(logits, np.maximum(targets.ids, 0))[here].tolist()
        right += (logits.argmax(-1) == targets.ids)[here].tolist()
    assert found.keys() == {"val_loss"} | ({"val_accuracy"} if kind == "classify" else set())
    assert found["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.get("val_accuracy", np.mean(right)) == pytest.approx(np.mean(right))


def test_figures_of_preferences(tmp_path: Path) -> None:
    """Of pairs whose reference is known; without one the loss is NaN, so that it is not taken for a result."""
    data = examples(tmp_path, "prefer")
    model, state = state_of("prefer")
    assert np.isnan(examples_measure(run_of(data, "prefer"), model)(state)["val_loss"])
    n_train, n = len(data.train.rows), len(data.validation.rows)
    known = data.with_reference(np.zeros((n_train, 2), np.float32), np.full((n, 2), [-9, -7], np.float32))
    found = examples_measure(run_of(known, "prefer", beta=0.5), model)(state)
    margins = []
    for inputs, targets in data.batches("validation", 1):
        logits = reference.gpt.forward(model.config, state.params, inputs[0])
        chosen, rejected = -reference.loss.answer_losses(logits, targets.ids[0]).sum(-1)
        margins.append(0.5 * (chosen + 9 - rejected - 7))
    assert len(margins) == n == 4
    assert found["val_margin"] == pytest.approx(np.mean(margins), rel=1e-4)
    assert found["val_accuracy"] == np.mean(np.array(margins) > 0)
    assert found["val_loss"] == pytest.approx(np.logaddexp(0, -np.array(margins)).mean(), rel=1e-4)


def test_an_evaluation_may_be_abandoned(tmp_path: Path) -> None:
    model, state = state_of("instruct")
    asked: list[int] = []

    def abandon() -> bool:
        asked.append(1)
        return len(asked) > 2

    data = examples(tmp_path, "instruct")
    assert examples_measure(run_of(data, "instruct", 1), model, abandon)(state) == {} and len(asked) == 3


def test_averaged_weights_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that the loop knows."""
    model, state = state_of("classify")
    doubled = random_gpt(model.config, seed=1)[1]
    monkeypatch.setattr("train.tune.measures.eval_weights", lambda config: lambda state: doubled)
    data = examples(tmp_path, "classify")
    measured = examples_measure(run_of(data, "classify"), model)
    found, other = measured(state), measured(state._replace(params=doubled))
    assert found["averaged_val_loss"] == other["val_loss"] != found["val_loss"]


def test_confusion_counts_each_text_once(tmp_path: Path) -> None:
    data = examples(tmp_path, "classify")
    model, state = state_of("classify")
    counts = confusion(model, state.params, data.batches("train", 5))
    want: Any = np.zeros((3, 3), int)
    for inputs, targets in data.batches("train", 1):
        here = targets.ids >= 0
        answers = reference.gpt.forward(model.config, state.params, inputs)[here].argmax(-1)
        want[targets.ids[here][0], answers[0]] += 1
    np.testing.assert_array_equal(counts, want)
    assert counts.sum() == len(data.train.examples) and counts.shape == (3, 3)


def test_the_table_of_confusion() -> None:
    """A label of no text has no share; control characters of a label are shown as text."""
    assert confusion_table(np.array([[1234, 1, 0], [3, 4, 1], [0, 0, 0]]), ["ham", "spam\n", "x"]) == [
        "label \\ classified as  'ham'  'spam\\n'  'x'  right",
        "'ham'                  1,234         1    0  99.9%",
        "'spam\\n'                   3         4    1  50.0%",
        "'x'                        0         0    0      -",
    ]
