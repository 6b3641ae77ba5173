"""`jaxllm compare A B`: where two runs, or two checkpoints of one, part: configs, parameters, values, metrics."""

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxllm.compare.pairs import NamedModel, compare_outputs, compare_parameters
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config_file import differences
from ..errors import DamagedError
from ..evaluate import evaluator, score
from ..ideas import Code, load_code
from ..inputs import Prepared
from ..outputs import check_output
from ..runs.checkpoint import Checkpoints, saved_steps
from ..runs.load import TrainedRun, load_run
from ..runs.metrics import read_metrics
from ..runs.parting import Parting, where_metrics_part
from .compare_places import SavedRun, Wanted, at_steps, place_of
from .compare_rows import prepared_data, row_length, validation_rows
from .compare_runs_report import TwoRuns, Weights, as_dict, lines


def compare_two(arguments: argparse.Namespace) -> int:
    """Print where two runs part, and write it as JSON; returns 1 if they part.

    Raises InputError for options that do not fit, for a path that is no run, and for one checkpoint given twice.
    """
    a = arguments
    for option, given in (("--out", a.out), ("--set", a.overrides)):
        if given:
            raise InputError(f"{option} is for a comparison with the reference; leave it out, or one of the two runs.")
    if not 0 <= a.tolerance < float("inf"):
        raise InputError(f"--tolerance is {a.tolerance}, but it must be a number from 0.")
    check_output("--json", None if a.json == "-" else a.json, (".json",))
    ours, theirs = (place_of(text, a.step) for text in (a.path, a.other))
    options = HowCompared(a.tolerance, a.dtype or "float32", a.batch_size, a.length)
    compared = compare_runs(ours, theirs, options, load_code(a.code))
    text = json.dumps(as_dict(compared), indent=1, allow_nan=False)
    print(text if a.json == "-" else "\n".join(lines(compared)))
    if a.json and a.json != "-":
        replace_file(Path(a.json), f"{text}\n".encode())
    return 0 if compared.agree else 1


@dataclass(frozen=True)
class HowCompared:
    """How two runs are compared."""

    tolerance: float = 0.0
    dtype: str = "float32"
    batch_size: int = 1
    length: int | None = None


def compare_runs(ours: Wanted, theirs: Wanted, options: HowCompared, code: Code | None = None) -> TwoRuns:
    """What two run folders, each at a step or None, have in common and where they part. Raises InputError."""
    places, notes = at_steps(ours, theirs)
    same_folder = places[0].folder.path.resolve() == places[1].folder.path.resolve()
    if same_folder and places[0].step == places[1].step:
        step = "" if places[0].step is None else f" at step {places[0].step:,}"
        raise InputError(f"both are {places[0].folder.path}{step}; name another run, or two steps as RUN:STEP.")
    names = [str(place.folder.path) + (f":{place.step}" if same_folder else "") for place in places]
    weights = _compare_weights(places, names, options, code, notes)
    parting = None if same_folder else _parting(places, options.tolerance, notes)
    if not weights.rows and parting is None:
        raise InputError(f"{' and '.join(names)} have neither checkpoints nor metrics to compare; train them first.")
    saved = [set(saved_steps(place.folder.checkpoints)) for place in places]
    return TwoRuns(
        names, [place.step for place in places], _differing(places), weights, options.dtype, options.tolerance,
        parting, sorted(saved[0] & saved[1]), notes,
    )  # fmt: skip


def _compare_weights(
    places: Sequence[SavedRun], names: Sequence[str], options: HowCompared, code: Code | None, notes: list[str]
) -> Weights:
    """Parameters, and what they compute; a note for each part that cannot be compared."""
    if lacking := [name for name, place in zip(names, places, strict=True) if not place.has_weights]:
        notes.append(f"weights are left out: no checkpoint yet in {' and '.join(lacking)}")
        return Weights()
    runs = [_opened(place, code) for place in places]
    ours, theirs = (NamedModel(name, run.model.config, run.params) for name, run in zip(names, runs, strict=True))
    rows = compare_parameters(ours, theirs, options.tolerance)
    same_tokenizer = runs[0].tokenizer.fingerprint() == runs[1].tokenizer.fingerprint()
    length = min(row_length(options.length, run.model.config) for run in runs)
    try:
        prepared = _text_of(runs, same_tokenizer)
        inputs, targets = validation_rows(runs[0], prepared, options.batch_size, length)
        if not same_tokenizer:
            return Weights(rows, same_tokenizer, _bits_per_byte(runs, targets))
    except _LeftOut as error:
        notes.append(f"the text is left out: {str(error).removesuffix('.')}")
        return Weights(rows, same_tokenizer)
    return Weights([*rows, *compare_outputs(ours, theirs, inputs, targets, options.tolerance, options.dtype)])


class _LeftOut(Exception):
    """Why nothing can be computed on the same text."""


def _text_of(runs: Sequence[TrainedRun], same_tokenizer: bool) -> Prepared:
    """The data of the first run. Raises _LeftOut where they are gone, and where the second could not be given them."""
    kinds = [run.model.config.n_classes for run in runs]
    if kinds[0] != kinds[1]:
        raise _LeftOut(f"the heads have {kinds[0] or 'no'} and {kinds[1] or 'no'} classes")
    if not same_tokenizer and runs[0].config.tune.kind != "pretrain":
        raise _LeftOut("the tokenizers differ, and the rows of the first run are examples, not a text")
    try:
        return prepared_data(runs[0])
    except InputError as error:
        raise _LeftOut(str(error)) from None


def _opened(place: SavedRun, code: Code | None) -> TrainedRun:
    """The run with its trained parameters, without the state of its optimizer."""
    step = None if place.step is None else str(place.step)
    return replace(load_run(place.folder.path, step, with_optimizer=True, code=code), opt_state=None)


def _bits_per_byte(runs: Sequence[TrainedRun], targets: np.ndarray) -> list[float | None]:
    """The loss of each run on the text of the targets [B, T] of the first, in bits per byte; None for a word tokenizer.

    Raises _LeftOut where a tokenizer cannot encode the text, or makes fewer than two tokens of it.
    """
    text = runs[0].tokenizer.decode(targets.ravel().tolist())
    bits = []
    for run in runs:
        try:
            ids = np.asarray(run.tokenizer.encode(text), np.int32)
        except InputError as error:
            raise _LeftOut(str(error)) from None
        if len(ids) < 2:
            raise _LeftOut("one tokenizer makes fewer than two tokens of it; raise --batch-size")
        begin = run.begin_token if run.imported else None
        loss = evaluator(run.model, run.config, begin=begin)(run.params, ids)
        bits.append(score(loss, ids, run.tokenizer, begin).bits_per_byte)
    return bits


def _parting(places: Sequence[SavedRun], tolerance: float, notes: list[str]) -> Parting | None:
    """Where the metrics part; None with a note where one of the two has none."""
    if imported := [str(place.folder.path) for place in places if place.imported]:
        notes.append(f"metrics are left out: an imported model has no steps ({', '.join(imported)})")
        return None
    ours, theirs = (read_metrics(place.folder.metrics) for place in places)
    parting = where_metrics_part(ours, theirs, tolerance)
    if parting.n_common:
        return parting
    notes.append("metrics are left out: no step is recorded by both")
    return None


def _differing(places: Sequence[SavedRun]) -> list[tuple[str, object, object]]:
    """Fields of the configs that differ, then versions of the packages that wrote the checkpoints.

    The path of a text that is the same is left out.
    """
    ours, theirs = (place.folder.read_config() for place in places)
    same_text = ours.data.sha256 is not None and ours.data.sha256 == theirs.data.sha256
    fields = [one for one in differences(ours, theirs) if not (same_text and one[0] == "data.source")]
    first, second = (_versions(place) for place in places)
    both = first.keys() & second.keys()
    return fields + [(name, first[name], second[name]) for name in sorted(both) if first[name] != second[name]]


def _versions(place: SavedRun) -> dict[str, str]:
    """The versions in the manifest of the checkpoint, {} where there is none."""
    manifest = None
    with suppress(DamagedError):  # loading it has raised the error
        if place.step is not None:
            manifest = Checkpoints(place.folder.checkpoints).manifest(place.step)
    return manifest.versions if manifest else {}
