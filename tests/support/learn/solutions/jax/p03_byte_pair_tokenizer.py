"""Byte pairs with a counter, and the merge of lowest rank first."""

from collections import Counter
from itertools import pairwise


def _merge(ids, pair, new):
    out, skip = [], False
    for a, b in zip(ids, [*ids[1:], None], strict=True):
        if skip:
            skip = False
            continue
        skip = (a, b) == pair
        out.append(new if skip else a)
    return out


def learn_merges(text, n_merges):
    ids, merges = list(text.encode()), []
    for new in range(256, 256 + n_merges):
        counts = Counter(pairwise(ids))
        if not counts:
            break
        pair = max(counts, key=lambda p: (counts[p], -p[0], -p[1]))
        merges.append(pair)
        ids = _merge(ids, pair, new)
    return merges


def encode(text, merges):
    ids = list(text.encode())
    rank = {tuple(pair): i for i, pair in enumerate(merges)}
    while possible := rank.keys() & set(pairwise(ids)):
        pair = min(possible, key=rank.__getitem__)
        ids = _merge(ids, pair, 256 + rank[pair])
    return ids


def decode(ids, merges):
    table = {i: bytes([i]) for i in range(256)}
    for i, (left, right) in enumerate(merges):
        table[256 + i] = table[left] + table[right]
    return b"".join(table[i] for i in ids).decode("utf-8", "replace")
