"""The model that `jaxllm learn show` shows where there is no run: so small that its grids can be read."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxllm import GPT, GPTConfig
from jaxllm.data import input_target_pairs
from jaxllm.gpt import summed_loss
from jaxllm.tokenizers import Tokenizer, WordTokenizer
from jaxllm.utils.errors import InputError

from ...config import OptimizerConfig
from ...optimizer import make_optimizer

SENTENCES = (
    "Please buy an apple and an orange",
    "Please buy the new phone",
    "apple unveiled the new phone",
    "the orange is sweet and the apple is sweet",
)
CONTEXT = 8  # tokens, or those of the text if they are more
STEPS = 60
MOST_TOKENS = 40  # of a text: a map of weights has as many rows and columns
RULE = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0)


class Shown(NamedTuple):
    """A model and what it reads text with."""

    model: GPT
    params: Any
    tokenizer: Tokenizer
    rule: OptimizerConfig


def small_model(text: str) -> Shown:
    """A GPT of 2 blocks of 2 heads with 8 features, trained on four sentences and the text; about 10 seconds.

    Raises InputError for a text without words, and for one with more than a page shows.
    """
    if not text.split():
        raise InputError("--text holds no words; give a sentence.")
    if (n := len(text.split())) > MOST_TOKENS:
        raise InputError(f"--text has {n:,} words, but a page shows at most {MOST_TOKENS} tokens; shorten it.")
    sentences = [*SENTENCES, *([] if text in SENTENCES else [text])]
    tokenizer = WordTokenizer.train(sentences)
    ids = [i for sentence in sentences for i in (*tokenizer.encode(sentence, ()), tokenizer.end_of_text)]
    length = max(CONTEXT, len(tokenizer.encode(text, ())))
    config = GPTConfig(tokenizer.vocab_size, context_length=length, d_model=8, n_layers=2, n_heads=2)
    return Shown(GPT(config), _trained(GPT(config), *input_target_pairs(ids, CONTEXT, 1)), tokenizer, RULE)


def _trained(model: GPT, inputs: Any, targets: Any) -> Any:
    """The parameters after `STEPS` steps on all pairs at once."""
    optimizer = make_optimizer(RULE, STEPS)
    inputs, targets = jnp.asarray(inputs, jnp.int32), jnp.asarray(targets, jnp.int32)

    def step(state: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        gradients = jax.grad(lambda params: summed_loss(model, params, inputs, targets) / targets.size)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    params = model.init(jax.random.key(0), inputs)["params"]
    (params, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, None, STEPS))((params, optimizer.init(params)))
    return params
