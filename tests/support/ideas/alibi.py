"""ALiBi (Press et al. 2022) for two heads: model.score, with model.position = "none"."""


def alibi(score, head, t, s):
    return score - 2.0 ** (-4.0 * (head + 1)) * (t - s)


alibi_twin = alibi  # arithmetic alone computes in NumPy too
