"""The logit lens: what a model would predict if a block's output were its last.

The NumPy twin is `jaxllm.reference.logit_lens`.
"""

from typing import Any

from jaxtyping import Float

from jaxllm.array import Array
from jaxllm.config import GPTConfig, check_predicts_tokens
from jaxllm.embeddings import token_logits
from jaxllm.layers import NORMS, linear
from jaxllm.precision import at_least_float32
from jaxllm.softcap import change_of_logits
from jaxllm.utils.ideas import named


def logit_lens(config: GPTConfig, params: Any, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """The final norm and the head, applied to the residual stream after any block, in at least float32.

    `params` are the model's; `norm_final` and `head` (tied: `token_embedding`) are read. After the last block these are
    the model's logits. nostalgebraist 2020, "interpreting GPT: the logit lens". Raises InputError for a classifier.
    """
    check_predicts_tokens(config)
    norm = params["norm_final"]
    x = named(config.norm, NORMS, "model.norm")(x, norm["scale"], norm.get("bias"), config.norm_epsilon)
    x = x if config.width_ratio == 1 else x / config.width_ratio
    if config.tie_embeddings:
        logits = token_logits(params["token_embedding"]["table"], x)
    else:
        logits = at_least_float32(linear(x, params["head"]["kernel"]))
    change = change_of_logits(config)
    return logits if change is None else change(logits)
