"""Windows by an array of places."""

import numpy as np


def input_target_pairs(ids, context_length, stride):
    ids = np.asarray(ids)
    places = np.add.outer(np.arange(0, len(ids) - context_length, stride), np.arange(context_length))
    return ids[places], ids[places + 1]
