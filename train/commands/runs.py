"""`jaxllm runs`: runs side by side: in what they differ, their losses and costs, curves, and a verdict over seeds."""

import argparse
import json
from pathlib import Path

from jaxllm.utils.files import replace_file

from ..notes import print_note
from ..outputs import check_output
from ..runs.compared import Compared, compare_runs
from ..runs.curves_plot import draw_curves
from ..runs.summary import find_runs
from .options import Parser
from .runs_report import figures, group_label, group_lines, run_lines, verdict_lines

STATISTIC = """
Runs that differ only in train.seed, and in what does not change the loss, are a group, and the first one is the
baseline. A verdict is a t-test of the
validation losses at the last step, two-sided at 5 %: of the differences within pairs of the same seed where at least
two seeds are common, otherwise Welch's. Where several groups are compared with the baseline, Holm's adjustment
keeps the probability of any false verdict at 5 %. The number of seeds that would be needed is for a power of 80 %,
if effect and spread are as observed. Runs that are not finished take no part.
"""


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm runs runs/relu runs/gelu --out curves.png")
    parser.description = f"{parser.description}\n{STATISTIC}"
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a run folder, or a folder of run folders")
    parser.add_argument("--out", metavar="PICTURE", help="draw the losses over tokens, seconds and FLOPs: a .png file")
    parser.add_argument("--json", metavar="FILE", help="write all figures")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables and the verdicts; draw the picture and write the figures where asked for."""
    check_output("--out", arguments.out, (".png", ".svg", ".pdf"))
    check_output("--json", arguments.json, (".json",))
    compared = compare_runs(find_runs(arguments.folders))
    _show(compared, arguments.out and Path(arguments.out))
    if arguments.json:
        content = json.dumps(figures(compared), indent=1, allow_nan=False)
        replace_file(Path(arguments.json), f"{content}\n".encode())


def show(folders: list[Path], picture: Path | None) -> None:
    """Print the tables and the verdicts of run folders, and draw their curves into a picture.

    Raises InputError for a folder that holds no run, and for a damaged file.
    """
    _show(compare_runs(find_runs(folders)), picture)


def _show(compared: Compared, picture: Path | None) -> None:
    for run in compared.runs:
        if run.unfinished:
            print_note(f"{run.path} {run.unfinished}: it takes no part in means and verdicts")
    for first, second in (pair for group in compared.groups for pair in group.repeated):
        print_note(f"{second.path} repeats {first.path} with the same seed, which alone counts")
    parts = [run_lines(compared), group_lines(compared), verdict_lines(compared)]
    print("\n\n".join("\n".join(lines) for lines in parts if lines))
    if picture is None:
        return
    if any(run.evaluated for run in compared.runs):
        draw_curves(compared.groups, [group_label(i, group) for i, group in enumerate(compared.groups, 1)], picture)
    else:
        print_note(f"{picture} was not drawn: no run has a validation loss yet")
