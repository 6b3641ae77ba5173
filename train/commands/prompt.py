"""A prompt as the model of a run reads it, for `jaxllm attention` and `jaxllm inspect`."""

from typing import NamedTuple

from jaxllm.utils.errors import InputError

from ..ideas import load_code
from ..runs.load import TrainedRun, load_run
from ..writer import check_length, prompt_ids
from .options import Parser, add_code, add_run


class Prompt(NamedTuple):
    """A run and the ids of a prompt, which fit into its model's context."""

    run: TrainedRun
    ids: list[int]


def add_prompt(parser: Parser) -> None:
    """The run, its checkpoint and the prompt."""
    add_run(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    add_code(parser)


def read_prompt(
    path: str, step: str | None, prompt: str, most: int | None = None, code: str | None = None, user: str = "--out"
) -> Prompt:  # fmt: skip
    """Raises InputError for a prompt without tokens, with more than `most`, or with more than the context holds.

    `user` is the option that can show so many.
    """
    check_length("--prompt", prompt)
    run = load_run(path, step, code=load_code(code))
    ids = prompt_ids(run, prompt)
    context = run.model.config.context_length
    if len(ids) > context:
        raise InputError(f"--prompt has {len(ids):,} tokens, more than the model's context of {context:,}; shorten it.")
    if most is not None and len(ids) > most:
        raise InputError(f"--prompt has {len(ids):,} tokens, but {user} can show at most {most}; shorten it.")
    return Prompt(run, ids)
