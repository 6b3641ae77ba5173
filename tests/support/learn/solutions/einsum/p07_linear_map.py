import numpy as np


def linear(x, kernel, bias=None):
    y = np.einsum("...d,df->...f", x, kernel)
    return y + (np.zeros(kernel.shape[1]) if bias is None else bias)
