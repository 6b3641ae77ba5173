import torch


def add_learned_positions(x, table):
    return x + table[: x.shape[-2]]


def sinusoidal_positions(length, d_model):
    t = torch.arange(length, dtype=torch.float64)[:, None]
    angle = t / 10000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, d_model)
