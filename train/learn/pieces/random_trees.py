"""Random parameters for the pieces that take a dict of them: biases and scales are random too."""

from typing import Any

import numpy as np

from jaxllm.reference.arrays import Array


def random_linear(rng: np.random.Generator, n_in: int, n_out: int) -> dict[str, Array]:
    """A kernel of about N(0, 1 / D) and a bias, which would hide a fault in its use if it was 0."""
    return {"kernel": rng.normal(size=(n_in, n_out)) / n_in**0.5, "bias": rng.normal(size=n_out) / 2}


def random_attention(rng: np.random.Generator, d_model: int) -> dict[str, Any]:
    """The four maps of multi-head attention. Queries and keys are larger, so that weights are far from even."""
    maps = {name: random_linear(rng, d_model, d_model) for name in ("query", "key", "value", "output")}
    for name in ("query", "key"):
        maps[name]["kernel"] *= 2
    return maps


def random_norm(rng: np.random.Generator, d_model: int) -> dict[str, Array]:
    """Scale and bias of a norm."""
    return {"scale": 1 + rng.normal(size=d_model) / 2, "bias": rng.normal(size=d_model) / 2}


def random_mlp(rng: np.random.Generator, d_model: int, hidden: int) -> dict[str, Any]:
    """Both maps of an MLP."""
    return {"up": random_linear(rng, d_model, hidden), "down": random_linear(rng, hidden, d_model)}


def random_block(rng: np.random.Generator, d_model: int, hidden: int) -> dict[str, Any]:
    """The parameters of a block."""
    return {
        "norm_1": random_norm(rng, d_model),
        "attention": random_attention(rng, d_model),
        "norm_2": random_norm(rng, d_model),
        "mlp": random_mlp(rng, d_model, hidden),
    }


def random_gpt(
    rng: np.random.Generator, vocab_size: int, context_length: int, d_model: int, n_layers: int, hidden: int
) -> dict[str, Any]:
    """The parameters of a GPT with learned positions and a tied head, named as jaxllm's."""
    return {
        "token_embedding": {"table": rng.normal(size=(vocab_size, d_model))},
        "position_embedding": {"table": rng.normal(size=(context_length, d_model))},
        **{f"block_{i}": random_block(rng, d_model, hidden) for i in range(n_layers)},
        "norm_final": random_norm(rng, d_model),
    }
