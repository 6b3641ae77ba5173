"""Cross-entropy in nats. The NumPy twins are in `jaxllm.reference.loss`."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.embeddings import token_logits
from jaxllm.precision import at_least_float32

MOST_LOGITS = 2**26  # held at a time by `head_loss`, 256 MiB in float32: GPT-2's vocabulary for 1,334 tokens
# Ids in one matrix product of `head_loss`. XLA on a CPU lays out 2 x 512 rows of a product's wider side anew, in one
# block, in a thread whose memory glibc keeps only up to 64 MiB; longer blocks were mapped and cleared in every step.
MOST_IDS = 12_800


def token_losses(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] per token: logits [..., V], targets [...] int -> [...], at least float32.

    A target outside 0..V-1 gives NaN, so that it is noticed.
    """
    z = at_least_float32(logits)
    z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
    return jnp.log(jnp.exp(z).sum(-1)) - _entry(z, targets)


def _entry(z: Array, index: Array) -> Array:
    """z[n, index[n]] of [..., V] and [...], NaN where that is outside 0..V-1."""
    index = jnp.where(index < 0, z.shape[-1], index)
    return jnp.take_along_axis(z, index[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def cross_entropy(logits: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean of `token_losses`, or sum(w * loss) / sum(w) with weights [...] (0 leaves a token out) -> scalar."""
    losses = token_losses(logits, targets)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def head_loss(table: Array, x: Array, targets: Array, weights: Array | None = None) -> Array:
    """The sum of w * loss of the logits x E^T, which are never held all at once: the loss as training runs it.

    table [V, D], x [..., D], targets [...] int, weights [...] (1 where not given) -> scalar, at least float32.
    Tokens go through the head in chunks of `MOST_LOGITS` logits, and where a gradient is wanted, the gradients of a
    chunk are made on the spot, while its logits are there; Liger Kernel and Levanter do the same for a GPU and a TPU.
    The vocabulary is cut into parts of `MOST_IDS`, for a CPU's sake. In half precision the gradient of the logits is
    rounded to it, as any other is. Reverse-mode derivatives only.
    """
    rows = jnp.ones(targets.size, at_least_float32(x).dtype) if weights is None else weights.reshape(-1)
    return _head_loss(table, x.reshape(-1, x.shape[-1]), targets.reshape(-1), rows)


@jax.custom_vjp
def _head_loss(table: Array, x: Array, targets: Array, weights: Array) -> Array:
    losses = jax.lax.map(lambda rows: token_losses(token_logits(table, rows[0]), rows[1]), _chunks(table, x, targets))
    return (losses.reshape(-1)[: targets.size] * weights).sum()


def _head_loss_forward(table: Array, x: Array, targets: Array, weights: Array) -> tuple[Array, tuple[Array, ...]]:
    cuts = tuple(range(MOST_IDS, len(table), MOST_IDS))
    parts = jnp.split(table.astype(x.dtype), cuts)

    def chunk(dparts: list[Array], rows: tuple[Array, ...]) -> tuple[list[Array], tuple[Array, Array]]:
        x, targets, weights = rows
        zs = [token_logits(part, x) for part in parts]
        peak = reduce(jnp.maximum, [z.max(-1) for z in zs])[:, None]
        total = reduce(jnp.add, [jnp.exp(z - peak).sum(-1) for z in zs])[:, None]
        dx, grown = jnp.zeros(x.shape, peak.dtype), []
        for start, part, z, dpart in zip((0, *cuts), parts, zs, dparts, strict=True):
            came = jax.nn.one_hot(targets - start, len(part), dtype=z.dtype)
            dz = ((jnp.exp(z - peak) / total - came) * weights[:, None]).astype(x.dtype)
            grown.append(dpart + jnp.matmul(dz.T, x, preferred_element_type=dpart.dtype))
            dx += jnp.matmul(dz, part, preferred_element_type=dx.dtype)
        chosen = reduce(jnp.fmax, [_entry(z, targets - start) for start, z in zip((0, *cuts), zs, strict=True)])
        return grown, (jnp.log(total[:, 0]) - (chosen - peak[:, 0]), dx.astype(x.dtype))

    zeros = [jnp.zeros(part.shape, jnp.promote_types(table.dtype, jnp.float32)) for part in parts]
    dparts, (losses, dx) = jax.lax.scan(chunk, zeros, _chunks(table, x, targets, weights))
    dtable = jnp.concatenate(dparts).astype(table.dtype)
    losses, dx = losses.reshape(-1)[: len(x)], dx.reshape(-1, x.shape[-1])[: len(x)]
    return (losses * weights).sum(), (dtable, dx, losses.astype(weights.dtype))


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
