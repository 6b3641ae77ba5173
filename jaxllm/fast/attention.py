"""Causal attention in chunks: `jaxllm.attention.causal_dot_product_attention`, faster and in less memory.

The queries are cut into chunks. A chunk reads only the keys up to the end of its group, so most of the masked half is
never computed. Beyond `KEPT` positions the weights [T, T] are not kept: the backward computes a chunk's weights again
from the saved maximum and sum of each row, as FlashAttention does (Dao et al. 2022), so that memory grows with T.
Because only queries are cut, no running maximum is needed, and XLA gets large matrix products. Where a rule looks
ahead, all chunks are one group, which reads all keys. On an NVIDIA GPU that supports it cuDNN's kernel
runs instead, and on a TPU the one of `jaxllm.fast.splash`.
"""

from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.attention import Rule, Score, visible
from jaxllm.fast import on_mesh
from jaxllm.fast.chunk_scores import ChunkScores
from jaxllm.fast.platform import platform
from jaxllm.fast.products import product
from jaxllm.fast.splash import STEP, splash_attention
from jaxllm.parallel import CONTEXT, ROWS, TENSOR
from jaxllm.precision import at_least_float32
from jaxllm.softcap import SoftCap

GROUPS = 4  # of chunks, each with keys up to its own end: 5/8 of the full square is computed
KEPT = 512  # positions up to which the exponentials are kept for the backward, which is then quicker
SHORTEST, LONGEST = 64, 256  # queries of a chunk: shorter ones make slower products, longer ones need more memory


def causal_dot_product_attention(
    q: Float[Array, "*batch T K"], k: Float[Array, "*batch T K"], v: Float[Array, "*batch T V"],
    documents: Int[Array, "*#batch T"] | None = None, window: int | None = None, rule: Rule | None = None,
    score: Score | None = None,
) -> Float[Array, "*batch T V"]:  # fmt: skip
    """`jaxllm.attention.causal_dot_product_attention` in chunks, or by a kernel (`attention_path`).

    Scores and sums are in at least float32. Reverse-mode derivatives only. With a `rule` or a `score`, which are static
    and hashable, it is in chunks; a TPU's kernel has a `SoftCap` too. Raises ValueError where shapes do not fit.
    """
    if q.shape != k.shape or q.shape[:-1] != v.shape[:-1]:
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} must agree, except in the last axis of v.")
    if on_mesh.active() and q.ndim == 4:
        return _on_mesh(q, k, v, documents, window, rule, score)
    return _on_one_device(q, k, v, documents, window, rule, score)


def _on_mesh(
    q: Array, k: Array, v: Array, documents: Array | None, window: int | None, rule: Rule | None, score: Score | None
) -> Array:
    """As `_on_one_device`; each device has its own rows of the batch, its own heads and its own positions."""
    rows, heads = on_mesh.that_divide(q.shape[0], ROWS), on_mesh.that_divide(q.shape[1], TENSOR)
    places = on_mesh.that_divide(q.shape[2], CONTEXT)
    if heads and not isinstance(score, SoftCap | None):
        score = cast(Score, ScoreOfOwnHeads(score, q.shape[1] // on_mesh.size(heads)))

    def own(q: Array, k: Array, v: Array, documents: Array | None) -> Array:
        return _on_one_device(q, k, v, documents, window, rule, score, on_mesh.size(places or ()))

    documents = None if documents is None else jnp.broadcast_to(documents, q.shape[:-1])
    spec = PartitionSpec(rows, heads, places)
    return cast(Array, on_mesh.on_each_device(own, spec, spec)(q, k, v, documents))


class ScoreOfOwnHeads(NamedTuple):
    """A score on a device that has `n` of the heads, from the numbers that they have there."""

    score: Score
    n: int

    def __call__(self, scores: Array, head: Array, t: Array, s: Array) -> Array:
        """The score in its place, from the heads' numbers among all."""
        return self.score(scores, head + self.n * jax.lax.axis_index(TENSOR), t, s)


def _on_one_device(
    q: Array, k: Array, v: Array, documents: Array | None, window: int | None, rule: Rule | None, score: Score | None,
    parts: int = 1,
) -> Array:  # fmt: skip
    """Attention from q, k and v of a device; where positions are in `parts`, along "context", those are its own."""
    cap = score.cap if isinstance(score, SoftCap) else None
    cut = documents is not None or window is not None or cap is not None
    path = attention_path(q, v, cut, parts) if rule is None and (score is None or cap is not None) else "chunked"
    if path == "splash":
        return splash_attention(q, k, v, documents, window, cap)
    if path == "cuDNN":
        swapped = (jnp.swapaxes(x, -2, -3) for x in (q, k, v))
        return jnp.swapaxes(jax.nn.dot_product_attention(*swapped, is_causal=True, implementation="cudnn"), -2, -3)
    length = q.shape[-2]
    plan = chunking(length, looks_ahead(rule, length, documents is not None), parts)
    arguments = [q, k, v]
    if documents is not None:
        arguments.append(jnp.broadcast_to(documents, q.shape[:-1])[..., None])
    # XLA's products on a CPU are faster with one axis of batch and heads.
    flat = (_lengthened(x.reshape(-1, *x.shape[-2:]), plan.groups * plan.rows) for x in arguments)
    scores = ChunkScores(parts * length, window, rule, score, q.shape[-3] if q.ndim > 2 else 1)
    return _attend(Form(plan, scores, parts), *flat)[:, :length].reshape(v.shape)


def attention_path(
    q: Array | jax.ShapeDtypeStruct, v: Array | jax.ShapeDtypeStruct, cut: bool = False, parts: int = 1
) -> str:
    """ "cuDNN", "splash" or "chunked": the path that attention takes for these shapes [B, H, T, K] and dtypes.

    `cut`: attention stays within documents or a window, or its scores have a soft cap. cuDNN takes half precision,
    heads of at most 128 features in steps of 8, an even length, Ampere or newer, and is not cut. A TPU's kernel takes
    bfloat16 and lengths in steps of 128. Neither takes positions in `parts`, on devices of their own.
    """
    length, width = q.shape[-2:]
    if q.shape != v.shape or len(q.shape) != 4 or parts > 1:
        return "chunked"
    if platform() == "tpu":
        return "splash" if q.dtype == jnp.bfloat16 and length % STEP == 0 else "chunked"
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fits = half and width <= 128 and width % 8 == 0 and length % 2 == 0
    return "cuDNN" if fits and not cut and _has_cudnn() else "chunked"


def _has_cudnn() -> bool:
    if platform() != "gpu":
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0")  # "9.0" on an H100, "gfx90a" on AMD's
    return capability.split(".")[0].isdecimal() and float(capability) >= 8.0


def _lengthened(x: Array, length: int) -> Array:
    """[N, T, F] with zeros up to `length`: as keys they are masked, as queries their results are dropped."""
    return jnp.pad(x, [(0, 0), (0, length - x.shape[1]), (0, 0)])


class Chunking(NamedTuple):
    """How the queries are cut: `groups` of `chunks` each of `size` rows. A group's chunks share their keys' end."""

    groups: int
    chunks: int
    size: int

    @property
    def rows(self) -> int:
        """The number of rows of a group."""
        return self.chunks * self.size


def chunking(length: int, ahead: bool = False, parts: int = 1) -> Chunking:
    """How causal attention cuts a length; one group, which reads all keys, where positions look `ahead`.

    The same where the length is one of `parts`: which keys a device could leave out depends on its part, and the last
    one, which has nearly all to read, would be waited for. Its chunks are shorter, as they hold scores of all keys.
    """
    groups = 1 if ahead or parts > 1 else min(GROUPS, -(-length // SHORTEST))
    chunks = -(-length // (groups * max(LONGEST // parts, SHORTEST)))
    return Chunking(groups, chunks, -(-length // (groups * chunks)))


@lru_cache
def looks_ahead(rule: Rule | None, length: int, documents: bool) -> bool:
    """Whether a rule lets any position below `length` depend on a later one; all pairs of positions are tried.

    A position that sees nothing has equal weights for all, so one that does not see itself counts too. With
    `documents`, pairs are tried in the first and in the second document of a row, and from the first to the second.
    """
    if rule is None:
        return False

    def found(t: Array, before: Array) -> Array:
        t, s = jnp.full(length, t), jnp.arange(length)
        for pair in [(0, 0), (1, 1), (0, 1)] if documents else [(None, None)]:
            own, theirs = (None if n is None else jnp.full(length, n) for n in pair)
            seen = visible(t, s, own, theirs, rule=rule)
            before |= jnp.where(s == t, ~seen & (pair[0] == pair[1]), seen & (s > t)).any()
        return before

    with jax.ensure_compile_time_eval():
        return bool(jax.lax.fori_loop(0, length, found, jnp.asarray(False)))


class Form(NamedTuple):
    """What is constant in an attention."""

    plan: Chunking
    scores: ChunkScores
    parts: int  # of the positions, along "context"

    @property
    def n_own(self) -> int:
        """The number of positions of this device."""
        return self.scores.length // self.parts


class Saved(NamedTuple):
    """The inputs of the backward: arguments, result, each row's maximum and sum, and perhaps the exponentials."""

    q: Array
    k: Array
    v: Array
    documents: tuple[Array, ...]  # [N, T, 1], or none
    out: Array
    peak: Array
    total: Array
    kept: tuple[Array, ...] = ()  # each group's exponentials [N, rows, keys], or none


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(form: Form, q: Array, k: Array, v: Array, *documents: Array) -> Array:
    return _attend_forward(form, q, k, v, *documents)[0]


def _attend_forward(form: Form, q: Array, k: Array, v: Array, *documents: Array) -> tuple[Array, Saved]:
    plan, of_all = form.plan, _from_all_parts(form, k, v, *documents)
    keep = of_all[0].shape[-2] <= KEPT

    def group(g: int) -> tuple[Array, ...]:
        keys, values, *theirs = _read_by(plan, g, *of_all)

        def chunk(_: None, rows: tuple) -> tuple[None, tuple[Array, ...]]:
            start, q, *own = rows
            scores = form.scores.of(q, keys, start, *own, *theirs)
            peak = scores.max(-1, keepdims=True)
            p = jnp.exp(scores - peak)
            total = p.sum(-1, keepdims=True)
            p = p.astype(v.dtype)
            out = (_product("...ts,...sk->...tk", p, values) / total).astype(v.dtype)
            return None, (out, peak, total, *([p] if keep else []))

        return _over_chunks(chunk, None, form, g, _group(plan, g, q, *documents))[1]

    outs, peaks, totals, *kept = zip(*map(group, range(plan.groups)), strict=True)
    out, peak, total = (jnp.concatenate(x, -2) for x in (outs, peaks, totals))
    return out, Saved(q, k, v, documents, out, peak, total, *kept)


def _attend_backward(form: Form, saved: Saved, dout: Array) -> tuple[Array | None, ...]:
    """With weights w = p / sum p: dv = w^T dout, ds = w (dout v^T - sum out dout); dout absorbs the 1 / sum p.

    Where a score is given, ds goes back through it, at the scores computed again.
    """
    if not saved.kept:  # without the barrier XLA finds the forward's scores in the backward and keeps them
        saved, dout = optimization_barrier((saved, dout))
    q, k, v, documents, out, peak, total, kept = saved
    plan, scale = form.plan, q.shape[-1] ** -0.5
    dout = (dout / total).astype(v.dtype)
    shift = (at_least_float32(out) * dout).sum(-1, keepdims=True)
    of_all = _from_all_parts(form, k, v, *documents)

    def group(g: int) -> tuple[Array, tuple[Array, Array]]:
        keys, values, *theirs = _read_by(plan, g, *of_all)

        def chunk(grown: tuple[Array, Array], rows: tuple) -> tuple[tuple[Array, Array], Array]:
            start, q, dout, peak, shift, *rest = rows
            own, p_kept = rest[: len(theirs)], rest[len(theirs) :]
            p = p_kept[0] if p_kept else jnp.exp(form.scores.of(q, keys, start, *own, *theirs) - peak)
            dp = _product("...tk,...sk->...ts", dout, values)
            ds = p * (dp - shift)
            if form.scores.rule is not None:  # a row may see nothing, and has equal weights then
                ds = jnp.where(form.scores.seen(ds.shape, start, *own, *theirs), ds, 0)
            ds = (form.scores.before_change(q, keys, start, ds) * scale).astype(q.dtype)
            dk = _product("...ts,...tk->...sk", ds, q)
            dv = _product("...ts,...tk->...sk", p, dout)
            return (grown[0] + dk, grown[1] + dv), _product("...ts,...sk->...tk", ds, keys).astype(q.dtype)

        zero = tuple(jnp.zeros(x.shape, shift.dtype) for x in (keys, values))
        rows = (*_group(plan, g, q, dout, peak, shift, *documents), *kept[g : g + 1])
        grown, dq = _over_chunks(chunk, zero, form, g, rows)
        return dq, grown

    dqs, grown = zip(*map(group, range(plan.groups)), strict=True)
    n_keys = of_all[0].shape[-2]
    sums = (reduce(jnp.add, [_lengthened(x, n_keys) for x in parts]) for parts in zip(*grown, strict=True))
    dk, dv = (_to_own_part(form, total, q.shape[-2]) for total in sums)
    return jnp.concatenate(dqs, -2), dk.astype(k.dtype), dv.astype(v.dtype), *[None for _ in documents]


_attend.defvjp(_attend_forward, _attend_backward)


def _from_all_parts(form: Form, *own: Array) -> tuple[Array, ...]:
    """Arrays [N, T, F] of keys from those [N, rows, F] of this device, whose rows beyond its positions are padding.

    They are gathered again in the backward, as `own` is all that is kept.
    """
    if form.parts == 1:
        return own
    return tuple(jax.lax.all_gather(x[:, : form.n_own], CONTEXT, axis=1, tiled=True) for x in own)


def _to_own_part(form: Form, x: Array, length: int) -> Array:
    """The sum over the parts of gradients [N, T, F], at this device's keys, with padding up to `length`."""
    if form.parts == 1:
        return x
    return _lengthened(jax.lax.psum_scatter(x, CONTEXT, scatter_dimension=1, tiled=True), length)


def _first_row(form: Form) -> Array | int:
    """The position of this device's first query."""
    return 0 if form.parts == 1 else jax.lax.axis_index(CONTEXT) * form.n_own


def _read_by(plan: Chunking, group: int, *arrays: Array) -> tuple[Array, ...]:
    """What a group reads of arrays [..., T, F] of keys: all up to its end; one group alone reads all."""
    return tuple(x[..., : x.shape[-2] * (group + 1) // plan.groups, :] for x in arrays)


def _group(plan: Chunking, group: int, *arrays: Array) -> tuple[Array, ...]:
    """The rows of a group from each array [..., T, F]."""
    return tuple(x[..., group * plan.rows : (group + 1) * plan.rows, :] for x in arrays)


def _over_chunks(chunk: Callable, carry: Any, form: Form, group: int, rows: tuple[Array, ...]) -> tuple[Any, Any]:
    """`jax.lax.scan` of chunk(carry, (number of its first row, *its rows)) over chunks of a group's [..., rows, F]."""
    plan = form.plan

    def cut(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-2], plan.chunks, plan.size, x.shape[-1]), -3, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, -3)
        return x.reshape(*x.shape[:-3], plan.rows, x.shape[-1])

    starts = _first_row(form) + group * plan.rows + plan.size * jnp.arange(plan.chunks)
    carry, outs = jax.lax.scan(chunk, carry, (starts, *map(cut, rows)))
    return carry, jax.tree.map(join, outs)


def _product(axes: str, a: Array, b: Array) -> Array:
    """The product of both in the dtype of b, accumulated in at least float32."""
    return product(axes, a.astype(b.dtype), b, at_least_float32(b).dtype)
