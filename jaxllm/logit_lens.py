"""The logit lens: what a model would say next if a block's output were its last.

nostalgebraist reads GPT-2's stream out of a session of TensorFlow, TransformerLens out of hooks in the model; here the
lens is a function of the stream and of the parameters that read it. The NumPy twin is `jaxllm.reference.logit_lens`.
"""

from typing import Any

from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.embeddings import token_logits
from jaxllm.layers import NORMS, linear
from jaxllm.precision import at_least_float32


def logit_lens(config: GPTConfig, params: Any, x: Array) -> Array:
    """The final norm and the head, applied to the residual stream after any block: x [..., D] -> logits [..., V].

    `params` are the model's, of which `norm_final` and `head` (tied: `token_embedding`) are read. At least float32;
    after the last block these are the model's logits. nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    norm = params["norm_final"]
    x = NORMS[config.norm](x, norm["scale"], norm.get("bias"), config.norm_epsilon)
    if config.tie_embeddings:
        return token_logits(params["token_embedding"]["table"], x)
    return at_least_float32(linear(x, params["head"]["kernel"]))
