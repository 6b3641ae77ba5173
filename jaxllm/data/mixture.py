"""Several corpora in given shares, without a state: which row comes from which is a function of its place.

nanochat and others draw a source at random for each row, which leaves the shares to chance; here, as in Levanter, each
block of rows holds every source as often as its weight says, in an order of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxllm.data.id_sequences import Row
from jaxllm.data.permutation import ROUNDS, permute
from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError

BLOCK = 1024  # rows, within which the shares are exact


@dataclass(frozen=True)
class Mixture:
    """Sources, and of how many rows in a block each is the source. Its length is the number of ids of all."""

    sources: tuple[Row, ...]
    quotas: tuple[int, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def assign(self, places: Ids, seed: int) -> tuple[Ids, Ids]:
        """Of the rows at `places` [N] the source, and the number among that source's rows: two arrays [N] int64."""
        which, inside = np.empty_like(places), np.empty_like(places)
        blocks, within = np.divmod(places, BLOCK)
        for block in np.unique(blocks):
            here = blocks == block
            order, ranks = _block(self.quotas, seed, int(block))
            which[here], inside[here] = order[within[here]], ranks[within[here]]
        return which, blocks * np.array(self.quotas)[which] + inside


@lru_cache(maxsize=4)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> tuple[Ids, Ids]:
    """Of each row of a block the source, and the how manieth of that source in the block it is."""
    keys = np.random.SeedSequence([seed, len(quotas), block]).generate_state(ROUNDS, np.uint64)
    order = np.repeat(np.arange(len(quotas)), quotas)[permute(np.arange(BLOCK), BLOCK, keys)]
    ranks = np.empty(BLOCK, np.int64)
    for source, quota in enumerate(quotas):
        ranks[order == source] = np.arange(quota)
    return order, ranks


def mixture(sources: Sequence[Row], weights: Sequence[float]) -> Mixture:
    """The sources in the shares of their weights, which need not sum to 1, to a 1,024th (largest remainders first).

    Raises InputError for weights that are not positive and finite, or too small to be heard.
    """
    shares = np.array(weights, float)
    if not np.isfinite(shares).all() or not (shares > 0).all():
        raise InputError(f"the weights of a mixture are {list(weights)}, but they must all be above 0.")
    exact = shares / shares.sum() * BLOCK
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: BLOCK - quotas.sum()]] += 1
    if not quotas.all():
        raise InputError(f"the weights of a mixture are {list(weights)}: the smallest is below 1/{BLOCK:,} of all.")
    return Mixture(tuple(sources), tuple(quotas.tolist()))
