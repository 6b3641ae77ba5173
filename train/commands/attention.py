"""Looking inside: a prompt as the model of a run sees it, and `jaxllm attention`.

BertViz draws in a notebook with scripts from a server; here a picture or a page is one file that needs nothing else.
Both read the intermediates of the GPT, so they show what the model computes, not a computation like it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.utf8 import visible

from ..nonfinite import check_computed
from ..outputs import check_output
from ..runs.load import TrainedRun, load_run
from ..writer import check_length, prompt_ids
from .attention_page import attention_page
from .attention_plot import attention_picture

MOST_TOKENS = {".html": 256, ".png": 128, ".svg": 128, ".pdf": 128}  # a page of so many has 13 MB for each 144 heads


class Prompt(NamedTuple):
    """A run and the ids of a prompt, each with a label that shows on one line what the token is."""

    run: TrainedRun
    ids: list[int]
    labels: list[str]


def read_prompt(path: str, step: str | None, prompt: str, most: int | None = None) -> Prompt:
    """Raises InputError for a prompt without tokens, or with more than `most` or than the model's context holds."""
    check_length("--prompt", prompt)
    run = load_run(path, step)
    ids = prompt_ids(run, prompt)
    context = run.model.config.context_length
    if len(ids) > context:
        raise InputError(f"--prompt has {len(ids):,} tokens, more than the model's context of {context:,}; shorten it.")
    if most is not None and len(ids) > most:
        raise InputError(f"--prompt has {len(ids):,} tokens, but --out can show at most {most}; shorten it.")
    return Prompt(run, ids, [label(run.tokenizer, i) for i in ids])


def label(tokenizer: Tokenizer, token: int) -> str:
    """A token for an axis: spaces seen, what does not show and bytes that are a part of a character escaped."""
    return visible(tokenizer.decode_bytes([token])).replace(" ", "␣") or f"id {token}"


def attention_weights(model: GPT, params: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What each token attends to, in every head of every layer, and the largest logit that it leads to.

    float32 [L, H, T, T], rows that sum to 1; float32 [T].
    """

    @jax.jit
    def weights(params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, seen = apply_with_intermediates(model, params, tokens)
        by_layer = [seen[f"block_{i}/attention/weights"][0] for i in range(model.config.n_layers)]
        return jnp.stack(by_layer).astype(jnp.float32), logits[0].max(-1)

    attended, largest = weights(params, jnp.asarray([ids], jnp.int32))
    return np.asarray(attended), np.asarray(largest)


def attention_command(path: str, step: str | None, prompt: str, out: str, layer: int | None) -> None:
    """`jaxllm attention`: writes the picture or the page."""
    check_output("--out", out, tuple(MOST_TOKENS))
    suffix = Path(out).suffix.lower()
    looked = read_prompt(path, step, prompt, MOST_TOKENS[suffix])
    config = looked.run.model.config
    if layer is not None and not 0 <= layer < config.n_layers:
        raise InputError(f"--layer is {layer}, but it must be from 0 to {config.n_layers - 1}, the model's last layer.")
    weights, largest = attention_weights(looked.run.model, looked.run.params, looked.ids)
    for computed in (weights, largest):
        check_computed(computed, path, looked.run.params)
    if suffix == ".html":
        content = attention_page(path, weights, looked.labels, layer or 0).encode()
    else:
        content = attention_picture(path, weights, looked.labels, layer, suffix)
    replace_file(Path(out), content)
    print(f"{out}: {len(looked.ids)} tokens, {config.n_layers} layers of {config.n_heads} heads")
