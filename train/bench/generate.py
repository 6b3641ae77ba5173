"""`jaxllm bench generate`: texts written by ours and by transformers or nanoGPT, by turns.

llama.cpp's llama-bench times reading and writing apart, and so is it here; as the weights must come from memory once
for each token, the speed is also told as a part of what the memory allows.
"""

import json
import math
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.utils.errors import InputError

from ..config import MOST_NEW_TOKENS, load_config
from ..errors import DivergedError
from ..outputs import check_output
from ..progress import replace_text
from . import alternate as pairing
from .alternate import Against, Tell
from .generate_recording import FOLDER, subject_for
from .generate_report import headline, make_report, same_tokens, table
from .process import Worker
from .train import check_rounds, peer_for, status

OURS = [sys.executable, "-m", f"{__package__}.generate_worker"]
SCRIPTS = {name: FOLDER / f"{name}_writer.py" for name in ("nanogpt", "hf")}
MOST_TEXTS = 1024
BANDWIDTH_BYTES = 2**29  # read to learn the memory's speed: far more than any cache holds


@dataclass(frozen=True)
class Lengths:
    """How many texts at once, how long their prompts are and by how much each is continued."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int

    def check(self, context: int, against: str | None) -> None:
        """Raises InputError for what is out of range, or longer than transformers' GPT-2 can."""
        for option, value, least, most in (
            ("--batch-size", self.batch_size, 1, MOST_TEXTS),
            ("--prompt-tokens", self.prompt_tokens, 1, context),
            ("--new-tokens", self.new_tokens, 2, MOST_NEW_TOKENS),  # the time of a token is that of all but the first
        ):
            if not least <= value <= most:
                raise InputError(f"{option} is {value}, but it must be from {least} to {most:,}.")
        if against == "hf" and self.prompt_tokens + self.new_tokens > context:
            raise InputError(
                f"--prompt-tokens {self.prompt_tokens} and --new-tokens {self.new_tokens} are together more than "
                f"model.context_length = {context}, where hf ends; give fewer."
            )


@dataclass(frozen=True)
class Recording:
    """What one side has answered: at the beginning, in each round, at the end."""

    begun: dict[str, Any]
    turns: tuple[dict[str, list[float]], ...]
    ended: dict[str, Any]

    def timed(self, name: str) -> list[list[float]]:
        """`seconds` or `first_s` of each turn; the first of several texts is left out, which finds caches cold."""
        return [turn[name][1:] or turn[name] for turn in self.turns]


def bench_generate_command(
    config: str, overrides: list[str], lengths: Lengths, weights: str, against: str | None, path: str | None,
    python: str | None, rounds: int, json_file: str | None,
) -> bool:  # fmt: skip
    """Prints the table and writes the JSON; returns whether both sides wrote the same, where they are to."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    peer = peer_for(against, path, python)
    loaded = load_config(config, overrides)
    loaded = replace(loaded, model=replace(loaded.model, dropout=0.0))  # of training alone
    model = subject_for(loaded, against).model
    lengths.check(model.context_length, against)
    job = {"model": asdict(model), "weights": weights, **asdict(lengths)}
    print(f"{config}: " + "\n".join(headline(job)))
    if model.activation != loaded.model.activation:
        print(f"{against} computes {model.activation}; so does jaxllm here, not {loaded.model.activation}")
    sys.stdout.flush()
    with status() as tell:
        recordings, bandwidths, compared = record(job, peer, rounds, tell)
    if compared and not math.isfinite(compared["logits_difference"]):
        raise DivergedError(f"the logits of {against} or of jaxllm are not finite: the two cannot be compared.")
    report = make_report(job, recordings, bandwidths, compared, against)
    print("\n".join(table(report)))
    if json_file:
        replace_text(Path(json_file), json.dumps(report, indent=1, allow_nan=False) + "\n")
    return same_tokens(report)


def record(
    job: dict[str, Any], against: Against | None, rounds: int, tell: Tell
) -> tuple[list[Recording], list[float], dict[str, Any] | None]:
    """Ours and the peer by turns, and the memory's speed in each round; what ours found of the peer's text comes last,
    None where the peer's weights are others."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxllm-bench-"))
        workers, begun = _begin(stack, Path(folder), job, against, tell)
        comparable = against is not None and job["weights"] == "float32"
        compared = workers[0].ask({"compare": f"{folder}/theirs.npz"}) if comparable else None
        texts, recorded, bandwidths = 1, [], []
        for i in range(rounds + 1):
            tell(f"round {i} of {rounds}, {texts} texts each" if i else "warming up")
            recorded.append([worker.ask({"texts": texts}) for worker in workers])
            texts = math.ceil(pairing.TURN_S / np.mean([np.median(turn["seconds"]) for turn in recorded[-1]]))
            bandwidths.append(workers[0].ask({"bandwidth": BANDWIDTH_BYTES})["bytes_per_s"])
        ended = [worker.ask({"stop": True}) for worker in workers]
    sides = [Recording(*one) for one in zip(begun, zip(*recorded[1:], strict=True), ended, strict=True)]
    return sides, bandwidths[1:], compared


def _begin(
    stack: ExitStack, folder: Path, job: dict[str, Any], against: Against | None, tell: Tell
) -> tuple[list[Worker], list[dict[str, Any]]]:
    """The processes and their answers to the job. Ours begins, for the peer takes its weights."""
    weights = str(folder / "weights.npz") if against else None
    tell("starting and compiling jaxllm")
    ours = Worker("jaxllm", OURS, job | {"save_weights": weights, "sample": None}, pairing.ROOT)
    begun = stack.enter_context(ours).begin()
    if against is None:
        return [ours], [begun]
    if begun["platform"] not in ("cpu", "gpu"):
        raise InputError(f"JAX runs on a {begun['platform']} here, where {against.name} cannot; leave --against out.")
    tell(f"starting {against.name}")
    asked = job | {"load_weights": weights, "peer": against.path, "platform": begun["platform"]}
    asked |= {"sample": f"{folder}/theirs.npz"}
    peer = stack.enter_context(Worker(against.name, [against.python, str(SCRIPTS[against.name])], asked))
    answer = peer.begin()
    (folder / "weights.npz").unlink(missing_ok=True)
    return [ours, peer], [begun, answer]
