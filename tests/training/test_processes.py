"""Runs by several processes: real ones, on the loopback address."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from models import TINY
from processes import Ended, ended, free_address, member, signalled
from runs import TEXT, lines, without_times

import train.evaluate
from jaxllm import GPT
from jaxllm.utils.errors import InputError
from train.cli import main
from train.config import RunConfig, TrainConfig
from train.config_file import load_config
from train.loop import make_measure
from train.parallel.agreement import Agreement, AgreementOfAll
from train.parallel.alike import compare_runs
from train.parallel.native_output import FATAL, WHOLE, native_output_read
from train.parallel.processes import Processes, Rank, absent, dead, named, rank, rank_by_slurm
from train.runs.checkpoint import saved_steps
from train.runs.checkpoints_of_all import CheckpointsOfAll
from train.runs.folder import RunFolder
from train.runs.load import load_run
from train.runs.manifest import read_manifest
from train.runs.watched import folder_of
from train.runtime.signals import Stop

pytestmark = pytest.mark.newest

CONFIG = """
[data]
source = "{text}"
[model]
context_length = 8
d_model = 16
n_layers = 1
n_heads = 2
[train]
steps = 4
batch_size = 4
[optimizer]
warmup_steps = 1
schedule = "constant"
[eval]
every = 100000
sample_tokens = 1
[checkpoint]
every = 3
[parallel]
fsdp = 2
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("config")
    (folder / "text.txt").write_text(TEXT)
    (folder / "small.toml").write_text(CONFIG.format(text=folder / "text.txt"))
    return str(folder / "small.toml")


def by_processes(count: int, *words: str) -> list[list[str]]:
    """The commands of `jaxllm train` by so many processes."""
    address = free_address()
    return [["train", *words, *member(address, i, count)] for i in range(count)]


def states(run: Path) -> list[np.ndarray]:
    loaded = load_run(run, with_optimizer=True)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((loaded.params, loaded.opt_state))]


@pytest.fixture(scope="module")
def by_two(config: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """A run by two processes."""
    run = tmp_path_factory.mktemp("by_two") / "run"
    return run, ended(by_processes(2, config, "--out", str(run)))


def test_two_processes_leave_the_bits_of_two_devices(
    by_two: tuple[Path, list[Ended]], config: str, tmp_path: Path
) -> None:
    """Process 0 alone prints and writes, and arrays of which each has a part are read by one."""
    (run, (first, second)), devices = by_two, tmp_path / "devices"
    (alone,) = ended([["train", config, "--out", str(devices)]], devices=2)
    assert [first.code, second.code, alone.code] == [0, 0, 0], first.error + second.error + alone.error
    assert (second.out, second.error) == ("", "") and "on 2 devices: data = 1, fsdp = 2" in first.out
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4] and without_times(run) == without_times(devices)
    assert (run / "samples.txt").read_bytes() == (devices / "samples.txt").read_bytes()
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in devices.iterdir())
    for a, b in zip(states(run), states(devices), strict=True):
        np.testing.assert_array_equal(a, b)
    arrays = read_manifest(run / "checkpoints" / "4").arrays
    assert arrays["params/block_0/mlp/up/kernel"].sha256 is None and arrays["step"].sha256 is not None


def test_a_run_goes_on_by_four_until_one_is_killed_by_two_until_one_gets_a_signal_and_by_one(
    by_two: tuple[Path, list[Ended]], tmp_path: Path
) -> None:
    """Where one is killed, the others end with a sentence that names it. Where one gets a signal, all end at its step."""
    run = shutil.copytree(by_two[0], tmp_path / "run")
    endless = ["--resume", "--set", "train.steps=100000", "--out", str(run)]

    def saved() -> int:
        return saved_steps(run / "checkpoints")[-1]

    left = signalled(by_processes(4, *endless), 2, signal.SIGKILL, lambda: saved() > 4, HEARTBEAT_S=20)
    assert [one.code for one in left] == [1, 1, -signal.SIGKILL, 1], [one.error for one in left]
    step = saved()
    sentence = f"process 2 of 4 has ended; step {step} is saved; to go on: jaxllm train --out {run} --resume\n"
    assert {one.error for one in left if one.code == 1} == {f"jaxllm train: {sentence}"}

    left = signalled(by_processes(2, *endless), 1, signal.SIGTERM, lambda: saved() > step)
    assert [one.code for one in left] == [143, 143], [one.error for one in left]
    assert lines(run)[-1]["step"] == saved() > step
    assert all(f"SIGTERM ended the run after step {saved()}" in one.error for one in left)

    more = ["--resume", "--set", f"train.steps={saved() + 1}", "--set", "parallel.fsdp=1", "--out", str(run)]
    assert main(["train", *more]) == 0 and [line["step"] for line in lines(run)] == [*range(1, saved() + 1)]


def test_processes_that_do_not_find_each_other_end_with_a_sentence(config: str, tmp_path: Path) -> None:
    first, second, third = by_processes(3, config, "--out", str(tmp_path / "run"))
    lonely = by_processes(2, config, "--out", str(tmp_path / "other"))[1]
    left = ended([first, second, lonely], START_S=15)
    assert [one.code for one in left] == [2, 2, 2]
    assert all(one.error.startswith("jaxllm train: process 2 of 3 has not come to 127.0.0.1:") for one in left[:2])
    assert left[2].error.startswith("jaxllm train: nobody answers at 127.0.0.1:")
    assert all(one.error.count("\n") == 1 and not one.out for one in left) and not any(tmp_path.iterdir())


def test_processes_that_differ_end_with_a_sentence(config: str, tmp_path: Path) -> None:
    first, second = by_processes(2, config, "--out", str(tmp_path / "run"))
    left = ended([first, [*second, "--set", "train.seed=5"]])
    said = "train.seed is 0 in process 0, but 5 in process 1; start every process with the same options"
    assert [one.code for one in left] == [2, 2] and all(said in one.error for one in left)
    assert not (tmp_path / "run").exists()


OPTIONS: dict[str, tuple[str | None, int | None, int | None]] = {
    "--num-processes missing": ("h:1", 0, None),
    "--coordinator and --num-processes missing": (None, 1, None),
    "--process-id is 2, but with --num-processes 2 the ids are 0 to 1": ("h:1", 2, 2),
    "--process-id is -1": ("h:1", -1, 2),
    "--num-processes is 0": ("h:1", 0, 0),
    "--coordinator is 'h', but it must be HOST:PORT": ("h", 0, 2),
    "--coordinator is 'h:65536'": ("h:65536", 0, 2),
    "--coordinator is ':1'": (":1", 0, 2),
}


@pytest.mark.parametrize("message", OPTIONS)
def test_wrong_options(message: str) -> None:
    with pytest.raises(InputError) as error:
        rank(*OPTIONS[message])
    assert message in str(error.value)


def test_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the options, or by SLURM; one process needs no others."""
    step = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    assert rank("h:1", 1, 2) == Rank(1, 2, "h:1") and rank("h:1", 0, 1) is None and rank(None, None, None) is None
    assert rank_by_slurm(step | {"SLURM_NTASKS": "4"}) == Rank(1, 4, None)
    assert rank_by_slurm(step | {"SLURM_NTASKS": "1"}) is None and rank_by_slurm({"SLURM_NTASKS": "4"}) is None
    of_job = step | {"SLURM_NTASKS": "8"}
    assert rank_by_slurm(of_job | {"SLURM_STEP_NUM_TASKS": "2"}) == Rank(1, 2, None)
    assert rank_by_slurm(of_job | {"SLURM_STEP_NUM_TASKS": "1"}) is None  # an interactive shell
    for name, value in (step | {"SLURM_NTASKS": "4"}).items():
        monkeypatch.setenv(name, value)
    assert rank(None, None, None) == Rank(1, 4, None) and "n[1-2]" in Rank(1, 4, None).where


SAID: dict[str, tuple[Any, str]] = {
    "processes 1 and 3 of 4 have not come to h:1 within": (absent, "Some timed out task names:\n3\n1\n\n"),
    "another process has come to h:1 with --process-id 2": (absent, "CANCELLED: there's a more recent barrier call"),
    "process 0 at h:1 expects no process 2": (absent, "INVALID_ARGUMENT: Unexpected task"),
    "nobody answers at h:1": (absent, "DEADLINE_EXCEEDED: Deadline Exceeded"),
    "processes 0, 1 and 3 of 4 have ended": (dead, "unhealthy (stopped sending heartbeats):\n0\n1\n3\nThe tasks"),
    "process 0 of 4 has ended": (dead, "UNAVAILABLE: Failed to send RPC to coordination service"),
    "process 1 of 4 has ended": (dead, "INTERNAL: Shutdown barrier\nSome timed out task names:\n1\n\n"),
    "another process has come to h:1 with --process-id 3": (dead, "3 unexpectedly tried to connect with a different"),
}


@pytest.mark.parametrize("sentence", SAID)
def test_what_the_service_says_becomes_a_sentence(sentence: str) -> None:
    say, text = SAID[sentence]
    assert say(text, Rank(2, 4, "h:1")).startswith(sentence)
    assert named("no such list", "Some") == []


def test_what_is_printed_natively_is_passed_on_but_for_noise(capfd: pytest.CaptureFixture[str]) -> None:
    """What JAX's service ends a process with is given to a function, with the lines before it."""
    fatal: list[str] = []
    with native_output_read(lambda text, _: fatal.append(text)):
        os.write(1, b"[Gloo] Rank 0 is connected to 1 peer ranks\nof another library\n")
        os.write(2, f"E1 coordination_service.cc\nF1 {FATAL}\n2\n{WHOLE}\n".encode())
        print("of Python")
    out, error = capfd.readouterr()
    assert out == "of Python\n" and "of another library\n" in error and "Gloo" not in error
    assert len(fatal) == 1 and fatal[0].splitlines()[-2:] == ["2", WHOLE]
    os.write(1, b"[Gloo] Rank 0 is connected to 1 peer ranks\n")
    assert capfd.readouterr().out.startswith("[Gloo]")


def test_another_process_than_the_first_leaves_the_run_folder_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("begun\n")
    with folder_of(1, folder) as watched:
        assert watched.path == folder.path and watched.checkpoints == folder.checkpoints
        assert watched.metrics.read_text() == "begun\n"
        with watched.locked():
            watched.metrics.write_text("other\n")
            watched.samples.write_text("other\n")
        print("not shown")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"] and folder.metrics.read_text() == "begun\n"
    assert not watched.metrics.exists() and capsys.readouterr().out == ""
    with folder_of(0, folder) as same:
        assert same is folder


def test_another_process_than_the_first_deletes_no_unfinished_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "5.tmp").mkdir()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with CheckpointsOfAll(tmp_path):
        pass
    assert (tmp_path / "5.tmp").exists()


def test_processes_agree_on_what_was_said_in_the_step_before() -> None:
    """One process does as it says, at once."""
    here = Stop()
    agreed = AgreementOfAll(here)
    here.by = signal.SIGTERM
    assert [agreed.seconds(1.5), bool(agreed.stop), agreed.seconds(2.5), agreed.stop.by] == [0, False, 1.5, here.by]
    assert [agreed.schedule_step(step) for step in (7, 8, 9)] == [7, 7, 8]
    alone = Agreement(here)
    assert (alone.seconds(1.5), alone.schedule_step(7), alone.stop) == (1.5, 7, here)


def test_an_evaluation_is_abandoned_once_all_know_of_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the batch after the next, as all processes know it then."""
    here, batches = Stop(), list[int]()

    def step(*_: Any) -> float:
        batches.append(len(batches))
        here.by = signal.SIGTERM if len(batches) == 3 else here.by
        return 1.0

    monkeypatch.setattr(train.evaluate, "make_eval_step", lambda *_: step)
    agreed, config = AgreementOfAll(here), RunConfig(train=TrainConfig(batch_size=1))
    run: Any = SimpleNamespace(config=config, validation_ids=np.zeros(100, np.int32), examples=None)
    state: Any = SimpleNamespace(params=None)
    assert make_measure(run, GPT(TINY), agreed)(state) == {}
    assert len(batches) == 4 and agreed.stop.by == signal.SIGTERM


def test_versions_options_and_code_are_compared(config: str, tmp_path: Path) -> None:
    compared: dict[str, Any] = {}

    class Listening(Processes):
        def compare(self, what: str, mine: Any, remedy: str) -> None:
            compared.update(mine)

    compare_runs(Listening(), "given", RunFolder(tmp_path), load_config(config), None)
    assert compared["jax"] == jax.__version__ and compared["--out"] == str(tmp_path)
    assert {"python", "jaxlib", "jaxllm", "the sha256 of --code", "train.steps", "model.d_model"} <= compared.keys()
