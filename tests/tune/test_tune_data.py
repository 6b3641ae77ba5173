"""The data of a tuning: splits, labels, notes and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import BYTES, chat_format, write_examples

from jaxllm import InputError
from train.config import DataConfig, RunConfig, TrainConfig
from train.tune.batches import Preferences
from train.tune.config import TuneConfig
from train.tune.data import TuneData, read_tune_data, tune_data

ASKED = [{"prompt": "?", "answer": f"{i:02}"} for i in range(25)]
LABELLED = [{"text": f"{i:02}", "label": "b" if i % 3 else "a"} for i in range(25)]
PAIRS = [{"prompt": f"{i:02}", "chosen": "yes", "rejected": "no"} for i in range(25)]


def read(tmp_path: Path, kind: Any, lines: list[Any], window: int = 64, **options: Any) -> TuneData:
    return read_tune_data(write_examples(tmp_path / "x.jsonl", lines), kind, BYTES, chat_format(), window, **options)


def answers(data: TuneData, split: str) -> list[str]:
    """What is learned of each row."""
    batches = data.batches(split, 2)
    return [BYTES.decode(row[row >= 0]) for _, targets in batches for row in targets.ids if (row >= 0).any()]


def test_the_last_tenth_of_the_lines_is_for_validation(tmp_path: Path) -> None:
    data = read(tmp_path, "instruct", ASKED)
    assert answers(data, "train") == [f"{i:02}<|im_end|>" for i in range(22)]
    assert answers(data, "validation") == [f"{i:02}<|im_end|>" for i in range(22, 25)]
    assert len(read(tmp_path, "instruct", ASKED[:2]).validation.rows) == 1
    with pytest.raises(InputError, match="has 1 examples, of which 0 are left to train on and 1 to validate on"):
        read(tmp_path, "instruct", ASKED[:1])


def test_the_config_says_what_is_read(tmp_path: Path) -> None:
    source = write_examples(tmp_path / "x.jsonl", LABELLED)
    tune = TuneConfig("classify", too_long="cut", packing=True, labels=("b", "a"))
    data = tune_data(RunConfig(DataConfig(source), tune=tune), BYTES, chat_format(), 2)
    assert data.labels == ("b", "a") and data.train.packed and data.train.width == 2
    assert data.train.examples[0][0].label == 1
    asked = write_examples(tmp_path / "y.jsonl", ASKED)
    for window, width in ((None, 32), (100, 96)):  # none: rows that the longest example fills
        config = RunConfig(
            DataConfig(asked), train=TrainConfig(window=window), tune=TuneConfig(packing=True, kind="instruct")
        )
        assert tune_data(config, BYTES, chat_format(), 200).train.width == width
    with pytest.raises(InputError, match="data.source is a mixture, but examples of a task come from one file"):
        tune_data(RunConfig(DataConfig({source: 1.0}), tune=tune), BYTES, None, 64)


def test_labels_are_numbered_in_their_order(tmp_path: Path) -> None:
    data = read(tmp_path, "classify", LABELLED)
    assert data.labels == ("a", "b")
    _, targets = next(data.batches("train", 3))
    begin = 1  # of which the texts have one
    assert targets.ids[:, begin + 1].tolist() == [0, 1, 1] and int((targets.ids >= 0).sum()) == 3
    with pytest.raises(InputError, match=r"has the label 'b', but this run's are \['a', 'c'\]"):
        read(tmp_path, "classify", LABELLED, labels=["a", "c"])
    with pytest.raises(InputError, match="has the one label 'b', so there is nothing to tell apart"):
        read(tmp_path, "classify", LABELLED[1:3])
    with pytest.raises(InputError, match="all 2 examples of .* to train on have the label 'b': .*; shuffle them"):
        read(tmp_path, "classify", LABELLED[1:4])


def test_the_notes_count_examples_labels_and_lengths(tmp_path: Path) -> None:
    notes = read(tmp_path, "classify", LABELLED).notes
    path = tmp_path / "x.jsonl"
    assert notes == (
        f"{path}: 22 examples to train on, in 22 rows of 16 tokens; 22 of 352 positions are learned",
        "labels: 'a' 8, 'b' 14",
        f"{path}: 3 examples to validate on, in 3 rows of 16 tokens; 3 of 48 positions are learned",
        "labels: 'a' 1, 'b' 2",
    )
    long = [*ASKED[:3], {"prompt": "?" * 30, "answer": "a"}, {"prompt": "?", "answer": "b" * 60}, *ASKED[:3]]
    assert read(tmp_path, "instruct", long, 48, too_long="cut").notes[2:] == (
        "of the examples to train on, 1 were cut and 1 dropped: they are longer than train.window = 48 tokens",
    )
    assert read(tmp_path, "instruct", long, 48, too_long="drop").notes[2:] == (
        "of the examples to train on, 0 were cut and 2 dropped: they are longer than train.window = 48 tokens",
    )
    with pytest.raises(InputError, match="line 4 of .* has 50 tokens, more than the 48 of a row"):
        read(tmp_path, "instruct", long, 48)
    with pytest.raises(InputError, match="has 25 examples, of which 0 are left to train on and 0 to validate on"):
        read(tmp_path, "instruct", ASKED, 8, too_long="drop")


def test_a_cut_keeps_the_begin_token_where_no_template_writes(tmp_path: Path) -> None:
    source = write_examples(tmp_path / "x.jsonl", [{"prompt": "a" * 9, "answer": "b"}] * 2)
    written = "{% for m in messages %}{{ m.content + ('' if m.role == 'user' else '<|im_end|>') }}{% endfor %}"
    for template, first in ((None, "<s>"), (written, "a")):
        data = read_tune_data(source, "instruct", BYTES, chat_format(template), 5, too_long="cut")
        assert BYTES.decode(data.train.take(np.array([0]))[0][0]) == f"{first}aaab"


def test_pairs_take_their_references_and_no_packing(tmp_path: Path) -> None:
    data = read(tmp_path, "prefer", PAIRS)
    train, validation = np.zeros((22, 2), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    data = data.with_reference(train, validation)
    _, targets = next(data.batches("validation", 3))
    assert isinstance(targets, Preferences) and targets.reference.tolist() == [[0, 1], [2, 3], [4, 5]]
    _, targets = data.draw(4, 0, 0)
    assert isinstance(targets, Preferences) and (targets.reference == 0).all()
    with pytest.raises(InputError, match='tune.packing is true, but tune.kind = "prefer" has one pair in a row'):
        read(tmp_path, "prefer", PAIRS, packing=True)


def test_draws_are_of_the_training_split(tmp_path: Path) -> None:
    data = read(tmp_path, "instruct", ASKED)
    drawn = {BYTES.decode(row[row >= 0])[:2] for step in range(11) for row in data.draw(2, 0, step)[1].ids}
    assert drawn == {f"{i:02}" for i in range(22)}
    halves = [data.draw(4, 3, 1, part, 2)[0] for part in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), data.draw(4, 3, 1)[0])


def test_the_ids_of_a_split(tmp_path: Path) -> None:
    data = read(tmp_path, "classify", LABELLED)
    assert BYTES.decode(data.ids("validation")) == "<s>22<s>23<s>24"
    assert data.ids("train").dtype == np.int32 and len(data.ids("train")) == 66


def test_a_fingerprint_is_of_the_ids_and_of_what_is_learned(tmp_path: Path) -> None:
    """A template, a cut, or the same ids in other examples make another one; the width of a row does not."""
    data = read(tmp_path, "instruct", ASKED)
    assert data.fingerprint() == read(tmp_path, "instruct", ASKED, 200, packing=True).fingerprint()
    source = str(tmp_path / "x.jsonl")
    others = [
        read_tune_data(source, "instruct", BYTES, chat_format(None), 64),
        read(tmp_path, "instruct", ASKED, 20, too_long="cut"),
        read(tmp_path, "instruct", ASKED[1:]),
    ]
    row = data.train.examples[0][0]
    unlearned = replace(data.train, examples=((row._replace(learned=~row.learned),), *data.train.examples[1:]))
    others.append(replace(data, train=unlearned))
    assert len({one.fingerprint() for one in (data, *others)}) == 5
