"""Arguments of the functions of a model, as a small model would call them on a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=7, context_length=6, d_model=8, n_layers=2, n_heads=2)
MEASURED = GPTConfig(vocab_size=100, context_length=16, d_model=32, n_layers=2, n_heads=4)
RATIO = 8 * 48 * 64**2 / (2 * 15 * 32**2)  # of the products in a training to those with MEASURED


def trial(function: str, config: GPTConfig) -> tuple[Any, ...]:
    """Arguments of a function in a model of this config, for two rows that do not fill its context."""
    rng, length, d = np.random.default_rng(0), config.context_length - 1, config.d_model
    tokens = jnp.asarray(rng.integers(0, config.vocab_size, (2, length)), jnp.int32)
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda leaf: normal(rng, *leaf.shape), shapes)
    x, block = normal(rng, 2, length, d), params["block_0"]
    heads = tuple(normal(rng, 2, config.n_heads, length, config.head_dim) for _ in range(3))
    return {
        "token_embedding": (params["token_embedding"]["table"], tokens),
        "add_learned_positions": (x, params["position_embedding"]["table"]),
        "linear": (x, block["mlp"]["up"]["kernel"], block["mlp"]["up"]["bias"]),
        "scaled_dot_product_attention": (*heads, jnp.tril(jnp.ones((length, length), bool))),
        "causal_attention": heads,
        "multi_head_attention": (block["attention"], x, config.n_heads),
        "layer_norm": (x, block["norm_1"]["scale"], block["norm_1"]["bias"], config.norm_epsilon),
        "mlp": (block["mlp"], x),
        "block": (block, x, config.n_heads),
        "gpt": (params, tokens, config.n_heads),
        "cross_entropy": (normal(rng, 2, length, config.vocab_size), tokens),
    }[function]


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    """Normal random numbers in float32."""
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)
