"""`jaxllm bench generate RUN --lookup N`: a run's model continues code and prose, with and without drafted tokens.

Code is the source of the standard library, prose the documentation inside Python. Each round has passages of its own,
which all sides continue by turns, in one process. How often a draft is right depends on the model and on the text, so
random weights would say nothing.
"""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from jaxllm import __version__
from jaxllm.data.sources import python_topics, stdlib_files
from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.generate import start_generation
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling
from jaxllm.gpt import GPT
from jaxllm.lookup import MOST_DRAFTED
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..ideas import load_code
from ..outputs import check_output
from ..runs.load import TrainedRun, load_run
from .alternate import check_rounds, status_line
from .departures import departures
from .generate import Lengths
from .generate_report import TOLERANCE
from .generate_worker import last_logits
from .machine import processor, versions_lines
from .statistics import Figures, speed_ratio

TEXTS = {
    "code": lambda: "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in stdlib_files()),
    "prose": lambda: "\n\n".join(text for _, text in python_topics()),
}
CHARACTERS = 16  # of a passage, for each token of a prompt: more than a token of text has


def bench_lookup_command(
    path: str, code: str | None, drafts: list[int], lengths: list[Lengths], weights: str, rounds: int,
    json_file: str | None,
) -> bool:  # fmt: skip
    """Prints a row for each text, length and number of drafted tokens, and writes the JSON.

    Returns whether the same was written with and without them, up to near-ties. Raises InputError for numbers out of
    range and for a run that cannot be measured.
    """
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    for n in drafts:
        if not 1 <= n <= MOST_DRAFTED:
            raise InputError(f"--lookup is {n}, but it must be from 1 to {MOST_DRAFTED}.")
    run = load_run(path, code=load_code(code))
    for one in lengths:
        one.check(run.model.config.context_length, None)
    side = LookupSide(run, weights)
    print(f"{path}: weights in {weights}, {lengths[0].new_tokens} new tokens; {processor()}, {os.cpu_count()} cores")
    print(TITLE, flush=True)
    rows: list[Figures] = []
    for text, of_text in TEXTS.items():
        whole = of_text()
        for one in lengths:
            with status_line() as show:
                show(f"continuing {text}")
                measured = side.measure(whole, one, drafts, rounds)
            rows += [{"text": text} | figures for figures in measured]
            print("\n".join(map(row, rows[-len(measured) :])), flush=True)
    figures = {"rows": rows} | _about(path, weights)
    print("\n".join(versions_lines(figures)))
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())
    return all(one["tokens"] != "differ" for one in rows)


@dataclass(frozen=True)
class Continuation:
    """What followed the prompts of a round."""

    tokens: np.ndarray  # [B, N]
    seconds: float  # from the first token to the last
    readings: int


Round = tuple[np.ndarray, Continuation, Continuation]  # prompts, what followed without drafts and with them


class LookupSide:
    """The model of a run, which writes with any number of drafted tokens. Raises InputError where it cannot."""

    def __init__(self, run: TrainedRun, weights: str) -> None:
        self._run, self._weights = run, weights
        self._model = CachedGPT(run.model.config, run.model.dtype, nn.jit(CachedBlock))  # it starts sooner
        self._params = pack(run.params, weights)

    def measure(self, text: str, length: Lengths, drafts: list[int], rounds: int) -> list[Figures]:
        """The figures of each number of drafted tokens, beside no drafts. The first round compiles and is not timed."""
        n = length.batch_size
        found = passages(self._run.tokenizer, text, n * (rounds + 1), length.prompt_tokens, self._run.begin_token)
        turns = []
        for i in range(rounds + 1):
            prompts = found[i * n : (i + 1) * n]
            turns.append((prompts, [self._write(prompts, length.new_tokens, lookup) for lookup in (0, *drafts)]))
        return [
            self._figures(length, lookup, [(prompts, sides[0], sides[i]) for prompts, sides in turns[1:]])
            for i, lookup in enumerate(drafts, 1)
        ]

    def _write(self, prompts: np.ndarray, n: int, lookup: int) -> Continuation:
        rest = (jax.random.key(0), n, Sampling(0), self._run.tokenizer.vocab_size, (), self._run.begin_token, lookup)
        begun = start_generation(self._model, self._params, prompts, *rest)
        jax.block_until_ready(begun.state)
        start = time.perf_counter()
        done = begun.advance(n - 1)
        tokens = done.tokens()
        return Continuation(tokens, time.perf_counter() - start, int(done.state.readings))

    def _figures(self, length: Lengths, lookup: int, rounds: list[Round]) -> Figures:
        plain, ours = [[one.seconds] for _, one, _ in rounds], [[other.seconds] for _, _, other in rounds]
        ratio, n = speed_ratio(ours, plain), length.new_tokens - 1
        shared = self._model.config.context_length - length.prompt_tokens + 1  # what is drawn from the whole text
        parted = [
            part
            for prompts, one, other in rounds
            for part in departures(self._logits, prompts, one.tokens[:, :shared], other.tokens[:, :shared])
        ]
        close = all(part["gap"] <= TOLERANCE[self._weights] for part in parted)
        return asdict(length) | {
            "lookup": lookup, "rounds": len(rounds),
            "plain_tokens_per_s": length.batch_size * n / float(np.median(plain)),
            "tokens_per_s": length.batch_size * n / float(np.median(ours)),
            "ratio": ratio.median, "ratio_spread": [ratio.low, ratio.high],
            "tokens_per_reading": n * len(rounds) / sum(side.readings for _, _, side in rounds),
            "tokens": "same" if not parted else "near-tie" if close else "differ", "parted": parted,
        }  # fmt: skip

    def _logits(self, text: np.ndarray) -> np.ndarray:
        """The logits [1, V] behind a text [1, T], in units of their spread."""
        logits = np.asarray(last_logits(GPT(self._model.config, self._model.dtype), self._params, text))
        return logits / logits.std()


def passages(tokenizer: Tokenizer, text: str, n: int, length: int, begin_token: int | None) -> np.ndarray:
    """Ids [n, length] from n places that lie evenly in a text, each the beginning of a line, behind the begin token.

    Raises InputError where a passage has too few tokens.
    """
    head = [] if begin_token is None else [begin_token]
    rows = []
    for i in range(n):
        begin = text.find("\n", len(text) * (2 * i + 1) // (2 * n + 1)) + 1
        ids = [*head, *tokenizer.encode(text[begin : begin + CHARACTERS * length])][:length]
        if len(ids) < length:
            raise InputError(f"--prompt-tokens is {length}, but a passage has only {len(ids)} tokens; give fewer.")
        rows.append(ids)
    return np.array(rows, np.int32)


TITLE = (
    f"{'text':<6}{'texts':>6}{'prompt':>7}{'drafts':>7}{'tokens/s':>10}{'with':>8}{'ratio':>7} {'':<16}"
    f"{'a reading':>9}  tokens"
)


def row(figures: Figures) -> str:
    """The figures of a number of drafted tokens, in one line."""
    f, (low, high) = figures, figures["ratio_spread"]
    return (
        f"{f['text']:<6}{f['batch_size']:>6}{f['prompt_tokens']:>7}{f['lookup']:>7}{f['plain_tokens_per_s']:>10,.1f}"
        f"{f['tokens_per_s']:>8,.1f}{f['ratio']:>7.2f} {f'({low:.2f} to {high:.2f})':<16}"
        f"{f['tokens_per_reading']:>9.2f}  {f['tokens']}"
    )


def _about(path: str, weights: str) -> Figures:
    device = jax.devices()[0].device_kind
    versions = {"jaxllm": __version__, "python": platform.python_version(), "jax": jax.__version__}
    return {
        "run": path, "weights": weights, "tolerance": TOLERANCE[weights], "against": None, "peer": None,
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.system(), "device": device
        },
        "versions": versions, "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
