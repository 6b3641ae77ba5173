"""Cross-entropy in nats. The NumPy twins are in `jaxllm.reference.loss`."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.embeddings import token_logits
from jaxllm.layers import at_least_float32

MOST_LOGITS = 2**26  # held at a time by `head_loss`, 256 MiB in float32: GPT-2's vocabulary for 1,334 tokens


def token_losses(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] per token: logits [..., V], targets [...] int -> [...], at least float32.

    A target outside 0..V-1 gives NaN, so that it is noticed.
    """
    z = at_least_float32(logits)
    z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
    targets = jnp.where(targets < 0, logits.shape[-1], targets)
    chosen = jnp.take_along_axis(z, targets[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return jnp.log(jnp.exp(z).sum(-1)) - chosen


def cross_entropy(logits: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean of `token_losses`, or sum(w * loss) / sum(w) with weights [...] (0 leaves a token out) -> scalar."""
    losses = token_losses(logits, targets)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def head_loss(table: Array, x: Array, targets: Array, weights: Array | None = None) -> Array:
    """The sum of w * loss of the logits x E^T, which are never held all at once: the loss as training runs it.

    table [V, D], x [..., D], targets [...] int, weights [...] (1 where not given) -> scalar, at least float32.
    Tokens go through the head in chunks of `MOST_LOGITS` logits, and where a gradient is wanted, the gradients of a
    chunk are made on the spot, while its logits are there; Liger Kernel and Levanter do the same for a GPU and a TPU.
    In half precision the gradient of the logits is rounded to it, as any other is. Reverse-mode derivatives only.
    """
    rows = jnp.ones(targets.size, at_least_float32(x).dtype) if weights is None else weights.reshape(-1)
    return _head_loss(table, x.reshape(-1, x.shape[-1]), targets.reshape(-1), rows)


@jax.custom_vjp
def _head_loss(table: Array, x: Array, targets: Array, weights: Array) -> Array:
    losses = jax.lax.map(lambda rows: token_losses(token_logits(table, rows[0]), rows[1]), _chunks(table, x, targets))
    return (losses.reshape(-1)[: targets.size] * weights).sum()


def _head_loss_forward(table: Array, x: Array, targets: Array, weights: Array) -> tuple[Array, tuple[Array, ...]]:
    narrow = table.astype(x.dtype)

    def chunk(dtable: Array, rows: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        x, targets, weights = rows
        z = token_logits(narrow, x)
        losses = token_losses(z, targets)
        p = jnp.exp(z - z.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        came = jax.nn.one_hot(targets, len(table), dtype=p.dtype)
        dz = ((p - came) * weights[:, None]).astype(x.dtype)
        dtable += jnp.matmul(dz.T, x, preferred_element_type=dtable.dtype)
        return dtable, (losses, dz @ narrow)

    dtable = jnp.zeros(table.shape, jnp.promote_types(table.dtype, jnp.float32))
    dtable, (losses, dx) = jax.lax.scan(chunk, dtable, _chunks(table, x, targets, weights))
    losses, dx = losses.reshape(-1)[: len(x)], dx.reshape(-1, x.shape[-1])[: len(x)]
    return (losses * weights).sum(), (dtable.astype(table.dtype), dx, losses.astype(weights.dtype))


def _head_loss_backward(saved: tuple[Array, ...], dy: Array) -> tuple[Array, Array, None, Array]:
    dtable, dx, dweights = (g * dy.astype(g.dtype) for g in saved)
    return dtable, dx, None, dweights


_head_loss.defvjp(_head_loss_forward, _head_loss_backward)


def _chunks(table: Array, *rows: Array) -> tuple[Array, ...]:
    """Arrays [N, ...] as [chunks, rows of a chunk, ...]; the last chunk is filled up with zeros, weights too."""
    n = len(rows[0])
    chunks = -(-n * len(table) // MOST_LOGITS)
    missing = -n % chunks
    padded = (jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in rows)
    return tuple(x.reshape(chunks, -1, *x.shape[1:]) for x in padded)
