"""Losses of `jaxllm.loss` without holding all logits at once. They have reverse-mode derivatives only."""

from collections.abc import Callable
from functools import partial, reduce
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.fast import on_mesh
from jaxllm.fast.embeddings import token_logits
from jaxllm.fast.platform import platform
from jaxllm.fast.products import product
from jaxllm.fast.quantised_weights import Table
from jaxllm.loss import _entry, answer_losses, token_losses
from jaxllm.parallel import CONTEXT, ROWS, TENSOR
from jaxllm.precision import at_least_float32

Change = Callable[[Array], Array]  # an elementwise function of the logits
MOST_LOGITS = 2**26  # held at a time by `head_loss`, 256 MiB in float32: GPT-2's vocabulary for 1,334 tokens
# Ids in one matrix product of `head_loss` on a CPU. XLA there copies 2 x 512 rows of a product's wider side into one
# block, in a thread for which glibc keeps at most 64 MiB; a longer block is mapped and cleared in every step.
MOST_IDS = 12_800
ALIGNED = 128  # elsewhere rows of a chunk are a multiple of it, for which a TPU's compiler finds a plan sooner


def head_loss(
    table: Float[Table, "V D"], x: Float[Array, "*batch D"], targets: Int[Array, "*batch"],
    weights: Float[Array, "*batch"] | None = None, change: Callable[[Array], Array] | None = None,
) -> Float[Array, ""]:  # fmt: skip
    """`jaxllm.loss.head_loss` in chunks.

    Tokens go through the head in chunks of `MOST_LOGITS` logits. Under differentiation the forward also computes the
    gradients of a chunk, while it holds the chunk's logits, on a CPU with the vocabulary cut into parts of `MOST_IDS`.
    In half precision the gradient of the logits is rounded to it, as any other gradient is.
    """
    if on_mesh.active() and x.ndim == 3:
        return _on_mesh(change or _unchanged, table, x, targets, weights)
    return _on_one_device(change or _unchanged, table, x, targets, weights)


def _on_mesh(change: Change, table: Table, x: Array, targets: Array, weights: Array | None) -> Array:
    """As `_on_one_device`; each device has the whole table, and its own rows and positions."""
    rows, places = on_mesh.that_divide(x.shape[0], ROWS), on_mesh.that_divide(x.shape[1], (CONTEXT, TENSOR))
    spec = PartitionSpec(rows, places)

    def own(table: Table, x: Array, targets: Array, weights: Array | None) -> Array:
        return on_mesh.summed(_on_one_device(change, table, x, targets, weights), spec)

    whole = PartitionSpec()
    return cast(Array, on_mesh.on_each_device(own, (whole, spec, spec, spec), whole)(table, x, targets, weights))


def _on_one_device(change: Change, table: Table, x: Array, targets: Array, weights: Array | None) -> Array:
    rows = jnp.ones(targets.size, at_least_float32(x).dtype) if weights is None else weights.reshape(-1)
    return _head_loss(change, table, x.reshape(-1, x.shape[-1]), targets.reshape(-1), rows)


def _unchanged(logits: Array) -> Array:
    return logits


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head_loss(change: Change, table: Table, x: Array, targets: Array, weights: Array) -> Array:
    def chunk(rows: tuple[Array, ...]) -> Array:
        return token_losses(change(token_logits(table, rows[0])), rows[1])

    losses = jax.lax.map(chunk, _chunks(table, x, targets))
    return (losses.reshape(-1)[: targets.size] * weights).sum()


def _head_loss_forward(
    change: Change, table: Array, x: Array, targets: Array, weights: Array
) -> tuple[Array, tuple[Array, ...]]:
    cuts = tuple(range(MOST_IDS, len(table), MOST_IDS)) if platform() == "cpu" else ()
    parts = [part.astype(x.dtype) for part in jnp.split(table, cuts)]

    def chunk(dparts: list[Array], rows: tuple[Array, ...]) -> tuple[list[Array], tuple[Array, Array]]:
        x, targets, weights = rows
        raw = [product("td,vd->tv", x, part, dpart.dtype) for part, dpart in zip(parts, dparts, strict=True)]
        zs, backs = zip(*[jax.vjp(change, z) for z in raw], strict=True)
        peak = reduce(jnp.maximum, [z.max(-1) for z in zs])[:, None]
        total = reduce(jnp.add, [jnp.exp(z - peak).sum(-1) for z in zs])[:, None]
        dx, grown = jnp.zeros(x.shape, peak.dtype), []
        for start, part, z, back, dpart in zip((0, *cuts), parts, zs, backs, dparts, strict=True):
            came = jax.nn.one_hot(targets - start, len(part), dtype=z.dtype)
            dz = back((jnp.exp(z - peak) / total - came) * weights[:, None])[0].astype(x.dtype)
            grown.append(dpart + product("tv,td->vd", dz, x, dpart.dtype))
            dx += product("tv,vd->td", dz, part, dx.dtype)
        chosen = reduce(jnp.fmax, [_entry(z, targets - start) for start, z in zip((0, *cuts), zs, strict=True)])
        return grown, (jnp.log(total[:, 0]) - (chosen - peak[:, 0]), dx.astype(x.dtype))

    zeros = [jnp.zeros(part.shape, jnp.promote_types(table.dtype, jnp.float32)) for part in parts]
    dparts, (losses, dx) = jax.lax.scan(chunk, zeros, _chunks(table, x, targets, weights))
    dtable = jnp.concatenate(dparts).astype(table.dtype)
    losses, dx = losses.reshape(-1)[: len(x)], dx.reshape(-1, x.shape[-1])[: len(x)]
    return (losses * weights).sum(), (dtable, dx, losses.astype(weights.dtype))


def _head_loss_backward(change: Change, saved: tuple[Array, ...], dy: Array) -> tuple[Array, Array, None, Array]:
    dtable, dx, dweights = (g * dy.astype(g.dtype) for g in saved)
    return dtable, dx, None, dweights


_head_loss.defvjp(_head_loss_forward, _head_loss_backward)


def answer_log_probs(
    table: Float[Table, "V D"], x: Float[Array, "*batch T D"], targets: Int[Array, "*batch T"],
    change: Callable[[Array], Array] | None = None,
) -> Float[Array, "*batch"]:  # fmt: skip
    """`jaxllm.loss.answer_log_probs` in chunks of at most `MOST_LOGITS` logits, which the backward computes again."""
    if on_mesh.active() and x.ndim == 3:
        rows, places = on_mesh.that_divide(x.shape[0], ROWS), on_mesh.that_divide(x.shape[1], (CONTEXT, TENSOR))
        whole, spec = PartitionSpec(), PartitionSpec(rows, places)

        def own(table: Table, x: Array, targets: Array) -> Array:
            return on_mesh.summed(_answer_log_probs(change, table, x, targets), PartitionSpec(places))

        return cast(Array, on_mesh.on_each_device(own, (whole, spec, spec), PartitionSpec(rows))(table, x, targets))
    return _answer_log_probs(change, table, x, targets)


def _answer_log_probs(change: Change | None, table: Table, x: Array, targets: Array) -> Array:
    @jax.checkpoint
    def chunk(rows: tuple[Array, ...]) -> Array:
        logits = token_logits(table, rows[0])
        return answer_losses(logits if change is None else change(logits), rows[1])

    losses = jax.lax.map(chunk, _chunks(table, x.reshape(-1, x.shape[-1]), targets.reshape(-1)))
    return -losses.reshape(-1)[: targets.size].reshape(targets.shape).sum(-1)


def _chunks(table: Table, *rows: Array) -> tuple[Array, ...]:
    """Arrays [N, ...] as [chunks, rows of a chunk, ...]; the last chunk is padded with zeros, weights too."""
    n = len(rows[0])
    chunks = -(-n * len(table) // MOST_LOGITS)
    size = -(-n // chunks)
    if chunks > 1 and platform() != "cpu":
        size += -size % ALIGNED
        chunks = -(-n // size)
    missing = chunks * size - n
    padded = (jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in rows)
    return tuple(x.reshape(chunks, -1, *x.shape[1:]) for x in padded)
