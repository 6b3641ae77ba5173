"""Piece 16: embeddings, blocks, a final norm and the head."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.config import GPTConfig
from jaxllm.reference.arrays import Array, Params, Vjp, vjp
from jaxllm.reference.layers import norm, softmax

from ..piece import Arguments, Function, Piece, Slip
from .block import varied_block
from .hooks import after
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


def _from_zero(params: Params, tokens: Array) -> Array:
    return _positions(params, tokens.shape[-1])


def _no_positions(params: Params, tokens: Array) -> Array:
    return np.zeros(1)


def _along_the_batch(params: Params, tokens: Array) -> Array:
    rows: Array = params["position_embedding"]["table"][: len(tokens), None]
    return rows


def _varied(
    params: Params, tokens: Array, n_heads: int, *, positions: Callable[[Params, Array], Array] = _from_zero,
    positions_late: bool = False, scale: float = 0, order: Callable[[Params], list[int]] = _in_order,
    norm_each: bool = False, final: bool = True, head: Callable[[Params, Array], Array] = _tied_head, **options: Any,
) -> Array:  # fmt: skip
    """The GPT with one of its parts changed, or `varied_block`; embeddings are multiplied by D^scale."""
    table = params["token_embedding"]["table"]
    x = table[tokens] * table.shape[1] ** scale
    x = x if positions_late else x + positions(params, tokens)
    for i in order(params):
        x = varied_block(params[f"block_{i}"], x, n_heads, **options)
        x = norm(params["norm_final"], x) if norm_each else x
    x = x + positions(params, tokens) if positions_late else x
    return head(params, norm(params["norm_final"], x) if final else x)


_EMBEDDING_SLIPS = (
    Slip(
        "no-positions",
        "equals the GPT without position embeddings",
        "Words have no place, so attention cannot tell their order, other than by what the mask hides. 'Apple buys "
        "orange' and 'orange buys apple' look nearly the same.",
        "Look at whether all entries of `params` are used.",
        partial(_varied, positions=_no_positions),
    ),
    Slip(
        "positions-one-late",
        "equals the GPT with positions that begin at 1, not at 0",
        "The first row of the position table is never used. A text of full length needs a row that does not exist.",
        "Look at which row of the table the first word gets.",
        partial(
            _varied, positions=lambda params, tokens: params["position_embedding"]["table"][1 : tokens.shape[-1] + 1]
        ),
    ),
    Slip(
        "last-positions",
        "equals the GPT with the last rows of the position table, not the first",
        "The place of a word then depends on the length of the text. The first word has position 0.",
        "Look at which row of the table the first word gets.",
        partial(_varied, positions=lambda params, tokens: params["position_embedding"]["table"][-tokens.shape[-1] :]),
    ),
    Slip(
        "positions-reversed",
        "equals the GPT with positions counted from the end of the text",
        "The first word has position 0, whatever comes after it. With a longer text, a word that has not changed gets "
        "another position.",
        "Look at which row of the table the first word gets.",
        partial(_varied, positions=lambda params, tokens: _positions(params, tokens.shape[-1])[::-1]),
    ),
    Slip(
        "one-position-for-all",
        "equals the GPT with position 0 for all words",
        "All words get the same row of the table, so attention cannot tell their order. The other rows of the table "
        "are never used.",
        "Look at which row of the table the second word gets.",
        partial(_varied, positions=lambda params, tokens: _positions(params, 1)),
    ),
    Slip(
        "positions-along-the-batch",
        "equals the GPT with positions numbered along the batch, not along the text (the wrong axis)",
        "All words of the first text get position 0, all of the second position 1. Positions count words.",
        "Write the shapes of both embeddings beside each other, and say which axes are matched.",
        partial(_varied, positions=_along_the_batch),
    ),
    Slip(
        "positions-after-blocks",
        "equals the GPT with the position embeddings added after the blocks",
        "The attention does not know the order of the words. Positions are needed where attention happens.",
        "Look at when the positions are added.",
        partial(_varied, positions_late=True),
    ),
    Slip(
        "embeddings-scaled",
        "equals the GPT with token embeddings multiplied by sqrt(D)",
        "The first transformer and Gemma do so, GPT-2 does not. Positions then count for less.",
        "Look at what is done to the token embeddings before positions are added.",
        partial(_varied, scale=0.5),
    ),
    Slip(
        "embeddings-divided",
        "equals the GPT with token embeddings divided by sqrt(D)",
        "Positions then count for more than words. GPT-2 adds the two as they are.",
        "Look at what is done to the token embeddings before positions are added.",
        partial(_varied, scale=-0.5),
    ),
)
_BLOCK_SLIPS = (
    Slip(
        "blocks-reversed",
        "equals the GPT with its blocks in reversed order",
        "block_0 is the first that reads the embeddings. Weights that were trained in the usual order do not fit.",
        "Look at the order in which the blocks are called.",
        partial(_varied, order=lambda params: _in_order(params)[::-1]),
    ),
    Slip(
        "first-block-only",
        "equals the GPT with its first block only",
        "The other blocks have no effect, so they could not be trained. A deeper model computes no more than one of a "
        "single block.",
        "Look at what each block reads, and at what follows the loop over blocks.",
        partial(_varied, order=lambda params: [0]),
    ),
    Slip(
        "last-block-only",
        "equals the GPT with its last block only",
        "Each block read the embeddings, and only the last result was kept. A block reads what the one before it "
        "wrote.",
        "Look at what each block reads.",
        partial(_varied, order=lambda params: _in_order(params)[-1:]),
    ),
    Slip(
        "last-block-missing",
        "equals the GPT without its last block",
        "The loop over blocks ends one too early. Its parameters have no effect, so they could not be trained.",
        "Count the blocks in `params`, and those that you call.",
        partial(_varied, order=lambda params: _in_order(params)[:-1]),
    ),
    Slip(
        "same-block-repeated",
        "equals the GPT with block_0 called in place of every block",
        "The parameters of the other blocks have no effect. Some models share them, GPT-2 does not.",
        "Look at which parameters each block gets.",
        partial(_varied, order=lambda params: [0] * _n_layers(params)),
    ),
    Slip(
        "no-blocks",
        "equals the GPT without blocks",
        "Only embeddings, final norm and head are left, so no word learns of any other. The logits depend on the last "
        "word and its position only.",
        "Look at what each block reads, and at what happens to its result.",
        partial(_varied, order=lambda params: []),
    ),
    Slip(
        "not-causal",
        "equals the GPT without the causal mask",
        "Each word sees the words after it, which are those to be predicted. Training would seem to succeed, and "
        "generation would fail.",
        "Change the last word: do the logits of an earlier one change?",
        partial(_varied, causal=False),
    ),
    Slip(
        "one-head",
        "equals the GPT with one head in each block",
        "n_heads has no effect. One head makes one set of weights for all features.",
        "Look at where the number of heads is used.",
        partial(_varied, one_head=True),
    ),
)
_HEAD_SLIPS = (
    Slip(
        "no-final-norm",
        "equals the GPT without the final norm",
        "Each block adds to the residual stream, so it is large at the end, and so are the logits. The loss is then "
        "far from that of guessing, even before training.",
        "Look at whether all entries of `params` are used.",
        partial(_varied, final=False),
    ),
    Slip(
        "norm-after-each-block",
        "equals the GPT with the final norm after every block",
        "The final norm is used once, before the head. Between blocks nothing is normalised.",
        "Look at what belongs to the loop over blocks, and what follows it.",
        partial(_varied, norm_each=True, final=False),
    ),
    Slip(
        "table-reshaped",
        "equals the GPT whose head is the token table reshaped to [D, V], where it must be transposed",
        "A reshape keeps the numbers in the order of memory, so the columns are no longer the embeddings of the "
        "words. Shapes fit, so nothing fails.",
        "Write down a 2 x 3 table, and compare its transpose with its reshape.",
        partial(
            _varied,
            head=lambda params, x: x @ params["token_embedding"]["table"].reshape(x.shape[-1], -1),
        ),
    ),
    Slip(
        "softmaxed",
        "equals softmax of the logits",
        "The loss takes the logits and has the softmax in it, so that nothing overflows. Softmax twice gives nearly "
        "even probabilities.",
        "Read once more what is returned: logits or probabilities?",
        **after(gpt, lambda logits, given: softmax(logits)),
    ),
    Slip(
        "logits-scaled",
        "equals the logits divided by sqrt(D)",
        "The scale belongs to the scores of attention. Logits are plain dot products with the token table.",
        "Look at what the head does besides the product.",
        **after(gpt, lambda logits, given: logits / given["params"]["norm_final"]["scale"].size ** 0.5),
    ),
    Slip(
        "last-position-only",
        "equals the logits of the last position, not of all positions",
        "That is enough for generating a word. Training needs the logits at all positions.",
        "Look at the shape of the result.",
        **after(gpt, lambda logits, given: logits[:, -1]),
    ),
    Slip(
        "no-head",
        "equals the result of the final norm [B, T, D], without the head",
        "There is a vector for each position, but no number for each word of the vocabulary. The head compares that "
        "vector with the embedding of each word.",
        "Look at the shape of the result.",
        partial(_varied, head=lambda params, x: x),
    ),
)

PIECE = Piece(
    "gpt",
    "The GPT",
    "Token and position embeddings, blocks, a final norm, and the token table once more as the head.",
    (Function("gpt", gpt, _cases, (*_EMBEDDING_SLIPS, *_BLOCK_SLIPS, *_HEAD_SLIPS), gpt_vjp, "B T V"),),
)
