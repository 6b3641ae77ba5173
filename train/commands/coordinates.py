"""`jaxllm coordinates`: the coordinate check of muP, how far some steps move activations at several widths."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config_file import load_config
from ..ideas import load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import prepare
from ..outputs import check_output
from .coordinates_moves import ACTIVATIONS, MUP, STANDARD, Sizes, check_config, measure_widths, slope
from .coordinates_plot import draw_coordinates
from .options import Parser, add_code, add_overrides
from .runs_report import aligned

BY_DEFAULT = (1, 2, 4)  # times the width of the config


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm coordinates configs/shakespeare-char.toml --widths 64 128 256 --out coordinates.png")
    parser.add_argument("config", metavar="CONFIG.toml", help="`jaxllm config` lists its fields")
    add_overrides(parser)
    add_code(parser)
    parser.add_numbers(
        "--widths", 0, "D", "widths, model.d_model, to which heads and MLP grow; default 1, 2 and 4 times the config's"
    )
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="steps on one batch; default 4")
    parser.add_argument("--out", metavar="PICTURE", help="draw the moves against the width: a .png file")
    parser.add_argument("--json", metavar="FILE", help="write all figures")


def run(arguments: argparse.Namespace) -> None:
    """Measure each width in both parametrisations; print the table, and write picture and figures where asked for."""
    a = arguments
    check_output("--out", a.out, (".png", ".svg", ".pdf"))
    check_output("--json", a.json, (".json",))
    if a.steps < 1:
        raise InputError(f"--steps is {a.steps}, but it must be at least 1.")
    config = resolve(load_config(a.config, a.overrides), load_code(a.code))
    widths = sorted({n * config.model.d_model for n in BY_DEFAULT} if a.widths == [0] else set(a.widths))
    prepared = prepare(check_config(config, widths))
    check_ideas(prepared.config, prepared.model)
    measured: dict[str, list[Sizes]] = {STANDARD: [], MUP: []}
    for name, width, sizes in measure_widths(prepared, widths, a.steps):
        print(f"{name}, {width} wide: the logits move by {sizes['logits'].moved:.3g}", flush=True)
        measured[name].append(sizes)
    base = prepared.model.mup_base_width
    content = figures(widths, measured) | {"config": a.config, "steps": a.steps, "mup_base_width": base}
    print("\n".join(report(content)))
    if a.out:
        draw_coordinates(content, Path(a.out))
    if a.json:
        replace_file(Path(a.json), f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())


def figures(widths: list[int], measured: dict[str, list[Sizes]]) -> dict[str, Any]:
    """The sizes by parametrisation and activation, a number for each width, and the power of the width they grow by."""
    return {"widths": widths} | {
        name: {
            activation: {
                key: {"values": values, "slope": slope(widths, values)}
                for key in ("before", "moved")
                if (values := [getattr(at_width[activation], key) for at_width in sizes])
            }
            for activation in ACTIVATIONS
        }
        for name, sizes in measured.items()
    }


def report(content: dict[str, Any]) -> list[str]:
    """A table of the moves and one of the sizes before the first step, each with the slopes."""
    lines = []
    for key, title in (("moved", f"moved by {content['steps']} steps"), ("before", "before the first step")):
        rows = [[title, "", *map(str, content["widths"]), "slope"]]
        for activation in ACTIVATIONS:
            for name in (STANDARD, MUP):
                found = content[name][activation][key]
                power = "-" if found["slope"] is None else f"{found['slope']:+.2f}"
                rows.append([activation, name, *(f"{value:.3g}" for value in found["values"]), power])
        lines += ["", *aligned(rows)]
    return lines
