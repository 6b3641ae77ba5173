"""`jaxllm attention`: what each token of a prompt attends to, as a picture, a page, or a ranking of heads.

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
from ..pieces import label
from .attention_page import attention_page
from .attention_plot import attention_picture
from .attention_ranking import ranking
from .attention_words import choose_spans, spans_of, token_bytes
from .options import Parser
from .prompt import add_prompt, read_prompt

MOST_TOKENS = {".html": 256, ".png": 128, ".svg": 128, ".pdf": 128}  # larger files are too heavy to look at
MOST_RANKED = 512  # tokens of a prompt; the weights of all heads are in memory


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(
        run, 'jaxllm attention runs/first --prompt "Buy an apple and an orange" --from orange --to apple --out map.html'
    )
    add_prompt(parser)
    parser.add_argument(
        "--out", metavar="FILE",
        help="a picture (.png, .svg, .pdf; at most 128 tokens), or a page to explore in a browser (.html; at most 256)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=int, metavar="N",
        help="for --out: draw the heads of this layer large, or open the page there; default: a small map of all heads",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", metavar="WORD",
        help="rank the heads in which this word of the prompt, by its last token, attends to that of --to; of several "
        "occurrences the last",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="target", metavar="WORD",
        help="the weights of its tokens are summed; of several occurrences the last before the word of --from",
    )  # fmt: skip
    parser.add_argument("--top", type=int, metavar="N", help="how many heads to rank; default 10")


def run(arguments: argparse.Namespace) -> None:
    """Print the ranking, and write the picture or the page."""
    check_options(arguments)
    path, out, source, target = arguments.path, arguments.out, arguments.source, arguments.target
    most, user = (MOST_TOKENS[Path(out).suffix.lower()], "--out") if out else (MOST_RANKED, "--from")
    trained, ids = read_prompt(path, arguments.step, arguments.prompt, most, arguments.code, user)
    config, layer, spans = trained.model.config, arguments.layer, None
    if layer is not None and not 0 <= layer < config.n_layers:
        raise InputError(f"--layer is {layer}, but it must be from 0 to {config.n_layers - 1}, the model's last layer.")
    if source is not None:
        pieces = token_bytes(trained.tokenizer, ids, trained.begin_token)
        spans = choose_spans(
            spans_of("--from", source, arguments.prompt, pieces), spans_of("--to", target, arguments.prompt, pieces)
        )
    weights, largest = attention_weights(trained.model, trained.params, ids)
    for computed in (weights, largest):
        check_computed(computed, path, trained.params)
    labels = [label(trained.tokenizer, i) for i in ids]
    if spans is not None:
        top = 10 if arguments.top is None else arguments.top
        print("\n".join(ranking(weights, labels, (source, spans[0]), (target, spans[1]), top)))
    if out:
        replace_file(Path(out), drawing(Path(out), path, weights, labels, layer))
        print(f"{out}: {len(ids)} tokens, {config.n_layers} layers of {config.n_heads} heads")


def check_options(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together, and for a place where nothing can be written."""
    a = arguments
    if a.out is None and a.source is None and a.target is None:
        raise InputError("--out is missing, and so are --from and --to; give a file, or two words of the prompt.")
    if (a.source is None) != (a.target is None):
        given, missing = ("--to", "--from") if a.source is None else ("--from", "--to")
        raise InputError(f"{given} is given without {missing}; give both words.")
    if a.top is not None and a.source is None:
        raise InputError(f"--top is {a.top}, but it is for --from and --to, which are missing.")
    if a.top is not None and a.top < 1:
        raise InputError(f"--top is {a.top}, but it must be at least 1.")
    if a.layer is not None and a.out is None:
        raise InputError(f"--layer is {a.layer}, but it is for --out, which is missing.")
    check_output("--out", a.out, tuple(MOST_TOKENS))


def drawing(out: Path, name: str, weights: np.ndarray, labels: list[str], layer: int | None) -> bytes:
    """The content of the page or of the picture."""
    if out.suffix.lower() == ".html":
        return attention_page(name, weights, labels, layer or 0).encode()
    return attention_picture(name, weights, labels, layer, out.suffix.lower())


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
