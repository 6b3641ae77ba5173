"""Where the metrics of two runs part: the step, the fields, and what that says of the cause."""

from typing import Any

import pytest

from train.runs.parting import where_metrics_part

pytestmark = pytest.mark.newest


def records(until: int = 6, **changes: Any) -> list[dict[str, Any]]:
    """Steps from 1 on; `changes` are fields from step 4 on, as train_loss=2.0, or of a step, as train_loss_1=2.0."""
    out = []
    for step in range(1, until + 1):
        record = {"step": step, "tokens": 32 * step, "elapsed_s": 0.1 * step, "grad_norm": 1.0, "learning_rate": 1e-3,
                  "train_loss": 4.0 - 0.1 * step, "tokens_per_s": 320.0}  # fmt: skip
        record |= {"val_loss": 3.9} if step % 2 == 0 else {}
        for name, value in changes.items():
            field, _, at = name.rpartition("_")
            if at.isdigit() and step == int(at):
                record[field] = value
            elif not at.isdigit() and step >= 4:
                record[name] = value
        out.append(record)
    return out


def test_equal_metrics_agree_whatever_their_times() -> None:
    parting = where_metrics_part(records(), records(elapsed_s=9.0, tokens_per_s=1.0, data_wait_s=3.0))
    assert (parting.step, parting.n_common, parting.counts, parting.meaning) == (None, 6, (6, 6), "")


def test_the_first_step_with_a_difference_and_its_fields_in_order_of_computation() -> None:
    parting = where_metrics_part(records(), records(val_loss=3.8, train_loss=4.5, learning_rate=2e-3))
    assert parting.step == 4 and [one.name for one in parting.apart] == ["learning_rate", "train_loss", "val_loss"]
    assert parting.apart[1].values == (3.6, 4.5) and parting.apart[1].off == pytest.approx(0.9)
    assert parting.equal == ["tokens", "grad_norm"]
    assert parting.later is not None and parting.later[0] == 6 and parting.later[1].off == pytest.approx(1.1)


@pytest.mark.parametrize(("changes", "meaning"), [
    ({"train_loss_1": 5.0}, "the first loss differs: look at the initial weights, the first batch"),
    ({"train_loss": 5.0, "grad_norm": 2.0}, "all that step 3 recorded agrees: look at the update of step 3, or at the batch of step 4"),
    ({"grad_norm": 2.0}, "the loss agrees and its gradient does not: look at the backward pass"),
    ({"learning_rate": 2.0}, "only the schedule differs"),
    ({"val_loss": 2.0}, ""),
    ({"tokens": 7, "train_loss": 5.0}, ""),  # another batch size: nothing to guess
])  # fmt: skip
def test_what_the_fields_say_of_the_cause(changes: dict[str, Any], meaning: str) -> None:
    found = where_metrics_part(records(), records(**changes)).meaning
    assert meaning in found and bool(found) == bool(meaning)


def test_a_tolerance_is_relative() -> None:
    ours, theirs = records(), records(train_loss=3.6001)
    assert where_metrics_part(ours[:4], theirs[:4], 3e-5).step is None
    assert where_metrics_part(ours[:4], theirs[:4], 1e-5).step == 4


def test_a_step_that_one_run_left_out_parts_at_any_tolerance() -> None:
    parting = where_metrics_part(records(), records(grad_norm_2=None), 0.5)
    assert parting.step == 2 and parting.apart[0].values == (1.0, None) and parting.apart[0].off == float("inf")
    assert where_metrics_part(records(grad_norm_2=None), records(grad_norm_2=None)).step is None


def test_only_common_steps_and_common_fields_are_compared() -> None:
    ours, theirs = records(4), [record | {"mine": 1.0} for record in records(6) if record["step"] != 2]
    parting = where_metrics_part(ours, theirs)
    assert (parting.step, parting.n_common, parting.counts) == (None, 3, (4, 5))
    assert where_metrics_part(records(2), records(6)[3:]).n_common == 0


def test_no_cause_is_named_where_the_step_before_is_not_in_both() -> None:
    later = records(6, train_loss=5.0)[4:]
    assert where_metrics_part(records(6), later).step == 5 and not where_metrics_part(records(6), later).meaning
    gap = [record for record in records(6, train_loss=5.0) if record["step"] != 3]
    assert where_metrics_part(records(6), gap).step == 4 and not where_metrics_part(records(6), gap).meaning
