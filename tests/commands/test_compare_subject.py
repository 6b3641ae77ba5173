"""What `jaxllm compare` compares: a small GPT, a config or a run, and whose fields --set changes."""

from pathlib import Path

import pytest

import train.commands.compare
from jaxllm import InputError
from train.cli import main
from train.commands.compare import choose_subject
from train.config import ModelConfig, RunConfig

pytestmark = pytest.mark.newest

OVERRIDES = ["model.d_model=12", "optimizer.beta2=0.95"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small = RunConfig(model=ModelConfig(vocab_size=19, context_length=8, d_model=8, n_layers=1, n_heads=2))
    monkeypatch.setattr(train.commands.compare, "SMALL", small)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(
        "[model]\nvocab_size = 19\ncontext_length = 4\nd_model = 8\nn_layers = 1\nn_heads = 2\n"
    )
    return tmp_path


def test_fields_of_a_config_file_are_overridden() -> None:
    subject = choose_subject("tiny.toml", None, OVERRIDES, 1, None)
    assert (subject.model.d_model, subject.model.context_length) == (12, 4)
    assert subject.config.optimizer.beta2 == 0.95
    assert choose_subject("tiny.toml", None, [], 1, None).model.d_model == 8


def test_fields_of_the_small_model_are_overridden() -> None:
    subject = choose_subject(None, None, OVERRIDES, 1, None)
    assert (subject.model.d_model, subject.model.context_length) == (12, 8)
    assert subject.config.optimizer.beta2 == 0.95
    assert subject.params["token_embedding"]["table"].shape == (19, 12)


def test_a_run_keeps_its_config(place: Path) -> None:
    """Another config would not be that of its parameters."""
    with pytest.raises(InputError, match=r"--set train.steps=9 would change the config that .* was trained with"):
        choose_subject(str(place), None, ["train.steps=9"], 1, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--set model.d_modle=8", "model.d_modle is no config field; did you mean d_model"),
        ("tiny.toml --set model.n_heads=3", "model.d_model is 8, which is not divisible by model.n_heads = 3"),
        ("tiny.toml --set model", "--set 'model' is not understood; write --set section.key=value"),
        (". --set train.steps=9", "--set train.steps=9 would change the config"),
        ("tiny.toml --step 3", "--step is '3', but only a run folder has steps"),
    ],
)
def test_wrong_input(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm compare: ") and message in error and error.count("\n") == 1


@pytest.mark.usefixtures("quick_compilation")
def test_the_command_compares_what_was_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "tiny.toml", "--set", "model.norm=rms_norm", "--set", "train.dtype=bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "tiny.toml, random weights, 1 x 4 tokens, bfloat16" in out and "comparisons within tolerance" in out
