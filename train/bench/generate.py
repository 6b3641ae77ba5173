"""`jaxllm bench generate`: texts written by ours and by transformers or nanoGPT, by turns.

Reading the prompt and writing are timed apart, as by llama.cpp's llama-bench. As the weights must be read from memory
for each token, the speed is also reported as a part of what the memory's bandwidth allows.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config import MOST_NEW_TOKENS, load_config
from ..errors import DivergedError
from ..outputs import check_output
from .alternate import check_rounds, peer_for, status_line
from .generate_recording import record_generation
from .generate_report import headline, make_figures, same_tokens, table
from .workload import workload_for

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
    config: str, overrides: list[str], lengths: Lengths, weights: str, against: str | None, path: str | None,
    python: str | None, rounds: int, json_file: str | None,
) -> bool:  # fmt: skip
    """Prints the table and writes the JSON; returns whether both sides wrote the same, where they should."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    peer = peer_for(against, path, python)
    loaded = load_config(config, overrides)
    loaded = replace(loaded, model=replace(loaded.model, dropout=0.0))  # dropout is for training only
    model = workload_for(loaded, against).model
    lengths.check(model.context_length, against)
    job = {"model": asdict(model), "weights": weights, **asdict(lengths)}
    print(f"{config}: " + "\n".join(headline(job)))
    if model.activation != loaded.model.activation:
        print(f"{against} computes {model.activation}; so does jaxllm here, not {loaded.model.activation}")
    sys.stdout.flush()
    with status_line() as show:
        recordings, bandwidths, compared = record_generation(job, peer, rounds, show)
    if compared and not math.isfinite(compared["logits_difference"]):
        raise DivergedError(f"the logits of {against} or of jaxllm are not finite: the two cannot be compared.")
    figures = make_figures(job, recordings, bandwidths, compared, against)
    print("\n".join(table(figures)))
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())
    return same_tokens(figures)
