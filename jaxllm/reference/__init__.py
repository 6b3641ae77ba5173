"""The NumPy float64 twin of every numeric function of jaxllm, written as plainly as a textbook.

`jaxllm.attention.f(*args)` has `jaxllm.reference.attention.f(*args)` with the same name, signature and meaning.
A Linen module has a function that takes its parameters first: `MultiHeadAttention(n_heads)` and
`multi_head_attention(params, x, n_heads)`. Nothing here imports more than NumPy, so an error in JAX, in its
compiler or in our use of them cannot hide in both.
"""

from jaxllm.reference import attention, embeddings, gpt, layers, loss, sampling

__all__ = ["attention", "embeddings", "gpt", "layers", "loss", "sampling"]
