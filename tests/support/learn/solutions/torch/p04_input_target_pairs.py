def input_target_pairs(ids, context_length, stride):
    windows = ids.unfold(0, context_length + 1, stride)
    return windows[:, :-1], windows[:, 1:]
