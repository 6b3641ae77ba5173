"""A loop of one's own: the one of train/README.md, killed and started again, and what a Run does for smaller ones."""

import os
import re
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from runs import lines, without_times

import jaxllm.data
from jaxllm.utils.errors import InputError
from train import training
from train.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.newest

README = (Path(__file__).parents[2] / "train" / "README.md").read_text(encoding="utf-8")
(LOOP,) = re.findall(r"^```python\n(.*?jaxllm_train.*?)^```", README, re.DOTALL | re.MULTILINE)
RATE = optax.sgd(0.1)


class Killed(BaseException):
    """In place of a signal that ends the process at once."""


def run_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    exec(LOOP.replace("from jaxllm_train import", "from train import"), {})


@pytest.mark.usefixtures("quick_compilation")
def test_the_loop_of_the_readme_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(LOOP.splitlines()) <= 30
    run_readme(tmp_path / "whole", monkeypatch)

    def killed(*arguments: Any, step: int, **options: Any) -> Any:
        if step == 33:
            raise Killed
        return batch(*arguments, step=step, **options)

    batch = jaxllm.data.batch
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(jaxllm.data, "batch", killed)
        run_readme(tmp_path / "killed", patch)
    whole, run = (tmp_path / name / "runs" / "own" for name in ("whole", "killed"))
    assert Checkpoints(run / "checkpoints").steps() == [20] and lines(run)[-1]["step"] >= 32
    run_readme(tmp_path / "killed", monkeypatch)
    assert without_times(run) == without_times(whole) and [r["step"] for r in lines(run)] == [*range(1, 61)]
    ours, theirs = (Checkpoints(folder / "checkpoints").manifest(60) for folder in (run, whole))
    assert ours and theirs and ours.arrays == theirs.arrays
    assert lines(run)[-1]["train_loss"] < 1 and (run / "loss.png").exists()


@jax.jit
def train_step(state: training.TrainState, x: Array, y: Array) -> Any:
    loss, grads = jax.value_and_grad(lambda p: ((p["w"] * x - y + p["b"]) ** 2).mean())(state.params)
    return training.update(RATE, state, loss, grads)


def first(size: int = 1) -> training.TrainState:
    return training.begin(RATE, {"w": jnp.full(size, 0.5), "b": jnp.ones(())})


def make_batch(step: int) -> Any:
    return np.full((2, 1), step + 1, np.float32), np.ones((2, 1), np.float32)


def test_a_signal_ends_the_loop_after_its_step_which_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, training.Run(tmp_path / "run", 6, 2) as run:
        state = run.restore(first())
        for step, x, y in run.batches(make_batch):
            state, metrics = train_step(state, x, y)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                while not run._stop:  # a thread hears of it
                    pass
            run.record(state, metrics)
    assert ended.value.code == 143 and "ended the run after step 3, which is saved" in capsys.readouterr().err
    with training.Run(tmp_path / "run", 6, 2) as run:
        state = run.restore(first())
        steps = []
        for step, x, y in run.batches(make_batch):
            state, metrics = train_step(state, x, y)
            run.record(state, metrics, **({"val_loss": 0.5} if step == 5 else {}))
            steps.append(step)
    assert steps == [3, 4, 5] and [r["step"] for r in lines(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    manifest = Checkpoints(tmp_path / "run" / "checkpoints").manifest(6)
    assert manifest and manifest.val_loss == lines(tmp_path / "run")[-1]["val_loss"] == 0.5


def test_a_step_that_is_not_finite_is_not_applied_and_named(tmp_path: Path) -> None:
    wild = (np.full((2, 1), 1e30, np.float32), np.ones((2, 1), np.float32))
    for skipped, message in ((1, ""), (0, r"train_loss is inf at step 2: .* allow max_skipped such steps")):
        with training.Run(tmp_path / str(skipped), 3, 2, max_skipped=skipped) as run:
            state = run.restore(first())
            before: Any = None
            with pytest.raises(training.DivergedError, match=message) if message else nullcontext():
                for step, x, y in run.batches(lambda step: wild if step == 1 else make_batch(step)):
                    state, metrics = train_step(state, x, y)
                    run.record(state, metrics)
                    if step == 1:
                        np.testing.assert_array_equal(state.params["b"], before)
                    before = np.array(state.params["b"])
    assert [r.get("skipped") for r in lines(tmp_path / "1")] == [None, 1, None]
    overflow = jnp.asarray(3e38) * 10
    _, metrics = training.update(RATE, first(), jnp.ones(()), {"w": jnp.ones(1), "b": overflow})
    assert int(metrics["not_finite"]) == 0  # as the leaves are ordered, b before w


class Mine(NamedTuple):
    """A state of one's own."""

    step: Array
    params: Any
    mean: Any


def test_a_state_and_metrics_of_ones_own(tmp_path: Path) -> None:
    def begun() -> Mine:
        return Mine(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, {"w": jnp.zeros(())})

    with training.Run(tmp_path / "run", 4, 2, save_every=2, keep=9) as run:
        state = run.restore(begun())
        for _ in run.batches(make_batch):
            w = state.params["w"] + 1
            state = Mine(state.step + 1, {"w": w}, {"w": 0.5 * (state.mean["w"] + w)})
            run.record(state, {"train_loss": w, "length": 2 * w})
            if int(state.step) == 3:
                run.save(state)
                break
    assert [r["length"] for r in lines(tmp_path / "run")] == [2, 4, 6]
    with training.Run(tmp_path / "run", 4, 2) as run:
        assert float(run.restore(begun()).mean["w"]) == 0.5 * (0.5 * (0.5 + 2) + 3)
    with training.Run(tmp_path / "bad", 1, 2) as run, pytest.raises(training.DivergedError, match="train_loss is nan"):
        state = run.restore(begun())
        for _ in run.batches(make_batch):
            run.record(state, {"train_loss": jnp.asarray(jnp.nan)})


def test_what_a_run_refuses(tmp_path: Path) -> None:
    with training.Run(tmp_path / "run", 1, 2) as run:
        state = run.restore(first())
        for _, x, y in run.batches(make_batch):
            run.record(*train_step(state, x, y))
        with pytest.raises(InputError, match="another process is training"):
            training.Run(tmp_path / "run", 1, 2).__enter__()
    with training.Run(tmp_path / "run", 1, 2) as run:
        with pytest.raises(InputError, match="parameter w is .* by this program; undo its change of the model"):
            run.restore(first(2))
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(InputError, match="holds a run of `jaxllm train`"):
        training.Run(tmp_path / "run", 1, 2)
