"""By einsum: the variance is a sum of products."""

import numpy as np


def layer_norm(x, scale, bias, epsilon):
    features = x.shape[-1]
    centred = x - np.einsum("...d->...", x)[..., None] / features
    variance = np.einsum("...d,...d->...", centred, centred) / features
    return np.einsum("...d,...,d->...d", centred, (variance + epsilon) ** -0.5, scale) + bias
