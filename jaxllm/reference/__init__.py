"""A GPT and its training in NumPy and float64: every function forward and backward, as a textbook prints it.

Each function is the twin of one in jaxllm: `jaxllm.attention.f(*args)` and `jaxllm.reference.attention.f(*args)` have
the same name, signature and meaning. `f_vjp(*args)` returns `(out, pullback)` like `jax.vjp`; its docstring states the
derivative, and the pullback closes over the values that it needs. A Linen module has a function that takes the
module's parameters first: `MultiHeadAttention(n_heads)` is `multi_head_attention(params, x, n_heads)`.

A good order to read: `layers`, `embeddings`, `attention`, `rotary`, `multi_head`, `softcap`, `gpt`, `loss`,
`schedules`, `update_rules`, `muon`, `optimizer`, `step`; then `experts`, `sampling`, `lookup`, `logit_lens` and `lora`.
`arrays` holds the helpers. Only NumPy is imported, so that an error in JAX, in its compiler or in the use of them
cannot occur on both sides of a comparison.
"""

from jaxllm.reference import (
    attention,
    embeddings,
    experts,
    fast,
    gpt,
    layers,
    logit_lens,
    lookup,
    lora,
    loss,
    multi_head,
    muon,
    optimizer,
    rotary,
    sampling,
    schedules,
    softcap,
    step,
    update_rules,
)

__all__ = [
    "attention", "embeddings", "experts", "fast", "gpt", "layers", "logit_lens", "lookup", "lora", "loss", "multi_head",
    "muon", "optimizer", "rotary", "sampling", "schedules", "softcap", "step", "update_rules",
]  # fmt: skip
