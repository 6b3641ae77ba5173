"""Several corpora in given shares, without state: the source of each row is a function of the row's index.

Every cycle of rows holds each source exactly as often as its weight says, in an order of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxllm.data.id_sequences import IdSequence
from jaxllm.data.permutation import ROUNDS, permute
from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError

CYCLE = 1024  # rows, within which the shares are exact


@dataclass(frozen=True)
class Mixture:
    """Sources, and the number of rows that each has in a cycle. Its length is the number of ids of all sources."""

    sources: tuple[IdSequence, ...]
    quotas: tuple[int, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def assign(self, rows: Ids, seed: int) -> tuple[Ids, Ids]:
        """For each of the `rows` [N], its source and its index among that source's rows: two arrays [N] int64."""
        sources, indices = np.empty_like(rows), np.empty_like(rows)
        cycles, within = np.divmod(rows, CYCLE)
        for cycle in np.unique(cycles):
            here = cycles == cycle
            source_of, index_of = _cycle(self.quotas, seed, int(cycle))
            sources[here], indices[here] = source_of[within[here]], index_of[within[here]]
        return sources, cycles * np.array(self.quotas)[sources] + indices


@lru_cache(maxsize=4)
def _cycle(quotas: tuple[int, ...], seed: int, cycle: int) -> tuple[Ids, Ids]:
    """For each row of a cycle, its source and its index within that source: two arrays [CYCLE] int64."""
    keys = np.random.SeedSequence([seed, len(quotas), cycle]).generate_state(ROUNDS, np.uint64)
    source_of = np.repeat(np.arange(len(quotas)), quotas)[permute(np.arange(CYCLE), CYCLE, keys)]
    index_of = np.empty(CYCLE, np.int64)
    for source, quota in enumerate(quotas):
        index_of[source_of == source] = np.arange(quota)
    return source_of, index_of


def mixture(sources: Sequence[IdSequence], weights: Sequence[float]) -> Mixture:
    """The sources in the shares of their weights, which need not sum to 1.

    Shares are rounded to 1/1,024, the largest remainders up. Raises InputError for weights that are not positive and
    finite, and for one that rounds to nothing.
    """
    shares = np.array(weights, float)
    if not np.isfinite(shares).all() or not (shares > 0).all():
        raise InputError(f"the weights of a mixture are {list(weights)}, but they must all be above 0.")
    exact = shares / shares.sum() * CYCLE
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: CYCLE - quotas.sum()]] += 1
    if not quotas.all():
        raise InputError(f"the weights of a mixture are {list(weights)}: the smallest is below 1/{CYCLE:,} of all.")
    return Mixture(tuple(sources), tuple(quotas.tolist()))
