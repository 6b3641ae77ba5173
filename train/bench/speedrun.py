"""`jaxllm bench speedrun`: seconds to a validation loss, by whole runs of ours and nanoGPT's own by turns."""

import json
import math
import sys
from pathlib import Path

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config_file import parse_override
from ..errors import RunError
from ..outputs import check_output
from .alternate import Program, Show, check_rounds, status_line
from .speedrun_nanogpt import check_recipe, train_nanogpt
from .speedrun_ours import OurRecipe, check_same_text, load_recipes, train_ours, train_ours_within
from .speedrun_plot import draw_speedrun
from .speedrun_report import Round, headline, make_figures, round_line, table
from .whole_run import termination_raised


def bench_speedrun_command(
    config: str, for_its_time: str | None, overrides: list[str], code: str | None, peer: Program | None, rounds: int,
    loss: float, picture: str | None, json_file: str | None,
) -> None:  # fmt: skip
    """Prints the table, writes the JSON and draws the picture.

    Raises InputError for what is wrong, before anything is timed, and RunError if a process fails or if not every run
    of ours reaches the loss.
    """
    check_rounds(rounds)
    if not 0 < loss < math.inf:
        raise InputError(f"--loss is {loss}, but it must be a number above 0.")
    if for_its_time and peer is None:
        raise InputError("--for-its-time is for a bench --against another program, whose time it takes.")
    check_seed(overrides)
    check_output("--out", picture, (".png", ".svg", ".pdf"))
    check_output("--json", json_file, (".json",))
    recipes = load_recipes([config, *([for_its_time] if for_its_time else [])], overrides, code)
    check_same_text(recipes)
    if peer:
        check_recipe(peer, recipes[0].prepared)
    print("\n".join(headline(recipes, peer)), flush=True)
    done: list[Round] = []
    for number in range(1, rounds + 1):
        with status_line() as show, termination_raised():
            done.append(run_round(recipes, peer, loss, number, show))
        print(f"round {number} of {rounds}: {round_line(done[-1], loss)}", flush=True)
    figures = make_figures(recipes, peer, done, loss)
    print("\n".join(table(figures)))
    sys.stdout.flush()
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())
    if picture:
        draw_speedrun(done, loss, Path(picture))
    missed = [one.ours.lowest for one in done if one.ours.seconds_to(loss) is None]
    if missed:
        raise RunError(
            f"{len(missed)} of {rounds} runs of {config} never reached a validation loss of {loss:g}; the lowest was "
            f"{min(missed):.4f}: train longer or give another --loss."
        )


def check_seed(overrides: list[str]) -> None:
    """Raises InputError for a seed that would not be the one that is used."""
    for override in overrides:
        if parse_override(override)[:2] == ("train", "seed"):
            raise InputError(f"--set {override}: the seed of a run is the number of its round; leave train.seed out.")


def run_round(recipes: list[OurRecipe], peer: Program | None, loss: float, number: int, show: Show) -> Round:
    """nanoGPT's whole run, ours to the loss, and ours for nanoGPT's time, one after the other; without a peer ours."""
    show(f"round {number}: nanoGPT") if peer else None
    theirs, versions = train_nanogpt(peer, recipes[0].prepared) if peer else (None, {})
    show(f"round {number}: jaxllm to a loss of {loss:g}")
    ours = train_ours(recipes[0], number)
    if theirs is None:
        return Round(ours)
    show(f"round {number}: jaxllm for {theirs.seconds:.0f} s")
    return Round(ours, theirs, versions, train_ours_within(recipes[-1], number, theirs.seconds, ours))
