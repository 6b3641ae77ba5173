"""Our side of `jaxllm bench speedrun`: `jaxllm train` as a user starts it, with nothing compiled before."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxllm.utils.errors import InputError
from jaxllm.utils.private_folder import VARIABLE

from ..config_file import load_config
from ..errors import RunError
from ..ideas import load_code, references, resolve
from ..ideas_check import check_ideas
from ..inputs import Prepared, prepare
from ..products import check_products
from ..runs.folder import RunFolder
from ..runs.metrics import Record
from ..runs.sinks import check_sink
from ..runs.summary import AVERAGED
from . import alternate
from .process import worker_environment
from .whole_run import Clock, Tail, WholeRun, run_watched

OURS = [sys.executable, "-m", __package__.partition(".")[0], "train"]
MANY_STEPS = 1_000_000  # more than fit into any time: the schedule then runs over `train.seconds`
MARGIN = 0.98  # of the time that is left for training, because no two runs take equally long
TRIES = 3
# Another folder of compiled programs, and the allocator's setting, with which the program would not restart itself.
LEFT_OUT = ("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES")


@dataclass(frozen=True)
class OurRecipe:
    """A config as `jaxllm train` reads it, and what it prepares."""

    config: str  # the path
    overrides: Sequence[str]
    code: str | None  # path of the file that its functions are in
    prepared: Prepared

    def command(self, folder: Path, settings: Sequence[str]) -> list[str]:
        """The command that trains it into a run folder, with further settings after the user's."""
        sets = [word for setting in (*self.overrides, *settings) for word in ("--set", setting)]
        code = ["--code", self.code] if self.code else []
        return [*OURS, self.config, "--out", str(folder), *sets, *code]


def load_recipes(paths: Sequence[str], overrides: Sequence[str], code: str | None) -> list[OurRecipe]:
    """The configs with all checks of `jaxllm train`. Raises InputError as it does.

    One of them names a function of `code`; the others need not.
    """
    configs = [load_config(path, overrides) for path in paths]
    uses = [any(references(config)) for config in configs]
    if code is not None:
        jax.config.update("jax_platforms", "cpu")  # here functions are only tried
    recipes = []
    for path, config, used in zip(paths, configs, uses, strict=True):
        own = code if used or not any(uses) else None
        config = resolve(config, load_code(own))
        check_products(config.train)
        check_sink(config.train.sink)
        prepared = prepare(config)
        check_ideas(prepared.config, prepared.model)
        recipes.append(OurRecipe(path, overrides, own, prepared))
    return recipes


@dataclass(frozen=True)
class OurRun(WholeRun):
    """A run of ours, and what else than training it has spent its time on."""

    seed: int
    products: str  # what computed the matrix products
    train_seconds: float | None  # its `train.seconds`
    around_s: float  # before the first step and after the last: start, compiling, the last evaluation, saving
    between: float  # seconds of evaluating and saving for each second of training, up to the last step

    def training_within(self, seconds: float) -> float:
        """Seconds of training with which a run like this one takes `seconds` in all; 0 or less if none are left."""
        return MARGIN * (seconds - self.around_s) / (1 + self.between)


def train_ours(recipe: OurRecipe, seed: int, *settings: str) -> OurRun:
    """Train a config with that seed on a CPU, in a temporary folder. Raises RunError if its process fails."""
    records: list[Record] = []
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="jaxllm-speedrun-") as place:
        folder = RunFolder(Path(place, "run"))
        metrics = Tail(folder.metrics)

        def watch(clock: Clock) -> None:
            new = [json.loads(line) for line in metrics.lines()]
            records.extend(new)
            # The loss that counts is that of the weights that generate, as in `train.runs.summary`.
            losses = [record.get(AVERAGED, record["val_loss"]) for record in new if "val_loss" in record]
            curve.extend((clock(), loss) for loss in losses)

        command = recipe.command(folder.path, (f"train.seed={seed}", *settings))
        environment = {k: v for k, v in worker_environment(alternate.ROOT).items() if k not in LEFT_OUT}
        environment |= {"JAX_PLATFORMS": "cpu", VARIABLE: str(Path(place, "compiled"))}
        seconds = run_watched("jaxllm", command, environment, None, Path(place, "output.txt"), watch)
        train = folder.read_config().train
    elapsed_s, trained_s = records[-1]["elapsed_s"], _trained_s(records)
    return OurRun(
        seconds, tuple(curve), seed, str(train.products), train.seconds, around_s=seconds - elapsed_s,
        between=max(elapsed_s - trained_s, 0) / trained_s,
    )  # fmt: skip


def _trained_s(records: Sequence[Record]) -> float:
    """Seconds of training: recorded with a time limit, else from the speed of each step."""
    if "train_s" in records[-1]:
        return float(records[-1]["train_s"])
    tokens = records[0]["tokens"]  # of a step
    return float(sum(tokens / record["tokens_per_s"] for record in records))


def train_ours_within(recipe: OurRecipe, seed: int, seconds: float, like: OurRun) -> OurRun:
    """Train a config for as long as the whole process takes no more than `seconds`, with the schedule over that time.

    How much of it is left for training is known from a run like it. A run that takes longer is repeated with less,
    up to TRIES times. The last one is returned, even if it took longer too: the table then says so. Raises RunError if
    no time is left for training.
    """
    for _ in range(TRIES):
        training_s = like.training_within(seconds)
        if training_s <= 0:
            raise RunError(
                f"the other side's whole run took {seconds:.1f} s, but {recipe.config} needs {like.around_s:.1f} s "
                "beside its training; compare with a longer run."
            )
        like = train_ours(recipe, seed, f"train.seconds={training_s:.3f}", f"train.steps={MANY_STEPS}")
        if like.seconds <= seconds:
            break
    return like


def check_same_text(recipes: Sequence[OurRecipe]) -> None:
    """Raises InputError unless the losses of all configs are of the same tokens."""
    first, *others = recipes
    for other in others:
        a, b = first.prepared, other.prepared
        if (a.config.data.sha256, a.tokenizer.fingerprint()) != (b.config.data.sha256, b.tokenizer.fingerprint()):
            raise InputError(
                f"{other.config} is on another text or has other tokens than {first.config}, so that their losses "
                "cannot be compared; make data and tokenizer the same."
            )
