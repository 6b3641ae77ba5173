"""`jaxllm inspect`: the most likely next tokens, and after which block the model knew them.

The second table is the logit lens (nostalgebraist 2020).
"""

import argparse
import sys
from io import StringIO
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.layers import softmax
from jaxllm.logit_lens import logit_lens
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import visible

from ..nonfinite import check_computed
from .options import Parser
from .prompt import add_prompt, read_prompt

SHOWN = 3  # tokens for each block
WIDE = 200  # columns where the output is not a terminal


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, 'jaxllm inspect runs/first --prompt "The capital of France is" --top 5')
    add_prompt(parser)
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many next tokens; default 10")


def run(arguments: argparse.Namespace) -> None:
    """Print the next tokens, then the lens for each block."""
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}, but it must be at least 1.")
    trained, ids = read_prompt(arguments.path, arguments.step, arguments.prompt, code=arguments.code)
    tokenizer = trained.tokenizer
    by_block = lens_probabilities(trained.model, trained.params, ids, tokenizer.vocab_size)
    check_computed(by_block, arguments.path, trained.params)
    n_tokens = "1 token" if len(ids) == 1 else f"{len(ids):,} tokens"
    print(f"after {n_tokens}, the last of them {_shown(tokenizer, ids[-1])}, the model expects")
    _print(next_tokens(tokenizer, by_block[-1], arguments.top))
    answer = _shown(tokenizer, _likeliest(by_block[-1], 1)[0])
    print(f"\nwhat it would expect if a block were its last, and the rank of the final answer {answer} there")
    _print(lens_table(tokenizer, by_block))


def lens_probabilities(model: GPT, params: Any, ids: list[int], vocab_size: int) -> np.ndarray:
    """The next token's probabilities by the lens after each block, float32 [L, vocab_size]; last come the model's.

    Ids from `vocab_size` on are left out, as they are when generating.
    """

    @jax.jit
    def probabilities(params: Any, tokens: jax.Array) -> jax.Array:
        _, seen = apply_with_intermediates(model, params, tokens)
        stream = jnp.stack([seen[f"block_{i}"][0, -1] for i in range(model.config.n_layers)])
        return softmax(logit_lens(model.config, params, stream)[:, :vocab_size])

    return np.asarray(probabilities(params, jnp.asarray([ids], jnp.int32)), np.float32)


def next_tokens(tokenizer: Tokenizer, probabilities: np.ndarray, top: int) -> Table:
    """A table of the `top` most likely tokens by probabilities [V]."""
    table = _table(">rank", ">probability", "<token")
    for rank, i in enumerate(_likeliest(probabilities, top), start=1):
        table.add_row(str(rank), _percent(probabilities[i]), _shown(tokenizer, i))
    return table


def lens_table(tokenizer: Tokenizer, by_block: np.ndarray) -> Table:
    """A row for each block of probabilities [L, V]: its most likely tokens, and probability and rank of the answer."""
    answer = _likeliest(by_block[-1], 1)[0]
    n_shown = min(SHOWN, by_block.shape[1])
    table = _table(
        ">block", *[part for i in range(n_shown) for part in (">", f"<rank {i + 1}")], ">answer", ">its rank"
    )
    for block, row in enumerate(by_block):
        rank = 1 + int((row > row[answer]).sum())
        likely = [part for i in _likeliest(row, SHOWN) for part in (_percent(row[i]), _shown(tokenizer, i))]
        table.add_row(str(block), *likely, _percent(row[answer]), str(rank), style="bold" if rank == 1 else "")
    return table


def _table(*columns: str) -> Table:
    """An empty table. Each column is its alignment, < or >, and its name."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column[1:], justify="left" if column[0] == "<" else "right", no_wrap=True)
    return table


def _likeliest(probabilities: np.ndarray, n: int) -> list[int]:
    """The ids of the n largest; among equal ones the first come first."""
    return np.argsort(-probabilities, kind="stable")[:n].tolist()


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _shown(tokenizer: Tokenizer, token: int) -> Text:
    """A token in brackets, because it may begin or end with a space. Rich would read them in a str as a style."""
    return Text(f"[{visible(tokenizer.decode_bytes([token]))}]")


def _print(table: Table) -> None:
    """Print within the width of a terminal; elsewhere as wide as needed, without colours."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=WIDE, file=StringIO())
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
