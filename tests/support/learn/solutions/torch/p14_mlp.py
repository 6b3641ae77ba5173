"""In PyTorch."""

import torch.nn.functional as F


def gelu(x):
    return F.gelu(x, approximate="tanh")


def mlp(params, x):
    hidden = gelu(F.linear(x, params["up"]["kernel"].T, params["up"]["bias"]))
    return F.linear(hidden, params["down"]["kernel"].T, params["down"]["bias"])
