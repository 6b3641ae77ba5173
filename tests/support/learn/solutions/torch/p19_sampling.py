import torch


def next_token_probabilities(logits, temperature, top_k=None):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).to(logits.dtype)
    scaled = logits / temperature
    if top_k is not None:
        threshold = torch.topk(scaled, min(top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    return torch.softmax(scaled, dim=-1)


def sample(probabilities, u):
    return int((torch.cumsum(probabilities, 0) > u).int().argmax())
