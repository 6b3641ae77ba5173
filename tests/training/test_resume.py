"""A run that is ended by a signal and resumed gives the same bits as a run without an interruption."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import Step, assert_same_run, lines, write_config

import train.evaluate
import train.loop
from train.cli import main
from train.runs.checkpoint import Checkpoints
from train.runtime.signals import HANDLED, Stop, stoppable

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.newest)])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with dropout and accumulation, and its config beside it."""
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder)
    config.write_text(config.read_text().replace("steps = 12", f'steps = 12\ndtype = "{request.param}"'))
    assert main(["train", str(config), "--out", str(folder / "run")]) == 0
    return folder / "run"


def train_from(undisturbed: Path, run: Path) -> int:
    return main(["train", str(undisturbed.parent / "tiny.toml"), "--out", str(run)])


def test_the_same_command_twice(undisturbed: Path, tmp_path: Path) -> None:
    assert train_from(undisturbed, tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("stops", [pytest.param((7,), marks=pytest.mark.newest), (2, 3, 11)], ids=str)
def test_a_run_ended_by_signals_goes_on_to_the_same_bits(
    undisturbed: Path, stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], stop: list[Stop],
) -> None:  # fmt: skip
    """A signal arrives during each step of `stops`: the step is completed and saved, and the process ends."""
    waiting = list(stops)

    def signalled(fun: Any, state: Any, *batch: object) -> Any:
        result = fun(state, *batch)
        if waiting and int(result[0].step) == waiting[0]:
            send(stop[0], (signal.SIGTERM, signal.SIGINT)[len(waiting) % 2])
            waiting.pop(0)
        return result

    spy(monkeypatch, signalled)
    run = tmp_path / "run"
    for i, step in enumerate(stops):
        code = train_from(undisturbed, run) if i == 0 else main(["train", "--out", str(run), "--resume"])
        assert code == 128 + (signal.SIGTERM, signal.SIGINT)[(len(stops) - i) % 2]
        error = capsys.readouterr().err
        assert f"ended the run after step {step} of 12; step {step} is saved; to go on: jaxllm train --out" in error
        assert lines(run)[-1]["step"] == step
        assert (run / "loss.png").exists()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("undisturbed", ["float32"], indirect=True)
@pytest.mark.newest
def test_signals_before_the_first_step_of_a_process(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: list[Stop],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A signal during compilation: the first process saves nothing, a later one takes no step."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        begin = train.loop.init_and_compile
        patch.setattr(train.loop, "init_and_compile", lambda *a: (send(stop[0], signal.SIGTERM), begin(*a))[1])
        assert train_from(undisturbed, run) == 143
        assert "after step 0 of 12; nothing is saved yet" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        spy(patch, lambda step, *batch: (step(*batch), send(stop[0], signal.SIGTERM))[0])
        assert main(["train", "--out", str(run), "--resume"]) == 143
    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "init_and_compile", lambda *a: (send(stop[0], signal.SIGTERM), begin(*a))[1])
        assert main(["train", "--out", str(run), "--resume"]) == 143
    assert len(lines(run)) == 1
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("undisturbed", ["float32"], indirect=True)
@pytest.mark.newest
def test_a_signal_during_the_evaluation_ends_it_and_it_is_done_later(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: list[Stop]
) -> None:
    """At step 8, and at the last step, after which only the evaluation is left for the next process."""
    evaluations = iter(range(1, 100))

    def signalled(*arguments: Any) -> Any:
        step = make_eval_step(*arguments)

        def eval_step(*batch: Any) -> Any:
            if next(evaluations) in ends:
                send(stop[0], signal.SIGTERM)
            return step(*batch)

        return eval_step

    make_eval_step = train.evaluate.make_eval_step
    monkeypatch.setattr(train.evaluate, "make_eval_step", signalled)
    run, batches = tmp_path / "run", 9  # per evaluation
    ends = {batches + 2, batches + 3, batches + 3 + batches + 4}
    assert train_from(undisturbed, run) == 143
    for step in (8, 12):  # at step 8 for the second time
        assert main(["train", "--out", str(run), "--resume"]) == 143
        assert lines(run)[-1]["step"] == step and "val_loss" not in lines(run)[-1]
        assert (run / "samples.txt").read_text().count("----- step") == step // 4 - 1
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert_same_run(run, undisturbed)
    manifest = Checkpoints(run / "checkpoints").manifest(12)
    assert manifest and manifest.val_loss == lines(run)[-1]["val_loss"]


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Stop]]:
    """A list that holds the Stop of the newest run."""
    stops: list[Stop] = []

    @contextmanager
    def seen() -> Iterator[Stop]:
        with stoppable() as stop:
            stops[:] = [stop]
            yield stop

    monkeypatch.setattr(train.loop, "stoppable", seen)
    yield stops


def spy(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    """Have the training step of every run called by `call(step, state, *batch)`."""

    def begun(*arguments: Any) -> Any:
        state, step = begin(*arguments)
        return state, Step(lambda *batch: call(step, *batch))

    begin = train.loop.init_and_compile
    monkeypatch.setattr(train.loop, "init_and_compile", begun)


def send(stop: Stop, number: int) -> None:
    """Send the signal and wait until it is noticed."""
    os.kill(os.getpid(), number)
    for _ in range(30_000):
        if stop:
            return
        time.sleep(0.001)
    pytest.fail(f"signal {number} was not noticed; it is handled by {signal.getsignal(number)}")


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """The handlers of a foreground program, even if the tests run in the background with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("ignored", HANDLED, ids=lambda number: number.name)
def test_a_signal_that_was_ignored_stays_ignored(ignored: signal.Signals) -> None:
    """SIGINT is ignored in a shell's background job, SIGTERM under some supervisors; the other still ends the run."""
    (other,) = set(HANDLED) - {ignored}
    signal.signal(ignored, signal.SIG_IGN)
    with stoppable() as stop:
        os.kill(os.getpid(), ignored)
        time.sleep(0.05)
        assert not stop
        send(stop, other)
        assert stop.by == other
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_after_a_run_signals_do_what_they_did_before() -> None:
    """Both the handlers and the wake-up file descriptor are restored."""
    came: list[int] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)  # so that the test does not block
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    before = signal.set_wakeup_fd(writer)
    try:
        with pytest.raises(KeyError), stoppable() as stop:
            send(stop, signal.SIGTERM)
            raise KeyError
        os.kill(os.getpid(), signal.SIGTERM)
        assert os.read(reader, 9) == bytes([signal.SIGTERM])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
    assert came == [signal.SIGTERM]


@pytest.mark.newest
@pytest.mark.parametrize("undisturbed", ["float32"], indirect=True)
def test_a_background_job_goes_on_after_an_interruption(undisturbed: Path, tmp_path: Path) -> None:
    """`(jaxllm train ... &)`: the shell ignores SIGINT for it, and the terminal sends it to all of its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the process
    program = """
import os, signal, sys
import train.loop
from train.cli import main
def batch(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return drawn(*arguments)
drawn, train.loop.batch = train.loop.batch, batch
sys.exit(main(sys.argv[1:]))
"""
    words = ["train", str(undisturbed.parent / "tiny.toml"), "--out", str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "run")[-1]["step"] == 12


def test_a_second_signal_ends_the_process_at_once() -> None:
    """During a long step, in which no Python handler can run: hashing blocks the interpreter as XLA does."""
    program = """
import hashlib, os, signal, threading, time
from train.runtime.signals import stoppable
def send():
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        time.sleep(0.1)
with stoppable() as stop:
    threading.Thread(target=send, daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=100)
    assert done.returncode == 130
    assert done.stderr == "SIGTERM: ending after this step; once more ends at once\n"
