"""`jaxllm sweep`: a run for every combination of values, each an ordinary run folder, and their table and verdict."""

import argparse
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from jaxllm.utils.errors import InputError, shown

from ..budget import is_over, used_s
from ..config import RunConfig
from ..config_file import differences, load_config
from ..errors import DivergedError, Stopped
from ..ideas import Code, check_same_code, load_code, references, resolve
from ..ideas_check import check_ideas
from ..inputs import Prepared, prepare
from ..loop import train
from ..notes import print_note
from ..parallel.layout import describe_idle, describe_layout, layout_of
from ..products import check_products, choose
from ..runs.checkpoint import Checkpoints, saved_steps
from ..runs.folder import RunFolder
from ..runs.load import check_unchanged
from ..runs.metrics import read_metrics
from ..runs.sinks import ONE_AT_A_TIME
from ..sweep import RECORD, Combination, combinations, keep_or_check, parse_axes
from ..together import Member, NotTraceableError, alike, most_together, numbers_of, train_together
from ..tune.config import OF_KINDS
from .options import Parser, add_code
from .runs import show
from .train import introduction, prepare_backend

PICTURE = "sweep.png"


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(
        run,
        "jaxllm sweep configs/quickstart.toml --out runs/rates "
        "--set optimizer.learning_rate=1e-3,3e-3 --set train.seed=0,1,2",
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="`jaxllm config` lists its fields")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the runs, to go on in as well")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="section.key=VALUE,...",
        help="a field's values, with commas between them; a text or list with commas as in TOML; may be repeated",
    )  # fmt: skip
    add_code(parser)
    parser.add_argument(
        "--at-most", type=int, metavar="N",
        help="train at most N runs at a time (default: as many of those that differ only in numbers as fit in memory)",
    )  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A run of the sweep: its name, its config before its data are read, its folder, and the steps it has."""

    name: str
    config: RunConfig
    folder: RunFolder
    done: int
    complete: bool  # with the loss of its last step


def run(arguments: argparse.Namespace) -> int:
    """Train the runs that are not complete, then print the table and the verdict. Exit code 1 if a run diverged."""
    a = arguments
    if a.at_most is not None and a.at_most < 1:
        raise InputError(f"--at-most is {a.at_most}, but it must be at least 1.")
    folder, axes, code = RunFolder(a.out), parse_axes(a.settings), load_code(a.code)
    chosen = combinations(axes)
    configs = load(a.config, chosen, code)
    prepare_backend(configs[0])
    for config in configs:
        check_products(config.train)
    check_place(folder.path)
    with folder.locked():
        keep_or_check(folder.path, axes, configs[0])
        runs = [plan(folder.path / one.name, one.name, config) for one, config in zip(chosen, configs, strict=True)]
        left = [one for one in runs if not one.complete]
        if len(left) < len(runs):
            print(f"{len(runs) - len(left)} of {len(runs)} runs are complete")
        try:
            failed = train_runs(left, code, a.at_most)
        except Stopped as stopped:
            by = signal.Signals(stopped.exit_code - 128)
            raise Stopped(f"{stopped}; to go on with the sweep, repeat its command", by) from None
        show([one.folder.path for one in runs], folder.path / PICTURE)
    print(f"picture {folder.path / PICTURE}, runs {folder.path}")
    return 1 if failed else 0


def check_place(path: Path) -> None:
    """Raises InputError unless the folder of a sweep is absent, empty or already a sweep's."""
    if (path / RECORD).exists():
        return
    if (path / "config.toml").exists():
        raise InputError(f"{path} holds a run; choose another folder for the sweep with --out.")
    RunFolder(path).check_new()


def load(path: str, chosen: Sequence[Combination], code: Code | None) -> list[RunConfig]:
    """The configs of the combinations, each with the functions that it names. Raises InputError that names the run.

    A baseline may name none, but one of the combinations names a function of `code`.
    """
    configs: list[RunConfig] = []
    for one in chosen:
        with named(one.name):
            configs.append(load_config(path, one.overrides))
    used = any(code_of(config, code) for config in configs)
    for i, one in enumerate(chosen):
        with named(one.name):
            configs[i] = resolve(configs[i], code_of(configs[i], code) if used else code)
    return configs


@contextmanager
def named(run: str) -> Iterator[None]:
    """Name the run in an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the run {run}: {error}") from None


def code_of(config: RunConfig, code: Code | None) -> Code | None:
    """The user's file if the config names functions; None otherwise."""
    return code if any(references(config)) else None


def plan(path: Path, name: str, config: RunConfig) -> Planned:
    """What a run's folder holds already. Raises InputError if it holds something else than a run."""
    folder = RunFolder(path)
    if not folder.config.exists():
        folder.check_new()
        return Planned(name, config, folder, 0, False)
    records, done = read_metrics(folder.metrics), max(saved_steps(folder.checkpoints), default=0)
    complete = is_over(config.train, done, used_s(records)) and bool(records) and records[-1]["step"] == done
    return Planned(name, config, folder, done, complete and "val_loss" in records[-1])


def train_runs(left: Sequence[Planned], code: Code | None, at_most: int | None) -> list[str]:
    """Train these runs; returns the names of those that diverged, whose errors are printed."""
    if not left:
        return []
    members = [Member(one.name, inputs, one.folder) for one, inputs in zip(left, prepare_all(left, code), strict=True)]
    print("\n".join(introduction(members[0].run)))
    done, failed, before = {one.name: one.done for one in left}, list[str](), list[str]()
    for group in grouped(members, done, at_most):
        config, model = group[0].run.config, group[0].run.model
        chosen = layout_of(config, model)
        said = [*describe_layout(chosen), *describe_idle(chosen, jax.device_count(), config.train)]
        if said != before:
            print("\n".join(said))
        before, failed = said, failed + train_group(group, code)
    return failed


def prepare_all(left: Sequence[Planned], code: Code | None) -> list[Prepared]:
    """What each run needs. Runs with the same data and tokenizer share them, read and encoded once.

    Raises InputError that names the run.
    """
    prepared: list[Prepared] = []
    left = on_one_day(left)
    for one in left:
        before = zip(left, prepared, strict=False)
        twin = next((inputs for other, inputs in before if reads_the_same(other.config, one.config)), None)
        with named(one.name):
            inputs = twin.with_config(one.config) if twin else prepare(one.config)
            check_ideas(inputs.config, inputs.model)
            layout_of(inputs.config, inputs.model)
            prepared.append(with_products(one, inputs, code))
    return prepared


def on_one_day(left: Sequence[Planned]) -> list[Planned]:
    """The runs with the day that a run of the sweep has recorded, so that all have the same examples."""
    begun = sorted(left[0].folder.path.parent.glob("*/config.toml"))
    recorded = (RunFolder(path.parent).read_config().tune.day for path in begun)
    day = next((one for one in recorded if one), None)
    return [one if day is None else replace(one, config=on(day, one.config)) for one in left]


def on(day: str, config: RunConfig) -> RunConfig:
    """The config with this day, unless it gives one or its kind of tuning reads none."""
    tune = config.tune
    return config if tune.day or tune.kind not in OF_KINDS["day"] else replace(config, tune=replace(tune, day=day))


def reads_the_same(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs have the same base, and the same ids or examples in rows of the same length."""
    a, b = ((of.data, of.tokenizer, of.init, of.tune, of.train.window) for of in (one, other))
    return a == b


def with_products(one: Planned, inputs: Prepared, code: Code | None) -> Prepared:
    """The run with what computes its matrix products: measured for a new run, and of a begun one as its folder says.

    Raises InputError where the folder's config, code or tokenizer is not this run's.
    """
    if not one.folder.config.exists():
        return inputs.computing_with(choose(inputs.model, inputs.config.train).name)
    kept = one.folder.read_config()
    inputs = inputs.computing_with(kept.train.products)
    for name, then, now in differences(kept, inputs.config):
        raise InputError(
            f"{name} is {shown(now)} in the sweep but {shown(then)} in {one.folder.config}; undo that change, or "
            "delete the folder of the run to start it again."
        )
    check_same_code(code, one.folder.code)
    if one.done:
        check_unchanged(Checkpoints(one.folder.checkpoints), one.done, inputs.config, inputs.tokenizer)
    return inputs


def grouped(members: Sequence[Member], done: Mapping[str, int], at_most: int | None) -> Iterator[list[Member]]:
    """The runs that are trained at the same time: alike, at the same step, and no more than wanted and than fit.

    A run on several devices is trained alone.
    """
    groups: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        groups.setdefault((alike(member.run.config), done[member.name]), []).append(member)
    for group in groups.values():
        n, of = min(at_most or len(group), most_together(group[0].run)), group[0].run.config.train
        n = 1 if of.seconds is not None or of.sink in ONE_AT_A_TIME else n  # each run has its own time
        n = 1 if group[0].run.base else n  # the state of several is made of random parameters
        n = 1 if layout_of(group[0].run.config, group[0].run.model).n_devices > 1 else n
        yield from (group[i : i + n] for i in range(0, len(group), n))


def train_group(group: Sequence[Member], code: Code | None) -> list[str]:
    """Train runs together, or a run alone; returns the names of those that diverged."""
    with ExitStack() as locks:
        for member in group:
            locks.enter_context(member.folder.locked())
            if not member.folder.config.exists():
                member.folder.create(
                    member.run.config, member.run.tokenizer, code_of(member.run.config, code), member.run.chat
                )
        if len(group) > 1:
            fields = ", ".join(numbers_of([member.run.config for member in group]))
            try:
                print(f"{len(group)} runs in one compiled step, because they differ only in {fields}", flush=True)
                return [*train_together(group)]
            except NotTraceableError as error:
                print_note(f"they are trained one after the other: the optimizer does not allow it ({error})")
        return [member.name for member in group if not trained_alone(member)]


def trained_alone(member: Member) -> bool:
    """Train a run, and print its error where it diverged; returns whether it did not."""
    print(member.name, flush=True)
    try:
        train(member.run, member.folder)
    except DivergedError as error:
        print(f"{member.name}: {error}", flush=True)
        return False
    return True
