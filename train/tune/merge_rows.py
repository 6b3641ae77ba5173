"""The texts on which a merge is proven: rows of the tuning's own validation split, and the positions that it learns."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxllm.data.batches import evaluation_batches, n_targets

from ..config import row_length
from ..inputs import Prepared
from .merge import Row

MOST_TOKENS = 1024  # of all rows: a minute in float64 for a model of 135M parameters on two cores


def validation_rows(prepared: Prepared) -> list[Row]:
    """Rows of the validation split, in its order, of at most MOST_TOKENS tokens together.

    The positions that count are those at which a token, or a text's label, is learned.
    """
    return first_rows(split_rows(prepared), MOST_TOKENS)


def split_rows(prepared: Prepared) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each row of the validation split with its targets, [T] int32 and -1 where nothing is learned."""
    if prepared.examples is not None:
        batches: Iterable[tuple[Any, Any]] = prepared.examples.batches("validation", 1)
    else:
        ids = prepared.validation_ids
        length = min(row_length(prepared.model, prepared.config.train), n_targets(ids, None), MOST_TOKENS)
        batches = ((x, np.where(weights > 0, y, -1)) for x, y, weights in evaluation_batches(ids, length, 1))
    for inputs, targets in batches:
        n_tokens = np.shape(inputs)[-1]
        of_rows = np.asarray(getattr(targets, "ids", targets))
        yield from zip(np.asarray(inputs).reshape(-1, n_tokens), of_rows.reshape(-1, n_tokens), strict=True)


def first_rows(rows: Iterable[tuple[np.ndarray, np.ndarray]], most: int) -> list[Row]:
    """The first rows with targets, up to `most` tokens, without what follows their last target.

    At least one: of a row that is longer, its end. All have the same length, so that one program computes them; what
    fills a row follows all that counts, so that no position that counts sees it.
    """
    chosen: list[Row] = []
    for tokens, targets in rows:
        places = np.flatnonzero(targets >= 0)
        if not len(places):
            continue
        end = int(places[-1]) + 1
        start = max(0, end - most)
        if chosen and (len(chosen) + 1) * max(end - start, *(len(row) for row, _ in chosen)) > most:
            break
        chosen.append((tokens[start:end], targets[start:end] >= 0))
    length = max((len(tokens) for tokens, _ in chosen), default=0)
    return [(_filled(tokens, length), _filled(counted, length)) for tokens, counted in chosen]


def _filled(x: np.ndarray, length: int) -> np.ndarray:
    return np.pad(x, (0, length - len(x)))
