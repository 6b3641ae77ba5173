import torch


def linear(x, kernel, bias=None):
    return torch.nn.functional.linear(x, kernel.T, bias)
