"""The numbers in the prose of lessons 8 to 16; those of the examples are in test_lessons.py."""

import math

import numpy as np
import pytest

from jaxllm import reference
from train.learn.start import lesson

pytestmark = pytest.mark.newest

APPLE, ORANGE = np.array([1.0, 1]), np.array([2.0, 0])
WORDS = np.array([APPLE, ORANGE])


def _weights(*scores: float) -> list[str]:
    return [f"{weight:.4f}" for weight in reference.layers.softmax(np.array(scores))]


def _self_attention() -> list[str]:
    q, k = WORDS @ [[0], [1]], WORDS @ [[1], [0]]
    weights = " and ".join(_weights(*(q @ k.T)[0]))
    return [f"queries are {q[0, 0]:.0f} and {q[1, 0]:.0f}, the keys {k[0, 0]:.0f} and {k[1, 0]:.0f}", weights]


def _heads() -> list[str]:
    small, large = _weights(2, 4)
    return [f"{small} * 1 + {large} * 2", f"{float(small) + 2 * float(large):.4f}"]


def _gelu() -> list[str]:
    inner = 1 + 0.044715
    times = math.sqrt(2 / math.pi) * inner
    numbers = (inner, math.sqrt(2 / math.pi), times, math.tanh(times), (1 + math.tanh(times)) / 2)
    return [f"{numbers[0]:.6f}", *(f"{number:.4f}" for number in numbers[1:])]


def _block() -> list[str]:
    added = reference.layers.gelu_tanh(np.array([2.0, -2]))
    return [f"{added[0]:.2f} and {added[1]:.2f}"]


NUMBERS = {
    "simple_attention": [f"1*1 + 1*1 = {APPLE @ APPLE:.0f}", f"1*2 + 1*0 = {APPLE @ ORANGE:.0f}"],
    "self_attention": _self_attention(),
    "scaled_dot_product": [" and ".join(_weights(1, 0)), " and ".join(_weights(2, 0))],
    "causal_attention": [" and ".join(_weights(0, 1))],
    "multi_head_attention": _heads(),
    "layer_norm": [f"sqrt(1 + 3) = {math.sqrt(1 + 3):.0f}"],
    "mlp": [*_gelu(), ", ".join(f"{y:.4f}" for y in reference.layers.gelu_tanh(np.array([1.0, 2, -1])))],
    "block": _block(),
    "gpt": ["(0, 1) + (0, 2) = (0, 3)", "(2, 0) + (1, 0) = (3, 0)"],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_in_the_prose_are_right(name: str) -> None:
    text = " ".join(lesson(name, "numpy").split())
    assert [number for number in NUMBERS[name] if number not in text] == []


@pytest.mark.parametrize("name", NUMBERS)
def test_two_of_the_three_languages_differ_in_two_words_only(name: str) -> None:
    numpy, torch = lesson(name, "numpy"), lesson(name, "torch")
    assert numpy.replace("import numpy as np", "import torch").replace("np.ndarray", "torch.Tensor") == torch
