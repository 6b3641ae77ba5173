"""Piece 15: attention and MLP, each after a norm and with a residual connection around it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np

from jaxllm import reference
from jaxllm.config import GPTConfig
from jaxllm.reference.arrays import Array, Params, Vjp, vjp
from jaxllm.reference.layers import mlp, norm
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


Part = Callable[[Array], Array]
AddsTo = Literal["x", "normed", "nothing", "input"]
Place = Literal["before", "after", "of-output", "nowhere"]


def _half(x: Array, reads: Array, part: Part, norm: Part, place: Place, adds_to: AddsTo, first: Array) -> Array:
    """x + part(norm(reads)), with the norm in another place or something else in place of x."""
    normed = norm(reads) if place == "before" else reads
    out = part(normed)
    out = norm(out) if place == "of-output" else out
    out = out + {"x": x, "normed": normed, "nothing": 0, "input": first}[adds_to]
    return norm(out) if place == "after" else out


def varied_block(
    params: Params, x: Array, n_heads: int, *, attention_adds_to: AddsTo = "x", mlp_adds_to: AddsTo = "x",
    attention_norm: Place = "before", mlp_norm: Place = "before", norms: tuple[str, str] = ("norm_1", "norm_2"),
    mlp_reads_input: bool = False, halves: tuple[str, ...] = ("attention", "mlp"), causal: bool = True,
    one_head: bool = False,
) -> Array:  # fmt: skip
    """The block with one of its parts changed."""
    heads, given = 1 if one_head else n_heads, x
    parts = {
        "attention": lambda y: multi_head_attention(params["attention"], y, heads, causal=causal),
        "mlp": lambda y: mlp(params["mlp"], y),
    }
    adds_to = {"attention": attention_adds_to, "mlp": mlp_adds_to}
    place = {"attention": attention_norm, "mlp": mlp_norm}
    for name in halves:
        norm_params = params[norms[0] if name == "attention" else norms[1]]
        reads = given if name == "mlp" and mlp_reads_input else x
        x = _half(x, reads, parts[name], partial(norm, norm_params), place[name], adds_to[name], given)
    return x


_RESIDUAL_SLIPS = (
    Slip(
        "no-residual",
        "equals the block without residual connections",
        "What comes in is lost, and the gradient has to pass through every part. Deep models hardly learn so.",
        "Follow x from the beginning to the end: where is it added?",
        partial(varied_block, attention_adds_to="nothing", mlp_adds_to="nothing"),
    ),
    Slip(
        "no-residual-around-attention",
        "equals the block without the residual connection around the attention",
        "What comes in is lost after the attention. The gradient has to pass through it too.",
        "Follow x from the beginning to the end: where is it added?",
        partial(varied_block, attention_adds_to="nothing"),
    ),
    Slip(
        "no-residual-around-mlp",
        "equals the block without the residual connection around the MLP",
        "What comes in is lost after the MLP. The gradient has to pass through it too.",
        "Follow x from the beginning to the end: where is it added?",
        partial(varied_block, mlp_adds_to="nothing"),
    ),
    Slip(
        "residual-of-normed",
        "equals the block with the normalised x added in both halves, where x itself must be added",
        "The path from the first to the last layer passes through a norm in each block. It should have nothing on it.",
        "Look at what exactly is added to the result of the attention.",
        partial(varied_block, attention_adds_to="normed", mlp_adds_to="normed"),
    ),
    Slip(
        "residual-of-normed-around-attention",
        "equals the block with the normalised x added to the attention, where x itself must be added",
        "The path from the first to the last layer passes through a norm. It should have nothing on it.",
        "Look at what exactly is added to the result of the attention.",
        partial(varied_block, attention_adds_to="normed"),
    ),
    Slip(
        "residual-of-normed-around-mlp",
        "equals the block with the normalised x added to the MLP, where x itself must be added",
        "The path from the first to the last layer passes through a norm. It should have nothing on it.",
        "Look at what exactly is added to the result of the MLP.",
        partial(varied_block, mlp_adds_to="normed"),
    ),
    Slip(
        "residual-from-input",
        "equals the block whose second residual adds the x that came in, not the x after the attention",
        "The attention then acts only through the MLP. Both halves should add to the same stream.",
        "Look at which x is added to the result of the MLP.",
        partial(varied_block, mlp_adds_to="input"),
    ),
)
_ORDER_SLIPS = (
    Slip(
        "mlp-reads-input",
        "equals attention and MLP side by side: the MLP reads the x that came in, not the x after the attention",
        "Some models are built so, but not GPT-2. There the MLP works on what the attention has gathered.",
        "Look at what the second norm is applied to.",
        partial(varied_block, mlp_reads_input=True),
    ),
    Slip(
        "mlp-first",
        "equals the block with the MLP before the attention",
        "The order is attention, then MLP. The MLP then works on what the attention has not gathered yet.",
        "Look at the order of the halves.",
        partial(varied_block, halves=("mlp", "attention")),
    ),
    Slip(
        "no-mlp",
        "equals the first half of the block: the MLP has no part in it",
        "Attention moves numbers between words. The MLP works on each word, and most parameters are there.",
        "Look at whether all entries of `params` are used.",
        partial(varied_block, halves=("attention",)),
    ),
    Slip(
        "no-attention",
        "equals the second half of the block: the attention has no part in it",
        "Only attention moves numbers between words. Without it each word is alone.",
        "Look at whether all entries of `params` are used.",
        partial(varied_block, halves=("mlp",)),
    ),
    Slip(
        "not-causal",
        "equals the block without the causal mask",
        "Each word sees the words after it, which are those to be predicted. Training would seem to succeed, and "
        "generation would fail.",
        "Change the last word: does an earlier result change?",
        partial(varied_block, causal=False),
    ),
    Slip(
        "one-head",
        "equals the block with one head",
        "n_heads has no effect. One head makes one set of weights for all features.",
        "Look at where the number of heads is used.",
        partial(varied_block, one_head=True),
    ),
)
_NORM_SLIPS = (
    Slip(
        "post-norm",
        "equals the block with each norm after its residual connection (post-norm)",
        "That is how the first transformer was built. GPT-2 normalises what goes into attention and MLP, and such "
        "models are easier to train when they are deep.",
        "Look at the order of norm and residual connection.",
        partial(varied_block, attention_norm="after", mlp_norm="after"),
    ),
    Slip(
        "norm-of-output",
        "equals the block with the norms on the results of attention and MLP, not on their inputs",
        "The inputs grow from block to block, and softmax and GELU see ever larger numbers. What is added to the "
        "stream, on the other hand, is held to one size.",
        "Look at what each norm is applied to.",
        partial(varied_block, attention_norm="of-output", mlp_norm="of-output"),
    ),
    Slip(
        "no-norms",
        "equals the block without norms",
        "The inputs grow from block to block, and softmax and GELU see ever larger numbers. Deep models are then hard "
        "to train.",
        "Look at whether all entries of `params` are used.",
        partial(varied_block, attention_norm="nowhere", mlp_norm="nowhere"),
    ),
    Slip(
        "no-first-norm",
        "equals the block without the norm before the attention",
        "The inputs of the attention grow from block to block. Their softmax becomes ever sharper.",
        "Look at whether all entries of `params` are used.",
        partial(varied_block, attention_norm="nowhere"),
    ),
    Slip(
        "no-second-norm",
        "equals the block without the norm before the MLP",
        "The inputs of the MLP grow from block to block. What it adds becomes ever larger.",
        "Look at whether all entries of `params` are used.",
        partial(varied_block, mlp_norm="nowhere"),
    ),
    Slip(
        "first-norm-twice",
        "equals the block with norm_1 used in both halves",
        "norm_2 has no effect. Before training all norms are equal, so this goes unnoticed.",
        "Look at which norm each half uses.",
        partial(varied_block, norms=("norm_1", "norm_1")),
    ),
    Slip(
        "second-norm-twice",
        "equals the block with norm_2 used in both halves",
        "norm_1 has no effect. Before training all norms are equal, so this goes unnoticed.",
        "Look at which norm each half uses.",
        partial(varied_block, norms=("norm_2", "norm_2")),
    ),
    Slip(
        "norms-swapped",
        "equals the block with its two norms swapped",
        "norm_1 belongs to the attention, norm_2 to the MLP. Before training all norms are equal, so this goes "
        "unnoticed.",
        "Look at which norm each half uses.",
        partial(varied_block, norms=("norm_2", "norm_1")),
    ),
)

PIECE = Piece(
    "block",
    "The block",
    "Attention and MLP each read a normalised copy of the residual stream, and add to it.",
    (Function("block", block, _cases, (*_RESIDUAL_SLIPS, *_ORDER_SLIPS, *_NORM_SLIPS), block_vjp, "T D"),),
)
