"""Sampling text from a model, one token at a time.

One jitted loop over a window of fixed shape, so nothing is compiled anew as the text grows. Every token runs
the whole window through the model; a key/value cache does not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.gpt import GPT
from jaxllm.sampling import min_p, scale_temperature, top_k, top_p


def draw(
    logits: Array, key: Array, temperature: float = 1.0, k: int | None = None, p: float | None = None,
    minimum_p: float | None = None,
) -> Array:  # fmt: skip
    """One token per row: logits [B, V] -> [B] int32.

    Temperature 0 takes the most likely token. Else logits are divided by it, then cut by top-k, top-p and min-p
    in that order (each where given), and a token is drawn with the probabilities that are left.
    """
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = scale_temperature(logits - logits.max(-1, keepdims=True), temperature)  # no overflow where it is tiny
    logits = logits if k is None else top_k(logits, k)
    logits = logits if p is None else top_p(logits, p)
    logits = logits if minimum_p is None else min_p(logits, minimum_p)
    return jax.random.categorical(key, logits).astype(jnp.int32)


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "temperature", "k", "p", "minimum_p", "vocab_size"))
def generate(
    model: GPT, params: dict, prompt: Array, key: Array, max_new_tokens: int, temperature: float = 1.0,
    k: int | None = None, p: float | None = None, minimum_p: float | None = None, vocab_size: int | None = None,
) -> Array:  # fmt: skip
    """Continue prompts [B, P >= 1] by `max_new_tokens`: -> [B, max_new_tokens] int32.

    The model sees the last `context_length` tokens. Ids from `vocab_size` on, with which a model's vocabulary may
    be padded, are never drawn. The same key gives the same tokens; see `draw` for the sampling options.
    """
    width = min(model.config.context_length, prompt.shape[1] + max_new_tokens)
    prompt = prompt[:, -width:].astype(jnp.int32)
    window = jnp.pad(prompt, ((0, 0), (0, width - prompt.shape[1])))

    def one_token(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        window, length = carry  # what lies right of `length` is padding, which causal attention never sees
        logits = model.apply({"params": params}, window)
        last = jax.lax.dynamic_index_in_dim(logits, length - 1, 1, keepdims=False)
        token = draw(last[:, :vocab_size], key, temperature, k, p, minimum_p)
        shifted = jnp.where(length < width, window, jnp.roll(window, -1, axis=1))
        length = jnp.minimum(length + 1, width)
        return (shifted.at[:, length - 1].set(token), length), token

    start = (window, jnp.asarray(prompt.shape[1], jnp.int32))
    _, tokens = jax.lax.scan(one_token, start, jax.random.split(key, max_new_tokens))
    return tokens.T
