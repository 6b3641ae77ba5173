"""Piece 15: attention and MLP, each after a norm and with a residual connection around it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.config import GPTConfig
from jaxllm.reference.arrays import Array, Params, Vjp, vjp
from jaxllm.reference.layers import mlp
from jaxllm.reference.layers import norm as norm_of
from jaxllm.reference.multi_head import multi_head_attention

from ..piece import Arguments, Function, Piece, Slip
from .random_trees import random_block


def block(params: Params, x: Any, n_heads: int) -> Array:
    """x + attention(norm_1(x)), then that plus mlp(norm_2(it))."""
    return reference.gpt.block(_config(x, n_heads), params, x)


@vjp
def block_vjp(params: Params, x: Any, n_heads: int) -> Vjp:
    """The twin's, without the gradient of its config."""
    out, back = reference.gpt.block_vjp(_config(x, n_heads), params, x)
    return out, lambda dy: (*back(dy)[1:3], None)


def _config(x: Any, n_heads: int) -> Any:
    """The options that the twin reads."""
    return GPTConfig(vocab_size=1, context_length=1, d_model=np.shape(x)[-1], n_layers=1, n_heads=n_heads)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"params": random_block(rng, 2, 3), "x": np.array([[1.0, 3], [2, -1]]), "n_heads": 1}
    for batch, t, h, k, f in ((2, 3, 2, 4, 5), (3, 2, 4, 2, 7), (2, 4, 3, 2, 5)):
        yield {"params": random_block(rng, h * k, f), "x": rng.normal(size=(batch, t, h * k)), "n_heads": h}


class Parts:
    """The parts of a block with its parameters, so that a wrong block is one line."""

    def __init__(self, params: Params, n_heads: int, causal: bool = True) -> None:
        self.params, self.n_heads, self.causal = params, n_heads, causal

    def attention(self, x: Array) -> Array:
        return multi_head_attention(self.params["attention"], x, self.n_heads, causal=self.causal)

    def mlp(self, x: Array) -> Array:
        return mlp(self.params["mlp"], x)

    def norm(self, x: Array, i: int) -> Array:
        return norm_of(self.params[f"norm_{i}"], x)


def _with(wrong: Any, **options: Any) -> Any:
    """A wrong block from a function of its parts and x."""
    return lambda params, x, n_heads: wrong(Parts(params, n_heads, **options), x)


def _in_turn(first: Any, second: Any) -> Any:
    """x -> second(parts, first(parts, x))."""
    return lambda parts, x: second(parts, first(parts, x))


def _attention_half(parts: Parts, x: Array, i: int = 1) -> Array:
    return x + parts.attention(parts.norm(x, i))


def _mlp_half(parts: Parts, x: Array, i: int = 2) -> Array:
    return x + parts.mlp(parts.norm(x, i))


def _attention_only(parts: Parts, x: Array) -> Array:
    return parts.attention(parts.norm(x, 1))


def _mlp_only(parts: Parts, x: Array) -> Array:
    return parts.mlp(parts.norm(x, 2))


def _around_normed(parts: Parts, x: Array) -> Array:
    return parts.norm(x, 1) + parts.attention(parts.norm(x, 1))


def _mlp_around_normed(parts: Parts, x: Array) -> Array:
    return parts.norm(x, 2) + parts.mlp(parts.norm(x, 2))


_RESIDUAL_SLIPS = (
    Slip(
        "no-residual",
        "equals the block without residual connections",
        "What comes in is lost, and the gradient has to pass through every part. Deep models hardly learn so.",
        "Follow x from the beginning to the end: where is it added?",
        _with(_in_turn(_attention_only, _mlp_only)),
    ),
    Slip(
        "no-residual-around-attention",
        "equals the block without the residual connection around the attention",
        "What comes in is lost after the attention. The gradient has to pass through it too.",
        "Follow x from the beginning to the end: where is it added?",
        _with(_in_turn(_attention_only, _mlp_half)),
    ),
    Slip(
        "no-residual-around-mlp",
        "equals the block without the residual connection around the MLP",
        "What comes in is lost after the MLP. The gradient has to pass through it too.",
        "Follow x from the beginning to the end: where is it added?",
        _with(_in_turn(_attention_half, _mlp_only)),
    ),
    Slip(
        "residual-of-normed",
        "equals the block with the normalised x added in both halves, where x itself must be added",
        "The path from the first to the last layer passes through a norm in each block. It should have nothing on it.",
        "Look at what exactly is added to the result of the attention.",
        _with(_in_turn(_around_normed, _mlp_around_normed)),
    ),
    Slip(
        "residual-of-normed-around-attention",
        "equals the block with the normalised x added to the attention, where x itself must be added",
        "The path from the first to the last layer passes through a norm. It should have nothing on it.",
        "Look at what exactly is added to the result of the attention.",
        _with(_in_turn(_around_normed, _mlp_half)),
    ),
    Slip(
        "residual-of-normed-around-mlp",
        "equals the block with the normalised x added to the MLP, where x itself must be added",
        "The path from the first to the last layer passes through a norm. It should have nothing on it.",
        "Look at what exactly is added to the result of the MLP.",
        _with(_in_turn(_attention_half, _mlp_around_normed)),
    ),
    Slip(
        "residual-from-input",
        "equals the block whose second residual adds the x that came in, not the x after the attention",
        "The attention then acts only through the MLP. Both halves should add to the same stream.",
        "Look at which x is added to the result of the MLP.",
        _with(lambda parts, x: x + _mlp_only(parts, _attention_half(parts, x))),
    ),
)
_ORDER_SLIPS = (
    Slip(
        "mlp-reads-input",
        "equals attention and MLP side by side: the MLP reads the x that came in, not the x after the attention",
        "Some models are built so, but not GPT-2. There the MLP works on what the attention has gathered.",
        "Look at what the second norm is applied to.",
        _with(lambda parts, x: _attention_half(parts, x) + _mlp_only(parts, x)),
    ),
    Slip(
        "mlp-first",
        "equals the block with the MLP before the attention",
        "The order is attention, then MLP.",
        "Look at the order of the halves.",
        _with(_in_turn(_mlp_half, _attention_half)),
    ),
    Slip(
        "no-mlp",
        "equals the first half of the block: the MLP has no part in it",
        "Attention moves numbers between words. The MLP works on each word, and most parameters are there.",
        "Look at whether all entries of `params` are used.",
        _with(_attention_half),
    ),
    Slip(
        "no-attention",
        "equals the second half of the block: the attention has no part in it",
        "Only attention moves numbers between words. Without it each word is alone.",
        "Look at whether all entries of `params` are used.",
        _with(_mlp_half),
    ),
    Slip(
        "not-causal",
        "equals the block without the causal mask",
        "Each word sees the words after it, which are those to be predicted.",
        "Change the last word: does an earlier result change?",
        _with(_in_turn(_attention_half, _mlp_half), causal=False),
    ),
    Slip(
        "one-head",
        "equals the block with one head",
        "n_heads has no effect. One head makes one set of weights for all features.",
        "Look at where the number of heads is used.",
        lambda params, x, n_heads: block(params, x, 1),
    ),
)
_NORM_SLIPS = (
    Slip(
        "post-norm",
        "equals the block with each norm after its residual connection (post-norm)",
        "That is how the first transformer was built. GPT-2 normalises what goes into attention and MLP, and such "
        "models are easier to train when they are deep.",
        "Look at the order of norm and residual connection.",
        _with(
            _in_turn(
                lambda parts, x: parts.norm(x + parts.attention(x), 1),
                lambda parts, x: parts.norm(x + parts.mlp(x), 2),
            )
        ),
    ),
    Slip(
        "norm-of-output",
        "equals the block with the norms on the results of attention and MLP, not on their inputs",
        "The inputs grow from block to block, and softmax and GELU see ever larger numbers.",
        "Look at what each norm is applied to.",
        _with(
            _in_turn(
                lambda parts, x: x + parts.norm(parts.attention(x), 1),
                lambda parts, x: x + parts.norm(parts.mlp(x), 2),
            )
        ),
    ),
    Slip(
        "no-norms",
        "equals the block without norms",
        "The inputs grow from block to block, and softmax and GELU see ever larger numbers.",
        "Look at whether all entries of `params` are used.",
        _with(_in_turn(lambda parts, x: x + parts.attention(x), lambda parts, x: x + parts.mlp(x))),
    ),
    Slip(
        "no-first-norm",
        "equals the block without the norm before the attention",
        "The inputs of the attention grow from block to block.",
        "Look at whether all entries of `params` are used.",
        _with(_in_turn(lambda parts, x: x + parts.attention(x), _mlp_half)),
    ),
    Slip(
        "no-second-norm",
        "equals the block without the norm before the MLP",
        "The inputs of the MLP grow from block to block.",
        "Look at whether all entries of `params` are used.",
        _with(_in_turn(_attention_half, lambda parts, x: x + parts.mlp(x))),
    ),
    Slip(
        "first-norm-twice",
        "equals the block with norm_1 used in both halves",
        "norm_2 has no effect. Before training all norms are equal, so this goes unnoticed.",
        "Look at which norm each half uses.",
        _with(_in_turn(_attention_half, lambda parts, x: _mlp_half(parts, x, 1))),
    ),
    Slip(
        "second-norm-twice",
        "equals the block with norm_2 used in both halves",
        "norm_1 has no effect. Before training all norms are equal, so this goes unnoticed.",
        "Look at which norm each half uses.",
        _with(_in_turn(lambda parts, x: _attention_half(parts, x, 2), _mlp_half)),
    ),
    Slip(
        "norms-swapped",
        "equals the block with its two norms swapped",
        "norm_1 belongs to the attention, norm_2 to the MLP. Before training all norms are equal, so this goes "
        "unnoticed.",
        "Look at which norm each half uses.",
        _with(
            _in_turn(lambda parts, x: _attention_half(parts, x, 2), lambda parts, x: _mlp_half(parts, x, 1)),
        ),
    ),
)

PIECE = Piece(
    "block",
    "The block",
    "Attention and MLP each read a normalised copy of the residual stream, and add to it.",
    (Function("block", block, _cases, (*_RESIDUAL_SLIPS, *_ORDER_SLIPS, *_NORM_SLIPS), block_vjp, "T D"),),
)
