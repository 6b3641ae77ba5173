"""Byte pairs as one number each, in arrays."""

import numpy as np

BASE = 1 << 20


def _apply(ids, left, right, new):
    """Within a run of overlapping places, every second one is replaced."""
    out = ids.copy()
    last = -2
    for i in np.flatnonzero((ids[:-1] == left) & (ids[1:] == right)):
        if i > last + 1:
            out[i], out[i + 1] = new, -1
            last = i
    return out[out >= 0]


def _bytes(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def learn_merges(text, n_merges):
    ids, merges = _bytes(text), []
    while len(merges) < n_merges and len(ids) > 1:
        codes, counts = np.unique(ids[:-1] * BASE + ids[1:], return_counts=True)
        left, right = divmod(int(codes[np.argmax(counts)]), BASE)
        merges.append((left, right))
        ids = _apply(ids, left, right, 255 + len(merges))
    return merges


def encode(text, merges):
    ids = _bytes(text)
    for new, (left, right) in enumerate(merges, start=256):
        ids = _apply(ids, left, right, new)
    return ids.tolist()


def decode(ids, merges):
    def opened(i):
        return opened(merges[i - 256][0]) + opened(merges[i - 256][1]) if i >= 256 else bytes([i])

    return b"".join(map(opened, ids)).decode(errors="replace")
