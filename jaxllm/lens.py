"""The logit lens: what a model would say next if a block's output were its last.

nostalgebraist reads GPT-2's stream out of a session of TensorFlow, TransformerLens out of hooks in the model; here the
lens is a function of the stream and of the parameters that read it. The NumPy twin is `jaxllm.reference.lens`.
"""

from jax import Array

from jaxllm.embeddings import token_logits
from jaxllm.layers import EPSILON, NORMS


def logit_lens(
    x: Array, table: Array, scale: Array, bias: Array | None = None, norm: str = "layer_norm", epsilon: float = EPSILON
) -> Array:
    """The final norm and the head, applied to the residual stream after any block: x [..., D] -> logits [..., V].

    `table` [V, D] is the token table of a tied head, the transposed kernel of another; scale and bias [D] are those of
    the final norm, of the kind `norm`. At least float32. nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return token_logits(table, NORMS[norm](x, scale, bias, epsilon))
