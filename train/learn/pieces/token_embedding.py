"""Piece 5: a row of a table for each id."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference

from ..piece import Arguments, Function, Piece, Slip


def token_embedding(table: Any, tokens: Any) -> Any:
    """The twin."""
    return reference.embeddings.token_embedding(table, tokens)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    """No token is the last row, nor as large as the width: JAX takes another row there, and NumPy raises."""
    yield {"table": np.array([[1.0, 2], [3, 4], [5, 7]]), "tokens": np.array([1])}
    yield {"table": np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 0]]), "tokens": np.array([1, 0, 1])}
    yield {"table": np.array([[1.0, 2], [3, 4], [5, 7]]), "tokens": np.array([[1, 0], [1, 1]])}
    for v, d, shape in ((7, 7, (3,)), (11, 4, (6,)), (5, 3, (2, 4)), (5, 9, (4,)), (13, 6, (3, 2, 5))):
        yield {"table": rng.normal(size=(v, d)), "tokens": rng.integers(min(v - 1, d), size=shape)}


def varied(
    table: Any, tokens: Any, *, transposed: bool = False, first: int = 0, scale: str = "none", rows: str = "of tokens",
    pooled: bool = False, axis: int = 0,
) -> Any:  # fmt: skip
    """`token_embedding` with the mistakes that the keywords choose. Ids outside the table are taken as its last."""
    table, tokens = np.asarray(table), np.asarray(tokens)
    n_rows, width = table.shape
    table = table.T if transposed else table
    ids = tokens - first
    if rows == "of positions":
        ids = np.broadcast_to(np.arange(tokens.shape[-1]), tokens.shape)
    elif rows == "of the first sequence":
        ids = np.broadcast_to(tokens.reshape(-1, tokens.shape[-1])[0], tokens.shape)
    elif rows == "sorted":
        ids = np.sort(tokens, axis=-1)
    elif rows == "counted from the end":
        ids = n_rows - 1 - tokens
    x = table[np.minimum(ids, len(table) - 1)] if axis == 0 else table[:, ids]
    x = x.mean(axis=-2, keepdims=True) + 0 * x if pooled else x
    norm = np.sqrt((x**2).sum(axis=-1, keepdims=True))
    factors = {"none": 1.0, "sqrt": width**0.5, "over sqrt": width**-0.5, "unit": 1 / norm}
    return x * (tokens[..., None] if scale == "ids" else factors[scale])


SLIPS = (
    Slip(
        "table-transposed",
        "equals columns of the table, not rows",
        "The vector of a token is a row: the table has one row for each id, as wide as the model. A column holds one "
        "number of every token.",
        "Which axis of the table is as long as the vocabulary?",
        partial(varied, transposed=True),
    ),
    Slip(
        "second-axis-indexed",
        "takes columns, and has the axis of the vocabulary first",
        "The ids must choose among the rows, which are the first axis. Here they chose along the second.",
        "At which axis of the table does your index stand?",
        partial(varied, axis=1),
    ),
    Slip(
        "ids-from-one",
        "equals the rows before those of the tokens",
        "Ids count from 0, and id 0 is the first row. Here id 0 has wrapped around to the last.",
        "Which row belongs to id 0?",
        partial(varied, first=1),
    ),
    Slip(
        "ids-one-late",
        "equals the rows after those of the tokens",
        "Ids count from 0, and id 0 is the first row. Here each token has the vector of the next id.",
        "Which row belongs to id 0?",
        partial(varied, first=-1),
    ),
    Slip(
        "rows-of-positions",
        "equals the rows of the positions 0, 1, 2, not of the tokens",
        "The same token would have another vector at each place. Positions get a table of their own in piece 6.",
        "What do you look up: which token it is, or where it stands?",
        partial(varied, rows="of positions"),
    ),
    Slip(
        "first-sequence-for-all",
        "has the vectors of the first sequence for the whole batch",
        "Each sequence of a batch has its own tokens. Every axis of the ids stays in the result.",
        "What becomes of the first axis of the tokens?",
        partial(varied, rows="of the first sequence"),
    ),
    Slip(
        "tokens-sorted",
        "has the tokens in the order of their ids",
        "The order of a text is its meaning. A set or a list without repeats loses it.",
        "Does the second vector belong to the second token?",
        partial(varied, rows="sorted"),
    ),
    Slip(
        "rows-from-the-end",
        "equals the rows counted from the end of the table",
        "Id 0 is the first row of the table. Here it is the last.",
        "Which row belongs to id 0?",
        partial(varied, rows="counted from the end"),
    ),
    Slip(
        "times-sqrt-of-width",
        "is too large by the factor sqrt(D)",
        "The first Transformer scaled its vectors so, but GPT does not. The row is taken as it is.",
        "What happens to the numbers after the look-up?",
        partial(varied, scale="sqrt"),
    ),
    Slip(
        "over-sqrt-of-width",
        "is too small by the factor sqrt(D)",
        "That factor belongs to the scores of attention. The row is taken as it is.",
        "What happens to the numbers after the look-up?",
        partial(varied, scale="over sqrt"),
    ),
    Slip(
        "times-the-id",
        "is multiplied by the ids",
        "An id is a name, and its size means nothing. Twice the id is not twice the word.",
        "Is the id used for anything but to find the row?",
        partial(varied, scale="ids"),
    ),
    Slip(
        "unit-length",
        "has vectors of length 1",
        "The length of a vector is learned as its direction is. Norms come later, in piece 13.",
        "What happens to the numbers after the look-up?",
        partial(varied, scale="unit"),
    ),
    Slip(
        "mean-of-the-sequence",
        "has the mean of the sequence at every position",
        "A bag of words forgets which word stood where. Each token keeps its own vector.",
        "Over which axis do you add?",
        partial(varied, pooled=True),
    ),
)

PIECE = Piece(
    "token_embedding",
    "Token embedding",
    "An id becomes a vector of learned numbers: a row of a table.",
    (
        Function(
            "token_embedding",
            token_embedding,
            _cases,
            SLIPS,
            vjp=reference.embeddings.token_embedding_vjp,
            axes="T D",
        ),
    ),
)
