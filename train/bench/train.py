"""`jaxllm bench train`: the training step of a config, ours and a peer's by turns."""

import json
import math
import sys
from pathlib import Path

from jaxllm.compare.report import bound_text, error_text
from jaxllm.utils.files import replace_file

from ..config import load_config
from ..errors import DivergedError
from ..outputs import check_output
from .alternate import check_rounds, peer_for, status_line
from .statistics import Figures
from .train_recording import record_training
from .train_report import headline, losses_agree, make_figures, table
from .workload import workload_for


def bench_train_command(
    config: str, overrides: list[str], against: str | None, path: str | None, python: str | None, rounds: int,
    json_file: str | None,
) -> bool:  # fmt: skip
    """Prints the table and writes the JSON; returns whether both sides arrived at the same loss."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    peer = peer_for(against, path, python)
    loaded = load_config(config, overrides)
    workload = workload_for(loaded, against)
    print(f"{config}: " + "\n".join(headline(workload)))
    if workload.model.activation != loaded.model.activation:
        print(f"{against} computes {workload.model.activation}; so does jaxllm here, not {loaded.model.activation}")
    sys.stdout.flush()
    with status_line() as show:
        figures = make_figures(workload, record_training(workload, peer, rounds, show), against)
    _check_finite(figures)
    print("\n".join(table(figures)))
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())
    if not losses_agree(figures):
        print(
            f"the losses differ by {error_text(figures['loss_difference'], figures['loss_tolerance'])} relative, "
            f"more than {bound_text(figures['loss_tolerance'])}: the two do not compute the same"
        )
    return losses_agree(figures)


def _check_finite(figures: Figures) -> None:
    for name, side in (("jaxllm", figures["ours"]), (figures["against"], figures["peer"])):
        if side and not math.isfinite(side["loss"]):
            raise DivergedError(f"the loss of {name} is {side['loss']}: lower optimizer.learning_rate.")
