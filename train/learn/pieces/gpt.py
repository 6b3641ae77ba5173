"""Piece 16: embeddings, blocks, a final norm and the head."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.config import GPTConfig
from jaxllm.reference.arrays import Array, Params, Vjp, vjp
from jaxllm.reference.layers import norm, softmax

from ..piece import Arguments, Function, Piece, Slip
from .block import Parts, block
from .random_trees import random_gpt


def gpt(params: Params, tokens: Any, n_heads: int) -> Array:
    """The twin, with the sizes that the parameters have: logits [B, T, V]."""
    return reference.gpt.forward(_config(params, n_heads), params, tokens)


@vjp
def gpt_vjp(params: Params, tokens: Any, n_heads: int) -> Vjp:
    """The twin's, without the gradient of its config."""
    out, back = reference.gpt.forward_vjp(_config(params, n_heads), params, tokens)
    return out, lambda dy: (back(dy)[1], None, None)


def _config(params: Params, n_heads: int) -> Any:
    vocab_size, d_model = np.shape(params["token_embedding"]["table"])
    context_length = len(params["position_embedding"]["table"])
    return GPTConfig(vocab_size, context_length, d_model=d_model, n_layers=_n_layers(params), n_heads=n_heads)


def _n_layers(params: Params) -> int:
    return sum(name.startswith("block_") for name in params)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"params": random_gpt(rng, 3, 4, 2, 1, 3), "tokens": np.array([[2, 0, 2]]), "n_heads": 1}
    for b, t, h, k, layers, v, c, f in ((2, 3, 2, 4, 2, 7, 5, 6), (3, 5, 3, 2, 3, 11, 7, 9), (4, 2, 2, 3, 3, 5, 6, 7)):
        params = random_gpt(rng, v, c, h * k, layers, f)
        yield {"params": params, "tokens": rng.integers(v, size=(b, t)), "n_heads": h}


def _positions(params: Params, length: int) -> Array:
    table: Array = params["position_embedding"]["table"]
    return table[:length]


def _in_order(params: Params) -> list[int]:
    return [*range(_n_layers(params))]


def _tied_head(params: Params, x: Array) -> Array:
    return x @ params["token_embedding"]["table"].T


def _final_norm(params: Params, x: Array) -> Array:
    return norm(params["norm_final"], x)


def _with(
    positions: Callable[..., Any] = lambda params, tokens: _positions(params, tokens.shape[-1]),
    scale: Callable[[int], float] = lambda d_model: 1.0,
    order: Callable[[Params], list[int]] = _in_order,
    one_block: Callable[[Params, Array, int], Array] = block,
    final: Callable[[Params, Array], Array] = _final_norm,
    head: Callable[[Params, Array], Array] = _tied_head,
) -> Callable[[Params, Array, int], Array]:
    """The GPT with one part replaced."""

    def wrong(params: Params, tokens: Array, n_heads: int) -> Array:
        table = params["token_embedding"]["table"]
        x = table[tokens] * scale(table.shape[1]) + positions(params, tokens)
        for i in order(params):
            x = one_block(params[f"block_{i}"], x, n_heads)
        return head(params, final(params, x))

    return wrong


def _along_the_batch(params: Params, tokens: Array) -> Array:
    rows: Array = params["position_embedding"]["table"][: len(tokens), None]
    return rows


def _block_without_mask(params: Params, x: Array, n_heads: int) -> Array:
    parts = Parts(params, n_heads, causal=False)
    x = x + parts.attention(parts.norm(x, 1))
    return x + parts.mlp(parts.norm(x, 2))


def _added_late(params: Params, tokens: Array, n_heads: int) -> Array:
    """Positions added after the blocks."""
    late = lambda p, x: _final_norm(p, x + _positions(p, tokens.shape[-1]))  # noqa: E731
    return _with(positions=lambda params, tokens: 0, final=late)(params, tokens, n_heads)


_EMBEDDING_SLIPS = (
    Slip(
        "no-positions",
        "equals the GPT without position embeddings",
        "Words have no place, so attention cannot tell their order, other than by what the mask hides.",
        "Look at whether all entries of `params` are used.",
        _with(positions=lambda params, tokens: 0),
    ),
    Slip(
        "positions-one-late",
        "equals the GPT with positions that begin at 1, not at 0",
        "The first row of the position table is never used. A text of full length needs a row that does not exist.",
        "Look at which row of the table the first word gets.",
        _with(positions=lambda params, tokens: params["position_embedding"]["table"][1 : tokens.shape[-1] + 1]),
    ),
    Slip(
        "last-positions",
        "equals the GPT with the last rows of the position table, not the first",
        "The place of a word then depends on the length of the text. The first word has position 0.",
        "Look at which row of the table the first word gets.",
        _with(positions=lambda params, tokens: params["position_embedding"]["table"][-tokens.shape[-1] :]),
    ),
    Slip(
        "positions-reversed",
        "equals the GPT with positions counted from the end of the text",
        "The first word has position 0, whatever comes after it.",
        "Look at which row of the table the first word gets.",
        _with(positions=lambda params, tokens: _positions(params, tokens.shape[-1])[::-1]),
    ),
    Slip(
        "one-position-for-all",
        "equals the GPT with position 0 for all words",
        "All words get the same row of the table, so attention cannot tell their order.",
        "Look at which row of the table the second word gets.",
        _with(positions=lambda params, tokens: _positions(params, 1)),
    ),
    Slip(
        "positions-along-the-batch",
        "equals the GPT with positions numbered along the batch, not along the text (the wrong axis)",
        "All words of the first text get position 0, all of the second position 1. Positions count words.",
        "Write the shapes of both embeddings beside each other, and say which axes are matched.",
        _with(positions=_along_the_batch),
    ),
    Slip(
        "positions-after-blocks",
        "equals the GPT with the position embeddings added after the blocks",
        "The attention does not know the order of the words. Positions are needed where attention happens.",
        "Look at when the positions are added.",
        _added_late,
    ),
    Slip(
        "embeddings-scaled",
        "equals the GPT with token embeddings multiplied by sqrt(D)",
        "The first transformer and Gemma do so, GPT-2 does not. Positions then count for less.",
        "Look at what is done to the token embeddings before positions are added.",
        _with(scale=lambda d_model: d_model**0.5),
    ),
    Slip(
        "embeddings-divided",
        "equals the GPT with token embeddings divided by sqrt(D)",
        "Positions then count for more than words. GPT-2 adds the two as they are.",
        "Look at what is done to the token embeddings before positions are added.",
        _with(scale=lambda d_model: d_model**-0.5),
    ),
)
_BLOCK_SLIPS = (
    Slip(
        "blocks-reversed",
        "equals the GPT with its blocks in reversed order",
        "block_0 is the first that reads the embeddings.",
        "Look at the order in which the blocks are called.",
        _with(order=lambda params: _in_order(params)[::-1]),
    ),
    Slip(
        "first-block-only",
        "equals the GPT with its first block only",
        "The other blocks have no effect, so they could not be trained.",
        "Look at what each block reads, and at what follows the loop over blocks.",
        _with(order=lambda params: [0]),
    ),
    Slip(
        "last-block-only",
        "equals the GPT with its last block only",
        "Each block read the embeddings, and only the last result was kept. A block reads what the one before it "
        "wrote.",
        "Look at what each block reads.",
        _with(order=lambda params: _in_order(params)[-1:]),
    ),
    Slip(
        "last-block-missing",
        "equals the GPT without its last block",
        "The loop over blocks ends one too early.",
        "Count the blocks in `params`, and those that you call.",
        _with(order=lambda params: _in_order(params)[:-1]),
    ),
    Slip(
        "same-block-repeated",
        "equals the GPT with block_0 called in place of every block",
        "The parameters of the other blocks have no effect. Some models share them, GPT-2 does not.",
        "Look at which parameters each block gets.",
        _with(order=lambda params: [0] * _n_layers(params)),
    ),
    Slip(
        "no-blocks",
        "equals the GPT without blocks",
        "Only embeddings, final norm and head are left, so no word learns of any other.",
        "Look at what each block reads, and at what happens to its result.",
        _with(order=lambda params: []),
    ),
    Slip(
        "not-causal",
        "equals the GPT without the causal mask",
        "Each word sees the words after it, which are those to be predicted.",
        "Change the last word: do the logits of an earlier one change?",
        _with(one_block=_block_without_mask),
    ),
    Slip(
        "one-head",
        "equals the GPT with one head in each block",
        "n_heads has no effect. One head makes one set of weights for all features.",
        "Look at where the number of heads is used.",
        _with(one_block=lambda params, x, n_heads: block(params, x, 1)),
    ),
)
_HEAD_SLIPS = (
    Slip(
        "no-final-norm",
        "equals the GPT without the final norm",
        "Each block adds to the residual stream, so it is large at the end, and so are the logits.",
        "Look at whether all entries of `params` are used.",
        _with(final=lambda params, x: x),
    ),
    Slip(
        "norm-after-each-block",
        "equals the GPT with the final norm after every block",
        "The final norm is used once, before the head. Between blocks nothing is normalised.",
        "Look at what belongs to the loop over blocks, and what follows it.",
        lambda params, tokens, n_heads: _with(
            one_block=lambda p, x, n: _final_norm(params, block(p, x, n)), final=lambda params, x: x
        )(params, tokens, n_heads),
    ),
    Slip(
        "table-reshaped",
        "equals the GPT whose head is the token table reshaped to [D, V], where it must be transposed",
        "A reshape keeps the numbers in the order of memory, so the columns are no longer the embeddings of the words.",
        "Write down a 2 x 3 table, and compare its transpose with its reshape.",
        _with(
            head=lambda params, x: x @ params["token_embedding"]["table"].reshape(x.shape[-1], -1),
        ),
    ),
    Slip(
        "softmaxed",
        "equals softmax of the logits",
        "The loss takes the logits and has the softmax in it, so that nothing overflows. Softmax twice gives nearly "
        "even probabilities.",
        "Read once more what is returned: logits or probabilities?",
        lambda params, tokens, n_heads: softmax(gpt(params, tokens, n_heads)),
    ),
    Slip(
        "logits-scaled",
        "equals the logits divided by sqrt(D)",
        "The scale belongs to the scores of attention. Logits are plain dot products with the token table.",
        "Look at what the head does besides the product.",
        lambda params, tokens, n_heads: gpt(params, tokens, n_heads) / params["norm_final"]["scale"].size ** 0.5,
    ),
    Slip(
        "last-position-only",
        "equals the logits of the last position, not of all positions",
        "That is enough for generating a word. Training needs the logits at all positions.",
        "Look at the shape of the result.",
        lambda params, tokens, n_heads: gpt(params, tokens, n_heads)[:, -1],
    ),
    Slip(
        "no-head",
        "equals the result of the final norm [B, T, D], without the head",
        "There is a vector for each position, but no number for each word of the vocabulary.",
        "Look at the shape of the result.",
        _with(head=lambda params, x: x),
    ),
)

PIECE = Piece(
    "gpt",
    "The GPT",
    "Token and position embeddings, blocks, a final norm, and the token table once more as the head.",
    (Function("gpt", gpt, _cases, (*_EMBEDDING_SLIPS, *_BLOCK_SLIPS, *_HEAD_SLIPS), gpt_vjp, "B T V"),),
)
