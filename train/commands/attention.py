"""`jaxllm attention`: what each token of a prompt attends to, as one file, a picture or a page.

It shows intermediates of the GPT, so the weights are those that the model computes with.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..nonfinite import check_computed
from ..outputs import check_output
from .attention_page import attention_page
from .attention_plot import attention_picture
from .options import Parser
from .pieces import label
from .prompt import add_prompt, read_prompt

MOST_TOKENS = {".html": 256, ".png": 128, ".svg": 128, ".pdf": 128}  # larger files are too heavy to look at


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, 'jaxllm attention runs/first --prompt "Please buy an apple and an orange" --out map.html')
    add_prompt(parser)
    parser.add_argument(
        "--out", required=True, metavar="FILE",
        help="a picture (.png, .svg, .pdf; at most 128 tokens), or a page to explore in a browser (.html; at most 256)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=int, metavar="N",
        help="draw the heads of this layer large, or open the page there; default: a small map of every head",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Write the picture or the page."""
    path, out, layer = arguments.path, Path(arguments.out), arguments.layer
    check_output("--out", arguments.out, tuple(MOST_TOKENS))
    suffix = out.suffix.lower()
    trained, ids = read_prompt(path, arguments.step, arguments.prompt, MOST_TOKENS[suffix], arguments.code)
    config = trained.model.config
    if layer is not None and not 0 <= layer < config.n_layers:
        raise InputError(f"--layer is {layer}, but it must be from 0 to {config.n_layers - 1}, the model's last layer.")
    weights, largest = attention_weights(trained.model, trained.params, ids)
    for computed in (weights, largest):
        check_computed(computed, path, trained.params)
    labels = [label(trained.tokenizer, i) for i in ids]
    if suffix == ".html":
        content = attention_page(path, weights, labels, layer or 0).encode()
    else:
        content = attention_picture(path, weights, labels, layer, suffix)
    replace_file(out, content)
    print(f"{arguments.out}: {len(ids)} tokens, {config.n_layers} layers of {config.n_heads} heads")


def attention_weights(model: GPT, params: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The attention weights of every head, float32 [L, H, T, T], and the largest logit of each token, float32 [T].

    Rows of the weights sum to 1.
    """

    @jax.jit
    def weights(params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, seen = apply_with_intermediates(model, params, tokens)
        if "block_0/attention/weights" not in seen:
            raise InputError(f"model.block is {model.config.block}, which has no attention whose weights are known.")
        by_layer = [seen[f"block_{i}/attention/weights"][0] for i in range(model.config.n_layers)]
        return jnp.stack(by_layer).astype(jnp.float32), logits[0].max(-1)

    attended, largest = weights(params, jnp.asarray([ids], jnp.int32))
    return np.asarray(attended), np.asarray(largest)
