"""Byte pairs with lists alone."""


def _replace(ids, left, right, new):
    out = []
    i = 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == left and ids[i + 1] == right:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def learn_merges(text, n_merges):
    ids = list(text.encode("utf-8"))
    merges = []
    for step in range(n_merges):
        counts = {}
        for i in range(len(ids) - 1):
            pair = (ids[i], ids[i + 1])
            counts[pair] = counts.get(pair, 0) + 1
        best = None
        for pair, count in counts.items():
            if best is None or count > counts[best] or (count == counts[best] and pair < best):
                best = pair
        if best is None:
            break
        merges.append(best)
        ids = _replace(ids, best[0], best[1], 256 + step)
    return merges


def encode(text, merges):
    ids = list(text.encode("utf-8"))
    for i in range(len(merges)):
        ids = _replace(ids, merges[i][0], merges[i][1], 256 + i)
    return ids


def decode(ids, merges):
    waiting = list(ids)
    found = []
    while waiting:
        i = waiting.pop(0)
        if i < 256:
            found.append(i)
        else:
            waiting = [merges[i - 256][0], merges[i - 256][1], *waiting]
    return bytes(found).decode("utf-8", errors="replace")
