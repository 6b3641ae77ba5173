"""`jaxllm inspect`: what a model would say next, and after which block it knew (nostalgebraist's logit lens, 2020)."""

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
from .attention import read_prompt

SHOWN = 3  # tokens a block
WIDE = 200  # columns where the output is no terminal


def lens_probabilities(model: GPT, params: Any, ids: list[int], vocab_size: int) -> np.ndarray:
    """[L, vocab_size] float32: the next token's probabilities by the lens after each block, the last one the model's.

    Ids from `vocab_size` on are left out, as in generating.
    """

    @jax.jit
    def probabilities(params: Any, tokens: jax.Array) -> jax.Array:
        _, seen = apply_with_intermediates(model, params, tokens)
        stream = jnp.stack([seen[f"block_{i}"][0, -1] for i in range(model.config.n_layers)])
        return softmax(logit_lens(model.config, params, stream)[:, :vocab_size])

    return np.asarray(probabilities(params, jnp.asarray([ids], jnp.int32)), np.float32)


def inspect_command(path: str, step: str | None, prompt: str, top: int) -> None:
    """`jaxllm inspect`: prints the next tokens, then the lens by block."""
    if top < 1:
        raise InputError(f"--top is {top}, but it must be at least 1.")
    run, ids, _ = read_prompt(path, step, prompt)
    by_block = lens_probabilities(run.model, run.params, ids, run.tokenizer.vocab_size)
    check_computed(by_block, path, run.params)
    n_tokens = "1 token" if len(ids) == 1 else f"{len(ids):,} tokens"
    print(f"after {n_tokens}, the last of them {_shown(run.tokenizer, ids[-1])}, the model expects")
    _print(next_tokens(run.tokenizer, by_block[-1], top))
    answer = _shown(run.tokenizer, _likeliest(by_block[-1], 1)[0])
    print(f"\nwhat it would expect if a block were its last, and the place of the final answer {answer} there")
    _print(lens_table(run.tokenizer, by_block))


def next_tokens(tokenizer: Tokenizer, probabilities: np.ndarray, top: int) -> Table:
    """The `top` most likely of probabilities [V]."""
    table = _table(">rank", ">probability", "<token")
    for rank, i in enumerate(_likeliest(probabilities, top), start=1):
        table.add_row(str(rank), _percent(probabilities[i]), _shown(tokenizer, i))
    return table


def lens_table(tokenizer: Tokenizer, by_block: np.ndarray) -> Table:
    """A row for each block of probabilities [L, V]: its likeliest tokens; probability and rank of the final answer."""
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
    """Columns named so, after the side on which they are aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column[1:], justify="left" if column[0] == "<" else "right", no_wrap=True)
    return table


def _likeliest(probabilities: np.ndarray, n: int) -> list[int]:
    """Ids of the n largest, of equal ones the first."""
    return np.argsort(-probabilities, kind="stable")[:n].tolist()


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _shown(tokenizer: Tokenizer, token: int) -> Text:
    """In brackets, for a token may begin or end with a space; a Text, for rich takes brackets in a str as a style."""
    return Text(f"[{visible(tokenizer.decode_bytes([token]))}]")


def _print(table: Table) -> None:
    """As wide as a terminal is; elsewhere as wide as it must be, without colours."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=WIDE, file=StringIO())
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
