"""The NumPy float64 twin of every numeric function of jaxllm, forward and backward, plain as a textbook.

`jaxllm.attention.f(*args)` has `jaxllm.reference.attention.f(*args)` with the same name, signature and meaning, and
`f_vjp(*args) -> (out, pullback)`, shaped like `jax.vjp`, with the derivative worked out by hand and stated.
A Linen module has a function that takes its parameters first: `MultiHeadAttention(n_heads)` and
`multi_head_attention(params, x, n_heads)`. Optax's part of a training step is in `optimizer`, the step in `step`.

autograd and llm.c keep the derivative beside the function too, but with caches that the reader must match up; here
a pullback closes over what it needs. Nothing here imports more than NumPy, so an error in JAX, in its compiler or
in our use of them cannot hide in both.
"""

from jaxllm.reference import (
    attention,
    embeddings,
    fast,
    gpt,
    layers,
    logit_lens,
    loss,
    multi_head,
    optimizer,
    rotary,
    sampling,
    step,
)

__all__ = [
    "attention", "embeddings", "fast", "gpt", "layers", "logit_lens", "loss", "multi_head", "optimizer", "rotary",
    "sampling", "step",
]  # fmt: skip
