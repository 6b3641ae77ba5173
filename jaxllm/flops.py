"""How many operations a model computes: those of its matrix products."""

from jaxllm.config import GPTConfig


def flops_per_token(model: GPTConfig) -> float:
    """Floating-point operations of forward and backward pass for a token of a full context: 6 N + 12 L H K T.

    The product of [n, d] and [d, f] has n d f multiplications and as many additions. N is the number of weights in
    products: the maps of attention and MLP in L layers, and the head; with experts the router, and of the experts those
    that a token passes through. The scores of a token take 2 H K T, its weighted
    values as many; both count in full, though half of them is masked. The backward is twice the forward, a product for
    the gradient of each factor. A token table counts once, as the head, because looking up a row multiplies nothing.
    Biases, norms, positions, what is computed again (`train.remat`) and what a user's own functions compute are left
    out. Chowdhery et al. 2022 (PaLM), appendix B.
    """
    d = model.d_model
    attention = 2 * d * (model.n_heads + model.kv_heads) * model.head_dim  # query and output, key and value
    mlp = (3 if model.gated else 2) * d * model.hidden_dim * model.active_experts + d * model.n_experts  # and router
    weights = model.n_layers * (attention + mlp) + (model.n_classes or model.vocab_size) * d
    return 6 * weights + 12 * model.n_layers * model.n_heads * model.head_dim * model.context_length
