"""Windows as views."""

import numpy as np


def input_target_pairs(ids, context_length, stride):
    windows = np.lib.stride_tricks.sliding_window_view(ids, context_length + 1)[::stride]
    return windows[:, :-1], windows[:, 1:]
