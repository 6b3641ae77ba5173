"""Likelihoods of continuations, against the NumPy reference reading one text at a time."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from models import TINY, random_gpt

from jaxllm import InputError, reference
from jaxllm.tokenizers import BPETokenizer
from train.tasks.likelihood import Completion, batches, encode_completion, likelihoods, n_cut

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
CONFIG = replace(TINY, context_length=16, n_layers=1)


def pairs() -> list[Completion]:
    """Of all lengths, some longer than the context, and some that differ in their last id only."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 2), (1, 16), (9, 4), (12, 5), (30, 3), (20, 16)]
    drawn = [Completion(*(tuple(map(int, rng.integers(17, size=n))) for n in size)) for size in sizes]
    return [*drawn, *(Completion((1, 2, 3), (i,)) for i in range(5)), Completion((1, 2), (3, 4))]


def by_reference(params: Any, pair: Completion) -> tuple[float, bool]:
    """The sum over the continuation, read after the last ids that fit, by the reference's softmax."""
    ids = [*pair.context, *pair.continuation][-CONFIG.context_length - 1 :]
    n = len(pair.continuation)
    logits = reference.gpt.forward(CONFIG, params, np.array([ids[:-1]]))[0, -n:]
    losses = reference.loss.token_losses(logits, np.array(ids[-n:]))
    return -float(losses.sum()), bool((logits.argmax(-1) == ids[-n:]).all())


@pytest.mark.parametrize("most_tokens", [40, 1000])
def test_likelihoods_are_those_of_the_reference(most_tokens: int) -> None:
    """In the order of the pairs, whichever share a batch or a row."""
    model, params = random_gpt(CONFIG)
    found, done = likelihoods(model, params, most_tokens), []
    want = [by_reference(jax.device_get(params), pair) for pair in pairs()]
    got = found(pairs(), done.append)
    np.testing.assert_allclose([one.log_prob for one in got], [w for w, _ in want], rtol=1e-5)
    assert [one.greedy for one in got] == [w for _, w in want]
    assert done == sorted(done) and done[-1] == len(pairs())


def test_what_the_model_would_write_is_greedy() -> None:
    model, params = random_gpt(CONFIG)
    row = [3, 5]
    for _ in range(4):
        row.append(int(reference.gpt.forward(CONFIG, jax.device_get(params), np.array([row]))[0, -1].argmax()))
    written = Completion((3, 5), tuple(row[2:]))
    others = [written._replace(continuation=(*written.continuation[:-1], i)) for i in range(17)]
    greedy = [one.greedy for one in likelihoods(model, params, 100)([written, *others], lambda n: None)]
    assert greedy == [True, *(i == row[-1] for i in range(17))]


def test_batches_of_a_length_have_one_shape_and_no_more_tokens_than_asked() -> None:
    """So that one program is compiled for each; and answers of a single id to one question share a row."""
    found = list(batches(pairs(), CONFIG.context_length, 40))
    shapes = {length: {b.targets.shape for b in found if b.inputs.shape[1] == length} for length in (8, 12, 16)}
    assert {length: len(of_length) for length, of_length in shapes.items()} == {8: 1, 12: 1, 16: 1}
    assert all(b.inputs.size <= 40 for b in found)
    assert sorted(i for b in found for i in b.places) == list(range(len(pairs())))
    rows = {i: (n, b.places[i][0]) for n, b in enumerate(found) for i in b.places}
    assert len({rows[i] for i in (7, 8, 9, 10, 11, 12)}) == 1 and rows[0] != rows[7]


def test_what_does_not_fit_is_cut_at_the_left() -> None:
    assert [n_cut(Completion((0,) * n, (0, 0)), 16) for n in (1, 15, 16, 20)] == [0, 0, 1, 5]


def test_both_texts_are_encoded_as_one() -> None:
    """White space between them counts to the continuation, and merges across the border are those of the whole text."""
    tokenizer = BPETokenizer([*(bytes([i]) for i in range(256)), b" b", b"ab"])
    parts = [("a", " b"), ("a ", "b"), ("a", "b"), ("", "b"), (" \n", "b"), ("a", "bb")]
    got = [encode_completion(tokenizer.encode, *one) for one in parts]
    assert got == [
        ((97,), (256,)), ((97,), (256,)), ((97,), ()), ((), (98,)), ((), (32, 10, 98)), ((97,), (98,)),
    ]  # fmt: skip


@pytest.mark.parametrize("pair", [Completion((), (1,)), Completion((1,), ()), Completion((1,), (1,) * 17)])
def test_a_pair_needs_both_parts_and_a_continuation_that_fits(pair: Completion) -> None:
    with pytest.raises(ValueError, match="needs a context, and a continuation of 1 to 16 ids"):
        list(batches([pair], 16, 100))


def test_a_model_that_sees_what_it_predicts_is_refused() -> None:
    model, params = random_gpt(replace(CONFIG, visible=lambda t, s, a, b: s < 4))
    with pytest.raises(InputError, match="so that a text has no likelihood"):
        likelihoods(model, params, 100)


def test_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="which predicts no tokens"):
        likelihoods(*random_gpt(replace(CONFIG, n_classes=3)), 100)
