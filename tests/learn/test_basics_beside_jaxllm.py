"""The right functions of the pieces around attention agree with jaxllm's own, and solutions in JAX and torch with both."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned import agree, calls, solution

import jaxllm
from jaxllm import embeddings, layers, loss, sampling
from jaxllm.compare.tolerances import arithmetic
from jaxllm.tokenizers import BPETokenizer, textbook
from train.learn.course import piece
from train.learn.piece import Function
from train.learn.pieces import byte_pair_tokenizer

pytestmark = pytest.mark.newest

NAMES = (
    "word_tokenizer", "char_tokenizer", "byte_pair_tokenizer", "input_target_pairs", "token_embedding",
    "position_embedding", "linear_map", "cross_entropy", "training_step", "sampling",
)  # fmt: skip
FUNCTIONS = [pytest.param(name, f, id=f"{name}-{f.name}") for name in NAMES for f in piece(name).functions]


def our_positions(x: Any, table: Any) -> Any:
    return x + embeddings.learned_positions(table, x.shape[-2])


def our_clip(gradients: Any, limit: float) -> Any:
    return optax.clip_by_global_norm(limit).update(gradients, optax.EmptyState())[0]


def our_adamw(
    p: Any, g: Any, m: Any, v: Any, step: int, rate: float, b1: float, b2: float, eps: float, wd: float
) -> Any:
    """Optax's parts in the order in which `train.optimizer.adamw` chains them, from given moments."""
    state = optax.ScaleByAdamState(jnp.asarray(step - 1, jnp.int32), m, v)
    direction, after = optax.scale_by_adam(b1, b2, eps).update(g, state)
    decayed, _ = optax.add_decayed_weights(wd).update(direction, optax.EmptyState(), p)
    return p - rate * decayed, after.mu, after.nu


def our_probabilities(logits: Any, temperature: float, top_k: int | None) -> Any:
    if temperature == 0:
        return jax.nn.one_hot(logits.argmax(), len(logits), dtype=logits.dtype)
    scaled = sampling.scale_temperature(logits, temperature)
    return layers.softmax(scaled if top_k is None else sampling.top_k(scaled, top_k))


OURS: dict[str, Callable[..., Any]] = {
    "token_embedding": embeddings.token_embedding, "add_learned_positions": our_positions,
    "sinusoidal_positions": embeddings.sinusoidal_positions, "linear": layers.linear,
    "cross_entropy": loss.cross_entropy, "clip_gradients": our_clip, "adamw_update": our_adamw,
    "next_token_probabilities": our_probabilities,
}  # fmt: skip


def converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """A value with its arrays in another library's type."""
    if isinstance(value, dict):
        return {name: converted(part, convert) for name, part in value.items()}
    return convert(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(("name", "function"), [p for p in FUNCTIONS if p.values[1].name in OURS])  # type: ignore[attr-defined]
def test_jaxllm_has_the_same_numbers(name: str, function: Function) -> None:
    with arithmetic("float64"), jaxllm.fast.off():
        for arguments in calls(function):
            got = OURS[function.name](*(converted(value, jnp.asarray) for value in arguments))
            assert agree(got, function.right(*arguments)), arguments


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_solutions_in_jax_are_right(name: str, function: Function) -> None:
    theirs = getattr(solution("jax", name), function.name)
    with arithmetic("float64"):
        for arguments in calls(function):
            got = theirs(*(converted(value, jnp.asarray) for value in arguments))
            assert agree(got, function.right(*arguments)), arguments


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_solutions_in_torch_are_right(name: str, function: Function) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = getattr(solution("torch", name), function.name)
    for arguments in calls(function):
        got = theirs(*(converted(value, lambda x: torch.tensor(x)) for value in arguments))
        assert agree(got, function.right(*arguments)), arguments


@pytest.mark.parametrize("text", ["lowlowerlowestnewestwidest", "aaaaabaaaabaab", "abcabcabdabcd"])
def test_byte_pairs_are_those_of_our_tokenizer(text: str) -> None:
    """A text of letters alone is one piece of GPT-2's pattern."""
    merges = byte_pair_tokenizer.learn_merges(text, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer merges than asked for
        ours = BPETokenizer.train(text, 256 + 8, special_tokens=())
    assert list(ours.tokens) == textbook.tokens_of(merges)
    for other in (text, text[::-1], "lowermost"):
        assert byte_pair_tokenizer.encode(other, merges) == ours.encode(other)
    for ids in ([256, 97, 257], [195, 98], list(range(len(ours.tokens)))):
        assert byte_pair_tokenizer.decode(ids, merges) == ours.decode(ids)


def test_a_draw_follows_the_probabilities() -> None:
    probabilities = np.array([0.125, 0.0, 0.5, 0.375])
    (right,) = (function.right for function in piece("sampling").functions if function.name == "sample")
    drawn = np.bincount([right(probabilities, u) for u in np.arange(0, 1, 1 / 64)], minlength=4)
    assert drawn.tolist() == [8, 0, 32, 24]


def test_all_pieces_say_what_they_teach() -> None:
    for name in NAMES:
        assert piece(name).name == name and re.fullmatch(r".*[a-z1]\.", piece(name).teaches), name
