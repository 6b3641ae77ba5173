import torch


def token_embedding(table, tokens):
    return torch.nn.functional.embedding(tokens, table)
