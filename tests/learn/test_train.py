"""`jaxllm learn train`: the learner's functions in the place of ours, and ours where theirs are not right."""

import importlib.util
import math
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from courses import course, overrides, rewrite
from runs import lines

from train.cli import main
from train.commands import learn_training
from train.config import OptimizerConfig
from train.learn.checking import check
from train.learn.course import ORDER, file_name
from train.learn.folder import LearnFolder
from train.learn.training import pace
from train.optimizer import make_optimizer

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

LANGUAGES = [
    "library",
    "jax",
    pytest.param("torch", marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="without PyTorch")),
]
WHOLE = "char_tokenizer, input_target_pairs, gpt (the whole model), cross_entropy, training_step, sampling"
COUNTED = {
    "char_tokenizer": "encode", "input_target_pairs": "input_target_pairs", "gpt": "gpt", "cross_entropy": "cross_entropy",
    "training_step": "clip_gradients", "sampling": "sample",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on how busy the machine is."""
    monkeypatch.setattr(pace, "MOST_SECONDS", math.inf)
    monkeypatch.setattr(check, "SECONDS", dict.fromkeys(("numpy", "jax", "torch"), 600.0))


@pytest.fixture
def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pieces that are there are taken for right; other tests here have the check as well."""
    monkeypatch.setattr(learn_training, "verdicts_of", taken_for_right)


def taken_for_right(folder: LearnFolder) -> dict[str, str]:
    return {name: "" if folder.file(name).is_file() else "its file is missing" for name in ORDER}


def learn(folder: Path, run: Path, *more: str) -> int:
    return main(["learn", "train", "--dir", str(folder), "--out", str(run), *overrides(run.parent), *more])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of our model with the same config."""
    folder = tmp_path_factory.mktemp("ours")
    config = folder / "ours.toml"
    config.write_text('[tokenizer]\nkind = "char"\n[optimizer]\nlearning_rate = 5e-3\nmin_learning_rate = 0.0\n')
    assert main(["train", str(config), "--out", str(folder / "run"), *overrides(folder)]) == 0
    return losses_of(folder / "run")


def losses_of(run: Path) -> list[float]:
    """The losses of all steps, and that of the validation at the end."""
    return [*(line["train_loss"] for line in lines(run)), lines(run)[-1]["val_loss"]]


def assert_losses(run: Path, ours: list[float]) -> None:
    np.testing.assert_allclose(losses_of(run), ours, rtol=1e-4)


@pytest.mark.parametrize("style", LANGUAGES)
def test_a_whole_course_trains_as_our_model_does(
    style: str,
    tmp_path: Path,
    ours: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, run = course(tmp_path / "course", style), tmp_path / "run"
    if style != "library":  # one check of a whole course is enough
        monkeypatch.setattr(learn_training, "verdicts_of", taken_for_right)
    for name, function in COUNTED.items():
        path = folder / file_name(name)
        counting = f"\n\ntimes, counted = [], {function}\n\n\ndef {function}(*given, **named):\n"
        path.write_text(path.read_text() + f"{counting}    times.append(1)\n    return counted(*given, **named)\n")
    assert learn(folder, run, "--set", "optimizer.learning_rate=5e-3") == 0
    printed = capsys.readouterr().out
    assert f"yours: {WHOLE}\nours: no piece\n" in printed
    assert ("the backward of your functions is that of the reference" in printed) == (style == "library")
    assert_losses(run, ours)
    for name in COUNTED:
        assert sys.modules[file_name(name).removesuffix(".py")].times, f"{name} was not called"
    assert re.search(r"----- step 4, validation loss \d\.\d+\nthe .{12}", (run / "samples.txt").read_text(), re.DOTALL)
    assert main(["generate", str(run), "--prompt", "the", "--max-new-tokens", "3"]) == 2
    assert (
        main(["generate", str(run), "--prompt", "the", "--max-new-tokens", "3", "--code", f"{folder}/learned.py"]) == 0
    )
    assert "the block is learned.py:Block" in capsys.readouterr().err


def test_the_command_says_whose_each_piece_is_and_uses_no_wrong_one(
    tmp_path: Path, ours: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without `gpt` their block trains, without `block` what it is made of."""
    folder = course(tmp_path / "course", "library")
    (folder / file_name("gpt")).write_text("def gpt(params, tokens, n_heads):\n    raise NotImplementedError\n")
    assert learn(folder, tmp_path / "one") == 0
    printed = capsys.readouterr().out
    assert "ours: gpt (not written yet)\n" in printed
    assert "token_embedding, position_embedding, layer_norm, block, cross_entropy" in printed
    (folder / file_name("block")).unlink()
    (folder / file_name("mlp")).write_text("def gelu(x):\n    return x\n\n\ndef mlp(params, x):\n    return x\n")
    assert learn(folder, tmp_path / "two") == 0
    printed = capsys.readouterr().out
    assert "linear_map, multi_head_attention, layer_norm, cross_entropy" in printed
    assert (
        "ours: mlp (wrong, as `jaxllm learn check mlp` says); block (its file is missing); gpt (not written yet)\n"
    ) in printed
    for run in ("one", "two"):
        assert_losses(tmp_path / run, ours)


def test_with_no_piece_the_model_is_ours(tmp_path: Path, ours: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    folder = course(tmp_path / "course", "jax")
    for path in folder.glob("p*.py"):
        path.unlink()
    assert learn(folder, tmp_path / "run", "--set", "optimizer.learning_rate=5e-3") == 0
    assert "yours: no piece yet\nours: char_tokenizer (its file is missing);" in capsys.readouterr().out
    assert_losses(tmp_path / "run", ours)


FAILS = "    if tokens.shape == (4, 8):\n        {}\n    return"


@pytest.mark.usefixtures("no_check")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('four rows')", r"p16_gpt\.py, line \d+, in gpt: raise .*\nValueError: four rows\n$"),
        (
            "return full_like(tokens, float('nan'), float)",
            r"your gpt: gpt returned shape \(4, 8\), but it must return ",
        ),
        (
            "return full_like(params['token_embedding']['table'][tokens] @ params['token_embedding']['table'].T, float('nan'))",
            "your gpt: gpt returned a non-finite number, and all that it was given is finite",
        ),
    ],
)
def test_an_error_of_theirs_in_a_step_is_named(
    body: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the check nor the trial calls it with this shape, so that only the training meets it."""
    folder = course(tmp_path / "course", "library")
    path = folder / file_name("gpt")
    wrapped = (
        f"\n\nfrom numpy import full_like\n\nright = gpt\n\n\ndef gpt(params, tokens, n_heads):\n{FAILS.format(body)} "
    )
    path.write_text(path.read_text() + wrapped + "right(params, tokens, n_heads)\n")
    assert learn(folder, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert re.search(says, error) and "Traceback" not in error and "callbacks.py" not in error


@pytest.mark.usefixtures("no_check")
def test_a_function_that_jit_cannot_trace_is_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = course(tmp_path / "course", "jax")
    (folder / file_name("gpt")).unlink()
    path = folder / file_name("layer_norm")
    wrapped = "\n\nright = layer_norm\n\n\ndef layer_norm(x, scale, bias, epsilon):\n    if float(x.sum()) > 1e9:\n        return x\n"
    path.write_text(path.read_text() + wrapped + "    return right(x, scale, bias, epsilon)\n")
    assert learn(folder, tmp_path / "run") == 0
    printed = capsys.readouterr().out
    for name in ("layer_norm", "block"):  # which the check may find first, for its gradients are traced too
        assert re.search(rf"{name} \((right, but jax.jit cannot trace it: |fails, as)", printed)
    assert "yours: char_tokenizer, input_target_pairs, token_embedding, position_embedding, linear_map" not in printed
    assert "multi_head_attention, mlp, cross_entropy" in printed


@pytest.mark.usefixtures("no_check")
def test_a_slow_piece_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pace, "MOST_SECONDS", 0.0)
    assert learn(course(tmp_path / "course", "library"), tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "yours: char_tokenizer, input_target_pairs, sampling\n" in printed
    assert re.search(r"gpt \(right, but a call in this training would take about \d+ s\)", printed)


@pytest.mark.usefixtures("no_check")
def test_a_piece_that_changes_during_training_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, train = course(tmp_path / "course", "jax"), learn_training.train

    def change(*given: object) -> None:
        train(*given)
        rewrite(folder, "layer_norm", "def layer_norm", "# a change\ndef layer_norm")

    monkeypatch.setattr(learn_training, "train", change)
    assert learn(folder, tmp_path / "run") == 2
    says = (
        "p16_gpt.py, or a piece that it imports, has changed since this training began, which did not see the change;"
    )
    assert says in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "run"), "--prompt", "the", "--code", f"{folder}/learned.py"]) == 2
    assert "has changed since learned.py was written; run `jaxllm learn train` again." in capsys.readouterr().err


def test_wrong_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = course(tmp_path / "course", "jax"), tmp_path / "run"
    for path in folder.glob("p*.py"):
        path.unlink()
    (folder / "learned.py").write_text("mine = 1\n")
    wrong = {
        f"{folder / 'learned.py'} is not as `jaxllm learn train` writes it, and would be lost; rename it.": (),
        "--set model.position cannot be given here, because your pieces decide it": ("--set", "model.position=rotary"),
    }
    for says, more in wrong.items():
        assert learn(folder, run, *more) == 2
        assert says in capsys.readouterr().err
        (folder / "learned.py").unlink()
    assert main(["learn", "train", "--dir", str(tmp_path)]) == 2
    assert "is no course folder" in capsys.readouterr().err
    run.mkdir()
    (run / "notes.txt").write_text("")
    assert learn(folder, run) == 2
    assert "is not empty; choose another folder with --out." in capsys.readouterr().err


def test_an_optimizer_that_clips_is_given_the_gradient_as_it_is() -> None:
    def plain(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
        return optax.identity()

    gradient = {"w": jnp.full((2, 2), 100.0)}
    for clips, norm in ((False, 1.0), (True, 200.0)):
        plain.clips = clips  # type: ignore[attr-defined]
        optimizer = make_optimizer(OptimizerConfig(name=plain, clip_norm=1.0), 10)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        assert float(optax.tree.norm(updates)) == pytest.approx(norm)
