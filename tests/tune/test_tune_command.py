"""The config that `jaxllm tune` makes, and the question that its samples answer."""

from pathlib import Path
from typing import Any

import pytest
from imported_runs import TEMPLATE, TOKENIZER, imported
from tuned_runs import examples_file, sets

from jaxllm.pretrained.chat import ChatFormat
from train.cli import main
from train.commands import tune
from train.config import RunConfig
from train.inputs import prepare
from train.tune.data import read_tune_data
from train.tune.sample import question


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the config which the command would train with."""
    made: list[RunConfig] = []

    def start(folder: Any, config: RunConfig, *_: Any, planned: Any) -> None:
        inputs = prepare(config)
        made.append(inputs.with_config(planned(inputs)).config)

    monkeypatch.setattr(tune, "start", start)
    base = imported(tmp_path / "base")

    def config(*words: str, kind: str = "instruct") -> RunConfig:
        data = examples_file(tmp_path, kind)
        assert main(["tune", str(base), str(data), "--out", "run", "--kind", kind, *words]) == 0
        return made.pop()

    return config


@pytest.mark.newest
def test_steps_are_counted_in_rows(planned: Any) -> None:
    """18 examples to train on, in batches of 4; packed they are 9 rows."""
    of_four = sets("train.batch_size=4")
    assert planned(*of_four).train.steps == 14
    assert planned(*of_four, "--epochs", "2").train.steps == 9
    assert planned(*of_four, *sets("tune.packing=true", "train.window=64")).train.steps == 7
    assert planned(*of_four, *sets("tune.too_long=drop", "train.window=24")).train.steps < 14
    assert planned(*of_four, *sets("train.steps=3")).train.steps == 3


@pytest.mark.newest
def test_rates_and_intervals(planned: Any) -> None:
    """Adapters learn faster. Another rate brings its smallest along, and best checkpoints need evaluations."""
    full, adapters = planned().optimizer, planned(*sets("lora.rank=1")).optimizer
    assert (full.learning_rate, adapters.learning_rate) == (5e-5, 5e-4)
    assert planned(*sets("optimizer.learning_rate=2e-5")).optimizer.min_learning_rate == pytest.approx(2e-6)
    best = planned(*sets("train.steps=11", "checkpoint.keep_best=1"))
    assert (best.eval.every, best.checkpoint.every) == (2, 2)
    rarely = planned(*sets("train.steps=11", "checkpoint.keep_best=1", "eval.every=3"))
    assert (rarely.eval.every, rarely.checkpoint.every) == (3, 3)
    plain = planned(*sets("train.steps=11"))
    assert (plain.eval.every, plain.checkpoint.every, plain.optimizer.warmup_steps) == (2, 11, 1)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_sample_answers_what_training_asks(template: str | None, tmp_path: Path) -> None:
    """With the begin token where no template writes one; without a prompt, the first validation example's question."""
    chat = ChatFormat(256, (257,), "<s>", "</s>", template)
    data = read_tune_data(str(examples_file(tmp_path, "instruct")), "instruct", TOKENIZER, chat, 64)
    asked = "ab" if template is None else "user:ab"
    after = [] if template is None else [257, 256]
    assert list(question(data, TOKENIZER, chat, "ab")) == [256, *asked.encode(), *after]
    one = data.validation.examples[0][0]
    begin = list(question(data, TOKENIZER, chat, ""))
    assert begin == one.ids[: len(begin)].tolist() and not one.learned[: len(begin)].any()
    assert one.learned[len(begin)]
