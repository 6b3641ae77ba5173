"""`jaxllm sweep`: values and names, runs as `jaxllm train` leaves them, going on, and wrong input."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import assert_same_run, lines, without_times, write_config

import train.commands.sweep
import train.together
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT
from jaxllm.utils.errors import InputError
from train.cli import main
from train.config_file import build_config
from train.optimizer import OPTIMIZERS
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.sweep import combinations, parse_axes, split_values
from train.together import first_states, numbers_of, with_numbers

pytestmark = pytest.mark.newest

IDEAS = Path(__file__).parents[1] / "support" / "ideas"
SHORT = [
    "--set",
    "train.steps=6",
    "--set",
    "checkpoint.every=2",
    "--set",
    "eval.every=3",
    "--set",
    "model.mup_base_width=2",
]
RATES, SEEDS = ["--set", "optimizer.learning_rate=1e-2,3e-2"], ["--set", "train.seed=0,1"]
TOLERANCE = 1e-5  # of a loss beside that of a run alone, whose sums XLA may order otherwise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, quick_compilation: None) -> Path:
    """A folder with a config, a run alone, a sweep over seeds, and one over learning rates and seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    config = str(write_config(folder))
    alone = ["--set", "optimizer.learning_rate=1e-2", "--set", "train.seed=1"]
    assert main(["train", config, *SHORT, *alone, "--out", str(folder / "alone")]) == 0
    assert sweep(folder, "seeds", "--set", "optimizer.learning_rate=1e-2", *SEEDS) == 0
    assert sweep(folder, "rates", *SEEDS, *RATES) == 0
    return folder


def sweep(place: Path, out: str, *more: str) -> int:
    return main(["sweep", str(place / "tiny.toml"), *SHORT, "--out", str(place / out), *more])


def assert_close_to_alone(place: Path, run: str) -> None:
    for ours, theirs in zip(lines(place / run), lines(place / "alone"), strict=True):
        for name in ("train_loss", "val_loss", "learning_rate", "grad_norm"):
            assert ours.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=TOLERANCE)


@pytest.mark.newest
def test_runs_that_differ_in_their_seed_are_close_to_a_run_alone(place: Path) -> None:
    assert_close_to_alone(place, "seeds/seed=1")
    assert without_times(place / "seeds" / "seed=0") != without_times(place / "seeds" / "seed=1")


@pytest.mark.newest
def test_runs_that_differ_in_other_numbers_are_close_to_a_run_alone(place: Path) -> None:
    together = place / "rates" / "learning_rate=0.01,seed=1"
    assert_close_to_alone(place, "rates/learning_rate=0.01,seed=1")
    rates = [lines(one)[-1]["learning_rate"] for one in (together, place / "rates" / "learning_rate=0.03,seed=1")]
    assert rates[1] > 2 * rates[0]


def test_each_is_an_ordinary_run_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"learning_rate={rate},seed={seed}" for rate in (0.01, 0.03) for seed in (0, 1)]
    assert sorted(path.name for path in (place / "rates").iterdir()) == sorted([*runs, "sweep.png", "sweep.toml"])
    one = place / "rates" / runs[3]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in (place / "alone").iterdir())
    assert load_run(one).config.train.seed == 1 and load_run(one).config.optimizer.learning_rate == 0.03
    assert main(["train", "--out", str(one), "--resume"]) == 0
    assert "has all its 6 steps" in capsys.readouterr().out


def test_a_complete_sweep_only_shows_its_table(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.commands.sweep, "prepare", None)
    assert sweep(place, "rates", *RATES, *SEEDS) == 0
    out = capsys.readouterr().out
    assert "4 of 4 runs are complete" in out and "learning_rate=0.03" in out and "sweep.png" in out


@pytest.mark.newest
def test_it_goes_on_after_an_interruption(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete run is left alone, and runs broken off at a step go on from their checkpoints, to the same bits."""
    shutil.copytree(place / "seeds" / "seed=0", place / "broken" / "seed=0")
    shutil.copy(place / "seeds" / "sweep.toml", place / "broken" / "sweep.toml")
    before = (place / "broken" / "seed=0" / "metrics.jsonl").read_bytes()
    command = ("broken", "--set", "optimizer.learning_rate=1e-2", *SEEDS)
    assert sweep(place, *command) == 0
    assert (place / "broken" / "seed=0" / "metrics.jsonl").read_bytes() == before
    assert_same_run(place / "alone", place / "broken" / "seed=1")  # trained alone, as the only one left

    batch_of = train.together.batch_of
    with monkeypatch.context() as patch:
        patch.setattr(train.together, "batch_of", broken_off_at(5, batch_of))
        assert sweep(place, "killed", *RATES, *SEEDS) == 130
    assert sweep(place, "killed", *RATES, *SEEDS) == 0
    for one in (place / "rates").glob("learning*"):
        assert_same_run(one, place / "killed" / one.name)


def broken_off_at(step: int, batch_of: Callable[..., Any]) -> Callable[..., Any]:
    def batch(run: Any, wanted: int) -> Any:
        if wanted == step:
            raise KeyboardInterrupt
        return batch_of(run, wanted)

    return batch


@pytest.mark.newest
def test_a_run_that_diverges_ends_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(place, "diverged", *SEEDS, "--set", "optimizer.learning_rate=1e-2,1e36") == 1
    out = capsys.readouterr().out
    assert "learning_rate=1e+36,seed=0: " in out and "the run has diverged" in out
    for one in (place / "rates").glob("learning_rate=0.01*"):
        assert_same_run(one, place / "diverged" / one.name)


@pytest.mark.newest
def test_an_idea_is_swept_against_its_baseline(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.commands.sweep, "trained_alone", lambda _: True)
    monkeypatch.setattr(train.commands.sweep, "show", lambda *_: None)
    code = ["--code", str(IDEAS / "squared_relu.py")]
    assert sweep(place, "idea", *code, "--set", "model.activation=gelu,squared_relu.py:squared_relu") == 0
    assert [path.name for path in (place / "idea").glob("*/code")] == ["code"]
    assert (place / "idea" / "activation=squared_relu.py-squared_relu" / "code" / "squared_relu.py").is_file()
    assert sweep(place, "none", *code, "--set", "model.activation=gelu,relu") == 2
    assert "activation=gelu: --code is" in capsys.readouterr().err


def test_numbers_that_an_optimizer_keeps_in_its_state_are_those_of_the_run(tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=5, context_length=4, d_model=4, n_layers=1, n_heads=1))
    betas = [0.9, 0.5]
    configs = [build_config({"optimizer": {"name": "schedule_free_adamw", "beta1": beta}}) for beta in betas]
    with Checkpoints(tmp_path / "none", 1, 0) as none:
        states = first_states(model, configs, numbers_of(configs), [none, none])
    np.testing.assert_allclose(states.opt_state[1].b1, betas)


@pytest.mark.parametrize("changed", [lambda c: c if float(c.learning_rate) else None, lambda c: replace(c, beta1=0.8)])
def test_runs_of_other_shapes_and_an_optimizer_that_takes_no_tracers_are_trained_apart(
    changed: Any, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adamw = OPTIMIZERS["adamw"]
    monkeypatch.setitem(OPTIMIZERS, "adamw", lambda c, s: adamw(changed(c), s))
    alone: list[str] = []
    monkeypatch.setattr(train.commands.sweep, "trained_alone", lambda member: bool(alone.append(member.name) or True))
    monkeypatch.setattr(train.commands.sweep, "show", lambda *_: None)
    assert sweep(place, "apart", *RATES, "--set", "model.d_model=8,16") == 0
    assert alone == [f"d_model={width},learning_rate={rate}" for width in (8, 16) for rate in (0.01, 0.03)]
    assert "one after the other" in capsys.readouterr().err


def test_runs_on_several_devices_are_trained_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    groups: list[int] = []
    monkeypatch.setattr(train.commands.sweep, "train_group", lambda group, _: groups.append(len(group)) or [])
    monkeypatch.setattr(train.commands.sweep, "show", lambda *_: None)
    write_config(tmp_path)
    on_four = ["--set", "train.batch_size=8", "--set", "parallel.fsdp=4", "--set", "parallel.data=1"]
    assert sweep(tmp_path, "on four", *SEEDS, *on_four) == 0
    assert capsys.readouterr().out.count("on 4 devices: data = 1, fsdp = 4, tensor = 1\n") == 1
    assert sweep(tmp_path, "on one", *SEEDS, "--set", "train.batch_size=2") == 0
    assert capsys.readouterr().out.count("3 of 4 devices stay idle") == 1
    assert groups == [1, 1, 2]
    assert sweep(tmp_path, "on three", *SEEDS, "--set", "parallel.tensor=3") == 2
    error = capsys.readouterr().err
    assert "seed=0: parallel.fsdp = 1 * parallel.tensor = 3 are 3 devices" in error and groups == [1, 1, 2]


def test_a_section_without_traced_numbers_stays_a_section() -> None:
    config = build_config({})
    assert with_numbers(config, {"train.seed": jnp.zeros((), int)}).optimizer is config.optimizer


def test_values_between_commas() -> None:
    assert split_values(r'"a, \"b",[1, [2, 3]], {x = 1, y = 2},c') == [
        r'"a, \"b"',
        "[1, [2, 3]]",
        "{x = 1, y = 2}",
        "c",
    ]
    (axis,) = parse_axes(["eval.prompt='a,b',c d"])
    assert axis.values == ["a,b", "c d"]


def test_names_are_readable_and_stable() -> None:
    def names(*settings: str) -> list[str]:
        return [one.name for one in combinations(parse_axes(settings))]

    assert names("train.seed=0,1", "model.dropout=0.0,0.1") == names("model.dropout=0.0,0.1", "train.seed=0,1")
    assert names("train.seed=0,1", "model.use_bias=true,false")[0] == "use_bias=true,seed=0"
    assert names("eval.every=1,2", "checkpoint.every=3")[1] == "every=2"
    assert names("eval.every=1,2", "checkpoint.every=3,4")[1] == "eval.every=1,checkpoint.every=4"
    same = names("eval.prompt=a b,a/b,c")
    assert same[2] == "prompt=c" and same[0].startswith("prompt=a-b-") and same[0] != same[1]
    assert max(map(len, names(f"eval.prompt={'x' * 300},c"))) <= 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train.batch_size=4", "no field has several values"),
        ("train.seed=0,1,0", "train.seed the value 0 twice"),
        ("optimizer.learning_rate=1e-3,0.001", "value 0.001 twice"),
        ("train.seed=0,,1", "empty value"),
        ("train.seed=0,1 train.seed=2", "train.seed twice"),
        ("train.sead=0,1", "train.sead is no config field"),
        ("seed=0,1", "is not understood"),
        ("model.d_model=16,15 train.seed=0,1", "d_model=15,seed=0: model.d_model"),
        ("model.context_length=8,100000", "context_length=100000: the text has"),
        ("train.seed=" + ",".join(map(str, range(1001))), "at most 1,000"),
    ],
)
def test_wrong_input_is_found_before_anything_is_trained(
    place: Path, settings: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.commands.sweep, "train_group", None)
    assert sweep(place, "wrong", *(word for one in settings.split() for word in ("--set", one))) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([*RATES, "--set", "train.seed=0,1,2"], "train.seed has 0, 1, but the command says 0, 1, 2"),
        ([*RATES], "train.seed has 0, 1, but the command says one value"),
        ([*RATES, *SEEDS, "--set", "model.d_ff=24"], "model.d_ff is None, but here it is 24"),
    ],
)
def test_another_command_on_the_same_folder_is_refused(
    place: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(place, "rates", *more) == 2
    assert message in capsys.readouterr().err


def test_other_folders_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(place, "alone", *SEEDS) == 2
    assert "holds a run" in capsys.readouterr().err
    assert sweep(place, "rates", *RATES, *SEEDS, "--at-most", "0") == 2
    assert "--at-most is 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="is not empty"):
        train.commands.sweep.check_place(place)
