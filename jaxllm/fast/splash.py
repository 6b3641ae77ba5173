"""Causal attention by the kernel for TPUs that JAX ships: `jax.experimental.pallas.ops.tpu.splash_attention`.

It keeps scores in the chip's own memory, as FlashAttention does (Dao et al. 2022), and leaves out blocks that the mask
hides. Its backward in two kernels needs memory that grows with T; the fused one would need a dq for each block of keys.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.fast.platform import platform

STEP = 128  # lengths and blocks are multiples of it
BLOCKS = (512, 256, STEP)  # rows of a block: the first that divides the length


def splash_attention(
    q: Float[Array, "*batch T K"], k: Float[Array, "*batch T K"], v: Float[Array, "*batch T K"],
    documents: Int[Array, "*#batch T"] | None = None, window: int | None = None, cap: float | None = None,
) -> Float[Array, "*batch T K"]:  # fmt: skip
    """`jaxllm.attention.causal_dot_product_attention` for a T in steps of 128, perhaps with a soft cap of the scores.

    On a CPU the kernel is interpreted.
    """
    # JAX's module takes long to import, and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length = q.shape[-2]
    shape, block = (length, length), next(size for size in BLOCKS if length % size == 0)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": block for name in names}
    attend = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask]),
        block_sizes=kernels.BlockSizes(**sizes),
        interpret=platform() == "cpu",
        attn_logits_soft_cap=cap,
    )

    def one(q: Array, k: Array, v: Array, own: Array | None) -> Array:
        return attend(q, k, v, None if own is None else kernels.SegmentIds(own, own))

    q, k, v_flat = (x.reshape(-1, 1, *x.shape[-2:]) for x in (q * q.shape[-1] ** -0.5, k, v))
    own = None if documents is None else jnp.broadcast_to(documents, v.shape[:-1]).reshape(-1, length)
    return jax.vmap(one)(q, k, v_flat, own).reshape(v.shape)
