"""`jaxllm train`: config, inputs, run folder, training, report."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax

from jaxllm.tokenizers import load_tokenizer
from jaxllm.utils.errors import InputError

from ..budget import is_over, used_s
from ..config import ModelConfig, RunConfig, with_absolute_paths
from ..config_file import differences, load_config
from ..ideas import Code, check_same_code, load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import Prepared, prepare
from ..loop import how_to_resume, train
from ..parallel.alike import check_shared, compare_checkpoints, compare_devices, compare_runs
from ..parallel.layout import describe_idle, describe_layout, layout_of
from ..parallel.processes import ALONE, Processes, joined, rank
from ..products import Choice, check_products, choose
from ..runs.checkpoint import Checkpoints
from ..runs.folder import RunFolder
from ..runs.load import MAY_CHANGE, check_unchanged, model_of
from ..runs.loss_plot import draw_losses, is_older
from ..runs.metrics import read_metrics
from ..runs.sinks import check_sink
from ..runs.watched import folder_of
from ..runtime.allocator import compute_deterministically
from ..runtime.jax_check import check_jax
from ..runtime.profile import WARM_UP
from ..state import abstract_state
from ..tune.config import LoraConfig
from .options import Parser, add_code, add_overrides
from .train_report import conclusion, introduction, warn_of_long_prompt, warn_of_memory


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm train configs/quickstart.toml --out runs/first --set train.steps=500")
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.toml",
        help="`jaxllm config` lists its fields; may be left out with --resume",
    )  # fmt: skip
    parser.add_argument("--out", metavar="RUN", help="run folder to make (default: runs/NAME of the config)")
    add_overrides(parser)
    add_code(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN from its newest checkpoint")
    parser.add_argument(
        "--fall-back", action="store_true",
        help="with --resume: where newer checkpoints are damaged, continue from the newest whole one",
    )  # fmt: skip
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT",
        help="of several processes: where process 0 listens; with the next two. Under SLURM's srun they are left out",
    )  # fmt: skip
    parser.add_argument("--process-id", type=int, metavar="I", help="which of the processes this is, from 0")
    parser.add_argument("--num-processes", type=int, metavar="N", help="how many processes train the run")
    parser.add_argument(
        "--profile", type=int, metavar="N", help="show where the time of N steps goes, by operation and source line"
    )


def run(arguments: argparse.Namespace) -> None:
    """Start a run, or resume one. Everything about the input is checked before the run folder is touched."""
    a = arguments
    if a.config is None and not (a.resume and a.out):
        raise InputError("name a config file, for example configs/quickstart.toml, or --out RUN with --resume.")
    if a.fall_back and not a.resume:
        raise InputError("--fall-back is for continuing a run; give it together with --resume.")
    folder = RunFolder(a.out or Path("runs") / Path(a.config).stem)
    with joined(rank(a.coordinator, a.process_id, a.num_processes)) as processes:
        if a.resume:
            resume(folder, a.config, a.overrides, a.fall_back, a.profile, load_code(a.code), processes)
        else:
            code = load_code(a.code)
            start(folder, resolve(load_config(a.config, a.overrides), code), a.profile, code, processes)


def start(
    folder: RunFolder, config: RunConfig, profile: int | None, code: Code | None = None, processes: Processes = ALONE,
    planned: Callable[[Prepared], RunConfig] | None = None,
) -> None:  # fmt: skip
    """Train a new run. `planned` returns its config once the data are read, where they decide it."""
    folder.check_new()
    check_profile(profile, config.train.steps)
    compare_runs(processes, "given", folder, config, code)
    prepare_backend(config, processes)
    check_products(config.train)
    check_sink(config.train.sink)
    inputs = prepare(config)
    inputs = inputs.with_config(planned(inputs)) if planned else inputs
    check_ideas(inputs.config, inputs.model)
    check_layout(inputs, processes)
    compare_runs(processes, "prepared", folder, inputs.config, code)
    with folder_of(processes.index, folder) as folder, folder.locked():
        folder.check_new()  # again, because preparing may have taken long
        choice = choose(inputs.model, inputs.config.train)  # with the rows and steps that the data decided
        inputs = inputs.computing_with(choice.name)
        folder.create(inputs.config, inputs.tokenizer, code, inputs.chat)
        train_and_report(inputs, folder, 0, profile, choice, processes=processes)


def resume(
    folder: RunFolder, config_path: str | None, overrides: list[str], fall_back: bool, profile: int | None,
    code: Code | None = None, processes: Processes = ALONE,
) -> None:  # fmt: skip
    """Continue the run of a folder from its newest checkpoint, or complete its files where it has all its steps."""
    if folder.weights.exists():
        raise InputError(f"{folder.path} has no run to continue: it was imported.")
    check_same_code(code, folder.code)
    config, tokenizer = resolve(resumed_config(folder, config_path, overrides), code), load_tokenizer(folder.tokenizer)
    compare_runs(processes, "given", folder, config, code)
    prepare_backend(config, processes)
    check_products(config.train)
    check_sink(config.train.sink)
    with folder_of(processes.index, folder) as folder, folder.locked():
        checkpoints = Checkpoints(folder.checkpoints)
        if fall_back and processes.index == 0:
            checkpoints.leave_out_damaged(abstract_state(model_of(config, tokenizer), config))
        compare_checkpoints(processes, checkpoints)
        done, steps = checkpoints.latest_step() or 0, config.train.steps
        if done > steps:
            raise InputError(f"train.steps is {steps}, but {folder.path} has done {done}; ask for more than {done}.")
        if done:
            check_unchanged(checkpoints, done, config, tokenizer)
        records = [record for record in read_metrics(folder.metrics) if record["step"] <= done]
        unmeasured = bool(records) and records[-1]["step"] == done and "val_loss" not in records[-1]
        if is_over(config.train, done, used_s(records)) and not unmeasured:
            if is_older(folder.loss_picture, folder.metrics):  # killed while it was drawn
                draw_losses(records, folder.loss_picture)
            has, more = f"all its {steps} steps", "steps"
            if done < steps:
                has, more = f"had all its {config.train.seconds:g} s, after {done:,} steps", "seconds"
            print(f"{folder.path} has {has}; to go on: --resume --set train.{more}=MORE")
            return
        check_profile(profile, steps - done)
        inputs = prepare(config, tokenizer, folder.chat(), nothing_saved=not done)
        check_ideas(inputs.config, inputs.model)
        check_layout(inputs, processes)
        compare_runs(processes, "prepared", folder, inputs.config, code)
        # A run of an earlier version has not chosen: XLA computed.
        choice = Choice("xla") if config.train.products == "auto" else choose(inputs.model, config.train)
        computed = inputs.computing_with(choice.name)
        train_and_report(computed, folder, done, profile, choice, used_s(records), processes)


def train_and_report(
    inputs: Prepared, folder: RunFolder, done: int, profile: int | None, products: Choice, used: float = 0.0,
    processes: Processes = ALONE,
) -> None:  # fmt: skip
    """Train to the last step; print what is trained before, and what came of it after."""
    limits = inputs.config.train
    check_shared(processes, folder)
    processes.how_to_go_on = partial(how_to_resume, folder, inputs.config)
    chosen = layout_of(inputs.config, inputs.model)
    devices = [*describe_layout(chosen), *describe_idle(chosen, jax.device_count(), limits)]
    print("\n".join([*introduction(inputs), str(products), *devices]))
    if inputs.examples and not done:
        inputs.examples.preview()
    warn_of_memory(inputs)
    warn_of_long_prompt(inputs)
    if done:
        print(f"resuming after step {done:,} of {limits.steps:,}")
    if limits.seconds is not None:
        print(
            f"training ends after {limits.seconds:g} s{f', of which {used:.1f} are used' if used else ''}, or "
            f"{limits.steps:,} steps; compiling, evaluating and saving are not counted"
        )
    train(inputs, folder, profile)
    if processes.index == 0:
        print("\n".join(conclusion(folder)))


def resumed_config(folder: RunFolder, config_path: str | None, overrides: list[str]) -> RunConfig:
    """The config of the folder's run, with the fields changed that may change on the way.

    Raises InputError for any other change, by `overrides` or by a config file that is not the run's.
    """
    old = with_absolute_paths(folder.read_config())
    new = with_absolute_paths(folder.read_config(overrides))
    for name, before, after in differences(old, new):
        if not name.startswith(MAY_CHANGE):
            raise InputError(
                f"{name} was {before!r} in this run and cannot become {after!r} on the way; resume without it, "
                "or start a new run in another folder."
            )
    given_config = with_absolute_paths(load_config(config_path, overrides)) if config_path else new
    for name, before, given in differences(new, given_config):
        left_to_the_run = {
            "data.sha256": None, "data.characters": None, "model.vocab_size": 0, "tokenizer.kind": None,
            "tokenizer.path": None, "model.separator": None, "train.products": "auto",
            "train.code_sha256": None, "train.window": None, "init.sha256": None, "tune.labels": None,
            "tune.day": None,
        }  # fmt: skip
        if given_config.init.from_:  # what the base decides, and its adapter
            left_to_the_run |= {f"model.{key}": value for key, value in asdict(ModelConfig()).items()}
        if given_config.init.adapter:
            left_to_the_run |= {f"lora.{key}": value for key, value in asdict(LoraConfig()).items()}
        if name not in left_to_the_run or given != left_to_the_run[name]:
            raise InputError(
                f"{name} is {before!r} in {folder.path} but {given!r} in {config_path}; leave {config_path} out to "
                "continue the run as it is, or choose another folder with --out."
            )
    return new


def prepare_backend(config: RunConfig, processes: Processes = ALONE) -> None:
    """Check JAX with its first computation, after the settings that must come before that, and compare the devices."""
    if config.train.deterministic:
        compute_deterministically()
    check_jax()
    compare_devices(processes)


def check_layout(inputs: Prepared, processes: Processes) -> None:
    """Raises InputError where the devices cannot be laid out, or where a process would have nothing to compute."""
    config, n_devices = inputs.config, jax.device_count()
    used = layout_of(config, inputs.model).n_devices
    if used < n_devices and processes.count > 1:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, which occupies {used} of the {n_devices} devices of "
            f"{processes.count} processes; make it a multiple of {n_devices * config.train.grad_accumulation}, or "
            "start fewer processes."
        )


def check_profile(n_steps: int | None, left: int) -> None:
    """Raises InputError for a number of steps to profile that does not fit into the steps left."""
    if n_steps is not None and not 1 <= n_steps <= left - WARM_UP:
        raise InputError(
            f"--profile is {n_steps}, but it must be at least 1 and leave {WARM_UP} of the {left:,} steps to do: the "
            f"first {WARM_UP}, which run with cold memory, are not profiled."
        )
