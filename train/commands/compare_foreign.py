"""`jaxllm compare RUN|CONFIG --against trace.npz`: a step of a PyTorch model beside ours, and where the two part."""

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxllm import GPTConfig, __version__
from jaxllm.compare import TOLERANCES
from jaxllm.compare.foreign import record
from jaxllm.compare.foreign.layouts import guess_names, with_shapes
from jaxllm.compare.foreign.matched import Matched, match
from jaxllm.compare.foreign.names import NameMap, read_map, to_toml
from jaxllm.compare.foreign.side_by_side import Fault, ForeignReport, compare_foreign
from jaxllm.compare.foreign.template import pattern, template
from jaxllm.compare.foreign.trace import Recording, read_trace
from jaxllm.compare.measure import Comparison
from jaxllm.compare.report import fold, table
from jaxllm.gpt import parameter_shapes
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config_file import load_config
from ..ideas import load_code, resolve
from ..inputs import model_without_text
from ..outputs import check_output
from ..runs.load import load_run
from .compare_places import split_step
from .compare_plot import draw_errors
from .options import Parser

FOLDED = (
    "parameters",
    "gradient",
    "replay",
    "replayed gradient",
    "optimizer step",
)  # stages with a row for each parameter
NARROW = "bfloat16"  # whose tolerances float16 has too


def add_foreign(parser: Parser) -> None:
    """The options that compare a PyTorch model."""
    parser.add_argument(
        "--write-recorder", metavar="record.py", dest="recorder",
        help="write a file that records a step of a PyTorch model, to run where that model is",
    )  # fmt: skip
    parser.add_argument("--against", metavar="TRACE", help="compare with what record.py wrote, an .npz or .safetensors")
    parser.add_argument(
        "--names", metavar="MAP.toml",
        help="which of their names is which of ours; a file that is not there yet gets the guessed map",
    )  # fmt: skip


def write_recorder(path: str) -> int:
    """Write the recorder, and print how to use it."""
    check_output("--write-recorder", path, (".py",))
    if Path(path).exists():
        raise InputError(f"--write-recorder {path}: it exists already; choose another name.")
    source = Path(record.__file__).read_bytes()
    replace_file(Path(path), source)
    print(f"wrote {path}; it needs PyTorch and NumPy alone. Where your model is:\n")
    print(f"    from {Path(path).stem} import record")
    print('    record(model, tokens, targets, "trace.npz", optimizer=torch.optim.AdamW(model.parameters()))\n')
    print("then: jaxllm compare CONFIG.toml --against trace.npz")
    return 0


def run_against(a: argparse.Namespace) -> int:
    """Print the names, the table, the modules that depart and why; returns 1 if a number is beyond tolerance."""
    if a.path is None:
        raise InputError("--against compares with a model of ours; name a config or a run folder before it.")
    if a.other is not None:
        raise InputError(f"--against compares one model of ours, but {a.other} is a second; leave it out.")
    if a.tolerance:
        raise InputError(f"--tolerance is {a.tolerance}, but --against takes those of a dtype; give --dtype instead.")
    if a.length is not None or a.batch_size != 1:
        raise InputError("--length and --batch-size are those of the recording; leave them out.")
    print_json = a.json == "-"
    check_output("--json", None if print_json else a.json, (".json",))
    check_output("--out", a.out, (".png", ".svg", ".pdf"))
    recording = read_trace(a.against)
    config, ours = _ours(a)
    if config.n_experts:
        raise InputError(
            f"model.n_experts is {config.n_experts}, but recordings of mixtures of experts cannot be compared; export "
            "the model and compare its logits, by --verify."
        )
    names, title, wrote = _names(config, recording, a.names)
    matched, dtype = match(config, recording, names), a.dtype or _dtype(recording)
    if not print_json:
        print("\n".join([*_headline(matched, a.path, title), *_names_lines(names, wrote, a.names)]), flush=True)
    found = compare_foreign(matched, dtype, ours)
    text = json.dumps(_as_dict(found, matched, a.path, title), indent=1, allow_nan=False)
    print(text if print_json else "\n".join(_lines(found)))
    if a.json and not print_json:
        replace_file(Path(a.json), f"{text}\n".encode())
    if a.out:
        draw_errors(found.report, Path(a.out))
    return 0 if found.report.passed else 1


def _ours(a: argparse.Namespace) -> tuple[GPTConfig, Any]:
    """The model's config, and the parameters of a run; None for a config."""
    code, (path, step) = load_code(a.code), split_step(a.path, a.step)
    if Path(path).is_dir():
        if a.overrides:
            raise InputError(f"--set {a.overrides[0]} is for a config, but {path} is a run folder; leave it out.")
        run = load_run(path, step, code=code)
        return run.model.config, run.params
    if step is not None:
        raise InputError(f"--step is {step!r}, but only a run folder has steps; leave it out or name one.")
    return model_without_text(resolve(load_config(path, a.overrides), code)), None


def _dtype(recording: Recording) -> str:
    """The dtype of their computation, whose tolerances hold."""
    return recording.about.dtype if recording.about.dtype in TOLERANCES else NARROW


def _names(config: GPTConfig, recording: Recording, path: str | None) -> tuple[NameMap, str, bool]:
    """The map in the file, or the guessed one; what it was made after; and whether the file was written now.

    Raises InputError where no guess fits; a file for the map then holds our names, to be filled in.
    """
    if path is not None and Path(path).exists():
        shapes = parameter_shapes(config)
        return read_map(path, shapes, template(config).outputs), path, False
    check_output("--names", path, (".toml",))
    try:
        guess = guess_names(config, recording)
    except InputError as error:
        if path is None:
            raise
        theirs = "".join(f"# {one}\n" for one in with_shapes(recording.params))
        replace_file(Path(path), f"# their parameters:\n{theirs}\n{to_toml(template(config))}".encode())
        raise InputError(
            f"the names in {recording.path} are not known; fill in theirs in {path}, which lists both, and give the "
            "same command again."
        ) from error
    if path is not None:
        replace_file(Path(path), to_toml(guess.names).encode())
    return guess.names, guess.title, path is not None


def _headline(matched: Matched, path: str, title: str) -> list[str]:
    """What is compared with what, and what has no counterpart."""
    about, shape = matched.recording.about, " x ".join(map(str, matched.recording.tokens.shape))
    lines = [
        f"{matched.recording.path}, {shape} tokens, {about.dtype}{about.torch and f', PyTorch {about.torch}'}, against "
        f"{path}: NumPy in float64 with their parameters; errors relative to the largest value of each tensor, or of "
        "its terms where they cancel",
        f"names as in {title}",
    ]
    if matched.absent:
        lines.append(f"theirs has no {', '.join(matched.absent[:8])}{' ...' * bool(matched.absent[8:])}: 0, scales 1")
    if matched.left_over:
        held = ", ".join(matched.left_over[:8]) + " ..." * bool(matched.left_over[8:])
        lines.append(f"ours has no place for {held}")
    return lines


def _names_lines(names: NameMap, wrote: bool, path: str | None) -> list[str]:
    """The guessed map, for correction; nothing where the user wrote it."""
    if path is not None:
        return [f"wrote the names to {path}; correct it where it is wrong"] if wrote else []
    return ["", to_toml(names), "(to correct the names, write them to a file: --names map.toml)"]


def _lines(found: ForeignReport) -> list[str]:
    """The table, the faults and the summary."""
    rows = found.report.rows
    shown: list[Comparison] = []
    for stage in dict.fromkeys(row.stage for row in rows):
        of_stage = [row for row in rows if row.stage == stage]
        shown += fold(of_stage) if stage in FOLDED else of_stage
    lines = [*table(shown), found.report.summary(), *found.notes]
    first = next((row for row in rows if row.stage == "forward" and row.failed), None)
    if first:
        lines.append(f"first departure from the tokens on: {first.name}, {first.relative:.1e}")
    if found.faults:
        lines += ["", "each on its own recorded input:", *_grouped(found.faults), _rest(rows, found.faults)]
    elif first:
        lines.append(f"{_rest(rows, ())}: what is wrong lies between them, or was not recorded")
    return lines


def _rest(rows: Iterable[Comparison], faults: Iterable[Fault]) -> str:
    """A line on what agrees, where every module and gradient reads what was recorded, and on what cannot be told.

    A module that holds one that departs departs with it, so whether it has a fault of its own is not known.
    """
    right = [row.stage for row in rows if row.passed]
    modules, gradients = right.count("replay"), right.count("replayed gradient")
    named = {fault.name for fault in faults}
    holding = [row.name for row in rows if row.stage == "replay" and row.failed and row.name not in named]
    unknown = f"; not judged apart from what they hold: {', '.join(holding)}" if holding else ""
    return f"  all else agrees: {modules} modules and {gradients} gradients of parameters{unknown}"


def _grouped(faults: Iterable[Fault]) -> list[str]:
    """A line for each fault; one for all blocks that have it alike."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((pattern(fault.name), fault.explanation), []).append(fault)
    lines = []
    for alike in groups.values():
        worst = max(alike, key=lambda fault: fault.departure)
        more = f" (and in {len(alike) - 1} more blocks, by less)" if len(alike) > 1 else ""
        lines.append(f"  {worst}{more}")
    return lines


def _as_dict(found: ForeignReport, matched: Matched, path: str, title: str) -> dict[str, Any]:
    """The report as JSON holds it."""
    return {
        "subject": path, "against": matched.recording.path, "names": title, "jaxllm": __version__,
        "faults": [
            {
                "name": f.name, "departure": f.departure if math.isfinite(f.departure) else None,
                "explanation": f.explanation,
            }
            for f in found.faults
        ],
        "absent": list(matched.absent), "left_over": list(matched.left_over), "notes": list(found.notes),
    } | found.report.as_dict()  # fmt: skip
