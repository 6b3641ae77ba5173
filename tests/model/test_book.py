"""Figures printed in Raschka's "Build a Large Language Model (From Scratch)" and its notebooks."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.data import input_target_pairs
from jaxllm.layers import softmax
from jaxllm.loss import cross_entropy
from jaxllm.sampling import top_k
from jaxllm.tokenizers import BPETokenizer, WordTokenizer
from jaxllm.tokenizers.word import split_words

Read = Callable[[str], str]


def test_word_tokenizer(shared_text: Read) -> None:
    text = shared_text("the-verdict.txt")
    assert len(text) == 20_479
    assert len(split_words(text)) == 4_690
    tok = WordTokenizer.train(text)
    assert tok.vocab_size == 1_132
    sentence = '"It\'s the last he painted, you know," Mrs. Gisburn said with pardonable pride.'
    ids = [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754, 793, 7]
    assert tok.encode(sentence) == ids
    two = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."
    ids = [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]
    assert tok.encode(two) == ids
    assert tok.decode(ids) == "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."


def test_bpe_learns_the_encyclopedias_example() -> None:
    tok = BPETokenizer.train("aaabdaaabac", vocab_size=259, special_tokens=())
    assert tok.tokens[256:] == (b"aa", b"ab", b"aaab")
    assert tok.encode("aaabdaaabac") == [258, 100, 258, 97, 99]


def test_gpt2_tokens(gpt2: BPETokenizer, shared_text: Read) -> None:
    text = shared_text("the-verdict.txt")
    ids = gpt2.encode(text)
    assert len(ids) == 5_145
    inputs, targets = input_target_pairs(ids, context_length=4, stride=1)
    assert inputs[0].tolist() == [40, 367, 2885, 1464]
    assert targets[0].tolist() == [367, 2885, 1464, 1807]
    inputs, targets = input_target_pairs(ids, context_length=4, stride=4)
    assert inputs[1].tolist() == [1807, 3619, 402, 271]
    assert targets[1].tolist() == [3619, 402, 271, 10899]


def test_cross_entropy() -> None:
    """Six log-probabilities of targets, as logits of two tokens; the other token has the rest of the probability."""
    log_p = np.array([-9.5042, -10.3796, -11.3677, -11.4798, -9.7764, -12.2561])
    logits = jnp.asarray(np.stack([log_p, np.log1p(-np.exp(log_p))], -1))
    loss = cross_entropy(logits, jnp.zeros(6, int))
    assert loss == pytest.approx(10.7940, abs=5e-5)
    assert np.exp(loss) == pytest.approx(48725.82, rel=1e-4)


def test_top_k() -> None:
    logits = jnp.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
    expected = [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0]
    np.testing.assert_allclose(softmax(top_k(logits, 3)), expected, atol=5e-5)
