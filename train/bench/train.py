"""`jaxllm bench train`: the training step of a config, ours and a peer's or another commit's by turns."""

import json
import math
import sys
from pathlib import Path

from jaxllm.compare.report import bound_text, error_text
from jaxllm.utils.files import replace_file

from ..errors import DivergedError
from ..outputs import check_output
from .alternate import check_rounds, status_line
from .sides import Other, described, program_name
from .statistics import Figures
from .train_recording import record_training
from .train_report import headline, losses_agree, make_figures, table
from .workload import load_workload, workload_for


def bench_train_command(
    config: str, overrides: list[str], code: str | None, other: Other | None, rounds: int, json_file: str | None
) -> bool:
    """Prints the table and writes the JSON; returns whether both sides arrived at the same loss."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    loaded, code = load_workload(config, overrides, code)
    program = program_name(other)
    workload = workload_for(loaded, program, code)
    print(f"{config}: " + "\n".join([*headline(workload), *described(other)]))
    if workload.model.activation != loaded.model.activation:
        print(f"{program} computes {workload.model.activation}; so does jaxllm here, not {loaded.model.activation}")
    sys.stdout.flush()
    with status_line() as show:
        recordings = record_training(workload, other, rounds, show)
    figures = make_figures(workload, recordings, other)
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
