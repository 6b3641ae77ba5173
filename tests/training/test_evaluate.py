"""The validation loss over a split: batches no larger than a microbatch, and losses fetched in order."""

import math
from typing import Any

import numpy as np
import pytest
from models import TINY

import train.evaluate
from jaxllm import GPT
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from train.config import ModelConfig, RunConfig, TrainConfig
from train.evaluate import AHEAD, Abandoned, Scores, evaluator, score

pytestmark = pytest.mark.newest


class Sum:
    """A batch's loss on its way from the device."""

    fetched = 0

    def __float__(self) -> float:
        Sum.fetched += 1
        return 8.0


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(rows, length, weighted tokens, sums fetched so far) of each batch evaluated."""
    seen: list[Any] = []

    def step(_: Any, inputs: Any, targets: Any, weights: Any) -> Sum:
        seen.append((*np.shape(inputs), int(np.sum(weights)), Sum.fetched))
        return Sum()

    monkeypatch.setattr(train.evaluate, "make_eval_step", lambda *_: step)
    monkeypatch.setattr(Sum, "fetched", 0)
    return seen


def config(batch_size: int, accumulation: int) -> RunConfig:
    model = ModelConfig(vocab_size=17, context_length=8, d_model=8, n_layers=1, n_heads=2)
    return RunConfig(model=model, train=TrainConfig(batch_size=batch_size, grad_accumulation=accumulation))


@pytest.mark.parametrize(("batch_size", "accumulation", "rows"), [(6, 1, 6), (6, 3, 2), (6, 6, 1)])
def test_a_batch_is_no_larger_than_a_microbatch(
    batch_size: int, accumulation: int, rows: int, batches: list[Any]
) -> None:
    """Otherwise evaluation could run out of memory where training does not."""
    loss = evaluator(GPT(TINY), config(batch_size, accumulation))(None, np.arange(98) % 17)
    assert {shape[0] for shape in batches} == {rows} and {shape[1] for shape in batches} == {8}
    assert sum(tokens for *_, tokens, _ in batches) == 97
    assert loss == pytest.approx(8.0 * len(batches) / 97)


def test_so_many_batches_are_under_way_and_no_more(batches: list[Any]) -> None:
    evaluator(GPT(TINY), config(1, 1))(None, np.zeros(1 + 8 * (AHEAD + 5), np.int32))
    assert [fetched for *_, fetched in batches] == [0] * (AHEAD + 1) + [1, 2, 3, 4]


@pytest.mark.parametrize("batches_done", [0, 3])
def test_it_ends_as_soon_as_it_is_asked_to(batches_done: int, batches: list[Any]) -> None:
    evaluate = evaluator(GPT(TINY), config(1, 1), lambda: len(batches) == batches_done)
    with pytest.raises(Abandoned):
        evaluate(None, np.zeros(100, np.int32))
    assert len(batches) == batches_done


def test_a_split_shorter_than_the_context_is_evaluated_in_its_length(batches: list[Any]) -> None:
    for n, length in ((2, 1), (8, 7), (9, 8), (10, 8)):
        batches.clear()
        evaluator(GPT(TINY), config(1, 1))(None, np.zeros(n, np.int32))
        assert {shape[1] for shape in batches} == {length} and sum(b[2] for b in batches) == n - 1


def test_bits_are_of_the_bytes_behind_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is not a target, and the text may be decoded in parts."""
    monkeypatch.setattr(train.evaluate, "CHUNK", 2)
    tokenizer = BPETokenizer([*(bytes([i]) for i in range(256)), b"abc"])
    ids = np.array([256, 97, 256, 98, 256, 256])
    scores = score(2.0, ids, tokenizer)
    assert (scores.n_targets, scores.n_bytes) == (5, 1 + 3 + 1 + 3 + 3)
    assert scores.bits_per_byte == pytest.approx(2.0 * 5 / 11 / math.log(2))
    assert score(1.0, np.array([0, 1]), CharTokenizer("aé")).n_bytes == 2
    assert score(1.0, np.array([0, 1]), WordTokenizer(["a"])).bits_per_byte is None


def test_a_loss_of_0_and_one_beyond_all_numbers() -> None:
    assert Scores(0.0, 5, 5).perplexity == 1 and Scores(0.0, 5, 5).bits_per_byte == 0.0
    assert Scores(800.0, 5, 5).perplexity == math.inf
    assert Scores(1.0, 5, 0).bits_per_byte is None  # of tokens without any text
