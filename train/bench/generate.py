"""`jaxllm bench generate`: texts written by ours and by transformers, nanoGPT or another commit of ours, by turns.

Reading the prompt and writing are timed apart, as by llama.cpp's llama-bench. As the weights must be read from memory
for each token, the speed is also reported as a part of what the memory's bandwidth allows. Drafted tokens are measured
by `train.bench.lookup`.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.ideas import with_names

from ..config import MOST_NEW_TOKENS
from ..errors import DivergedError
from ..outputs import check_output
from .alternate import check_rounds, status_line
from .generate_recording import record_generation
from .generate_report import headline, make_figures, row, same_tokens, table, title
from .machine import versions_lines
from .sides import Other, described, program_name
from .statistics import Figures
from .workload import load_workload, workload_for

MOST_TEXTS = 1024


@dataclass(frozen=True)
class Lengths:
    """How many texts at once, how long their prompts are and by how much each is continued."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int

    def check(self, context: int, against: str | None) -> None:
        """Raises InputError for lengths out of range, or beyond the context of transformers' GPT-2."""
        for option, value, least, most in (
            ("--batch-size", self.batch_size, 1, MOST_TEXTS),
            ("--prompt-tokens", self.prompt_tokens, 1, context),
            ("--new-tokens", self.new_tokens, 2, MOST_NEW_TOKENS),  # the time of a token is measured after the first
        ):
            if not least <= value <= most:
                raise InputError(f"{option} is {value}, but it must be from {least} to {most:,}.")
        if against == "hf" and self.prompt_tokens + self.new_tokens > context:
            raise InputError(
                f"--prompt-tokens {self.prompt_tokens} and --new-tokens {self.new_tokens} are together more than "
                f"model.context_length = {context}, where hf ends; give fewer."
            )


def bench_generate_command(
    config: str, overrides: list[str], code: str | None, lengths: list[Lengths], weights: str, other: Other | None,
    rounds: int, json_file: str | None,
) -> bool:  # fmt: skip
    """Prints the table and writes the JSON; returns whether both sides wrote the same, where they should.

    Several lengths give a row each, in the table and in the JSON.
    """
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    loaded, code = load_workload(config, overrides, code)
    loaded = replace(loaded, model=replace(loaded.model, dropout=0.0))  # dropout is for training only
    program = program_name(other)
    model = workload_for(loaded, program).model
    for one in lengths:
        one.check(model.context_length, program)
    names = with_names(asdict(model))
    jobs = [{"model": names, "code": code, "weights": weights, **asdict(one)} for one in lengths]
    print(f"{config}: " + "\n".join([*headline(jobs), *described(other)]))
    if model.activation != loaded.model.activation:
        print(f"{program} computes {model.activation}; so does jaxllm here, not {loaded.model.activation}")
    if len(jobs) > 1:
        print(title(other.name if other else None))
    rows = []
    for job in jobs:
        sys.stdout.flush()
        rows.append(_measured(job, other, rounds))
        print("\n".join(row(rows[-1]) if len(jobs) > 1 else table(rows[-1])))
    if len(jobs) > 1:
        print("\n".join(versions_lines(rows[-1])))
    if json_file:
        figures = {"rows": rows} if len(jobs) > 1 else rows[0]
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())
    return all(map(same_tokens, rows))


def _measured(job: dict[str, Any], other: Other | None, rounds: int) -> Figures:
    """The figures of one job."""
    with status_line() as show:
        recordings, bandwidths, compared = record_generation(job, other, rounds, show)
    if other and compared and not math.isfinite(compared["logits_difference"]):
        raise DivergedError(f"the logits of {other.name} or of jaxllm are not finite: the two cannot be compared.")
    return make_figures(job, recordings, bandwidths, compared, other)
