"""Log-probabilities of the base: those of each answer alone, computed once, and never those of another base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, random_gpt
from tuning import TOKENIZER, examples

from jaxllm import GPT, reference
from jaxllm.utils.errors import NonFiniteError
from train.tune.reference_log_probs import FILE, of_pairs, read_log_probs, with_reference, write_log_probs

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

CONFIG = replace(TINY, vocab_size=TOKENIZER.vocab_size, context_length=16, n_layers=1)
KEY = {"base": "1" * 64, "data": "2" * 64, "tokenizer": "3" * 64, "window": "16"}
SIZES = {"train": 2, "validation": 1}
FOUND = {"train": np.array([[-1, -2], [-3, -4]], np.float32), "validation": np.array([[-5, -6]], np.float32)}


def test_each_answer_has_its_own(tmp_path: Path) -> None:
    """In the order of the file, from batches whose last one is filled; read again without the base."""
    data = examples(tmp_path, "prefer")
    model, params = random_gpt(CONFIG)
    known = with_reference(data, model, lambda: params, tmp_path, KEY, 5)
    for split, rows in (("train", known.train), ("validation", known.validation)):
        want = []
        for inputs, targets in data.batches(split, 1):
            logits = reference.gpt.forward(CONFIG, params, inputs[0])
            want.append(-reference.loss.answer_losses(logits, targets.ids[0]).sum(-1))
        np.testing.assert_allclose(rows.reference, want, rtol=1e-4)
    _, targets = next(known.batches("train", 3))
    np.testing.assert_array_equal(targets.reference, known.train.reference[:3])

    def no_base() -> Any:
        raise AssertionError("computed again")

    again = with_reference(data, model, no_base, tmp_path, KEY, 5)
    np.testing.assert_array_equal(again.train.reference, known.train.reference)
    np.testing.assert_array_equal(again.validation.reference, known.validation.reference)


def test_one_of_several_processes_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that write the same file at once would each rename what the other is writing."""
    data = examples(tmp_path, "prefer")
    model, params = random_gpt(CONFIG)
    for process in (1, 0):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        with_reference(data, model, lambda: params, tmp_path, KEY, 8)
        assert (tmp_path / FILE).exists() == (process == 0)


def test_another_key_is_computed_again(tmp_path: Path) -> None:
    """The numbers of one base beside another, or of other pairs, would be wrong margins without a word."""
    data = examples(tmp_path, "prefer")
    model, params = random_gpt(CONFIG)
    first = with_reference(data, model, lambda: params, tmp_path, KEY, 8).train.reference
    other = random_gpt(CONFIG, seed=1)[1]
    second = with_reference(data, model, lambda: other, tmp_path, KEY | {"base": "4" * 64}, 8).train.reference
    assert np.all(first != second)
    changed = replace(data, train=replace(data.train, examples=data.train.examples[::-1]))
    for again, other_model in ((changed, model), (data, GPT(model.config, "bfloat16"))):
        third = with_reference(again, other_model, lambda: other, tmp_path, KEY | {"base": "4" * 64}, 8)
        assert np.any(third.train.reference != second)


@pytest.mark.parametrize("field", KEY)
def test_each_part_of_the_key_counts(field: str, tmp_path: Path) -> None:
    write_log_probs(tmp_path / FILE, KEY, FOUND)
    read = read_log_probs(tmp_path / FILE, KEY, SIZES)
    assert read is not None and all(np.array_equal(read[split], FOUND[split]) for split in SIZES)
    assert read_log_probs(tmp_path / FILE, KEY | {field: "other"}, SIZES) is None


def test_what_cannot_be_used_is_computed_again(tmp_path: Path) -> None:
    """An absent file, one of fewer pairs, one that was cut, and one with a changed number."""
    path = tmp_path / FILE
    assert read_log_probs(path, KEY, SIZES) is None
    write_log_probs(path, KEY, FOUND)
    assert read_log_probs(path, KEY, SIZES | {"train": 3}) is None
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    assert read_log_probs(path, KEY, SIZES) is None
    path.write_bytes(content[:-4] + np.float32(-7).tobytes())
    assert read_log_probs(path, KEY, SIZES) is None
    path.write_bytes(content)
    assert read_log_probs(path, KEY, SIZES) is not None


def test_a_base_of_nan_is_refused(tmp_path: Path) -> None:
    """And leaves no file."""
    data = examples(tmp_path, "prefer")
    model, params = random_gpt(CONFIG)
    params["norm_final"]["scale"] = params["norm_final"]["scale"].at[0].set(np.nan)
    with pytest.raises(NonFiniteError, match="an answer of pair 1 a log-probability that is not finite"):
        with_reference(data, model, lambda: params, tmp_path, KEY, 8)
    assert not (tmp_path / FILE).exists()


def test_filled_rows_are_left_out(tmp_path: Path) -> None:
    """36 pairs in batches of five."""
    data = examples(tmp_path, "prefer")
    model, params = random_gpt(CONFIG)
    assert of_pairs(model, params, data.batches("train", 5), 36).shape == (36, 2)
