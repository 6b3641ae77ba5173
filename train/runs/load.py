"""Reading a run back: config, tokenizer and checkpoint, after checking that they belong together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm import GPT
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import Tokenizer, load_tokenizer
from jaxllm.utils.errors import InputError, shown

from ..config import RunConfig
from ..config_file import build_config, differences, sections
from ..errors import DamagedError, DroppedError
from ..eval_weights import eval_weights
from ..ideas import Code, check_same_code, resolve
from ..ideas_check import check_ideas
from ..state import abstract_state
from ..tune.beginning import frozen_of
from ..tune.partition import joined, merged, partition_of
from .checkpoint import Checkpoints
from .folder import RunFolder
from .imported_weights import read_weights
from .manifest import Manifest

MAY_CHANGE = (  # when a run is resumed
    "train.steps", "train.seconds", "train.max_skipped", "train.products", "train.sink",
    "eval.", "checkpoint.", "parallel.", "init.from",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedRun:
    """The parts of a run that generating, evaluating and comparing need."""

    config: RunConfig
    tokenizer: Tokenizer
    model: GPT
    params: Any  # those of `eval.weights`; beside an `opt_state` those that are trained; adapters are merged
    opt_state: Any  # None if it was not read
    step: int
    chat: ChatFormat | None = None  # of an imported model, and of a run that begins from one
    imported: bool = False

    @property
    def begin_token(self) -> int | None:
        """The id that an imported model expects before any text; None if there is none."""
        return self.chat.begin_token if self.chat else None


def load_run(
    path: str | Path, step: str | None = None, with_optimizer: bool = False, code: Code | None = None,
    adapters: bool = False,
) -> TrainedRun:  # fmt: skip
    """The parameters of a run folder: the newest, those of a step ("100"), or the "best" by validation loss.

    They are the weights that `eval.weights` means. `with_optimizer`, they are the trained ones, beside the optimizer's
    state, which otherwise is read only where those weights are made from it. `adapters` are left beside their maps, as
    `LoraKernel`s; otherwise each is added to its map.
    A run whose config names functions of a file needs the `code` that it was trained with.
    Raises InputError if there are none, or if they are damaged or belong to another config, tokenizer or code.
    """
    folder = RunFolder(path)
    check_same_code(code, folder.code)
    config = resolve(folder.read_config(), code)
    tokenizer = load_tokenizer(folder.tokenizer)
    if folder.weights.exists():
        return _load_imported(folder, config, tokenizer, step)
    model = model_of(config, tokenizer)
    check_ideas(config, model.config)
    try:
        checkpoints = Checkpoints(folder.checkpoints)
        chosen = choose_step(checkpoints, step)
        check_unchanged(checkpoints, chosen, config, tokenizer, of=("model.",))
        like, averaged = abstract_state(model, config), None if with_optimizer else eval_weights(config)
        state = checkpoints.restore(like if with_optimizer or averaged else like._replace(opt_state=None), chosen)
    except DroppedError:
        if step is not None and step != "best":
            raise
        return load_run(path, step, with_optimizer, code, adapters)  # a newer one has replaced it
    except OSError as error:
        raise InputError(f"cannot read {folder.checkpoints}: {error.strerror or error}.") from None
    if averaged:
        state = state._replace(params=averaged(state), opt_state=None)
    parts = partition_of(config)
    if parts and config.init.from_ and Path(config.init.from_).resolve() == folder.path.resolve():
        raise InputError(f"init.from of {folder.config} is that run itself; write there where its base is.")
    state = state._replace(frozen=frozen_of(config, model.config, parts, load_run))
    # On the device: a step would copy NumPy arrays there at each call.
    params = joined(parts, state) if adapters else jax.tree.map(jnp.asarray, merged(parts, state))
    return TrainedRun(config, tokenizer, model, params, state.opt_state, int(state.step), folder.chat())


def _load_imported(folder: RunFolder, config: RunConfig, tokenizer: Tokenizer, step: str | None) -> TrainedRun:
    if step is not None:
        raise InputError(f"--step is {shown(step)}, but {folder.path} was imported and has no steps; leave it out.")
    model, chat = model_of(config, tokenizer), ChatFormat.load(folder.pretrained)
    tokenizer = tokenizer.ending_documents_with(chat.eos_token)  # older versions did not save it
    if chat.begin_token is not None and chat.begin_token >= tokenizer.vocab_size:
        raise InputError(
            f"{folder.pretrained} puts the id {chat.begin_token} before each text, but the tokenizer has the ids 0 to "
            f"{tokenizer.vocab_size - 1}; import it again."
        )
    params = read_weights(folder.weights, model.config)
    return TrainedRun(config, tokenizer, model, params, None, 0, chat, imported=True)


def choose_step(checkpoints: Checkpoints, wanted: str | None) -> int:
    """The step meant by None (the newest), "best", or a number. Raises InputError if there is no such step."""
    steps = checkpoints.steps()
    if not steps:
        raise checkpoints.none_yet()
    if wanted is None:
        return steps[-1]
    if wanted in map(str, steps):
        return int(wanted)
    best = checkpoints.best_step()
    if wanted == "best" and best is not None:
        return best
    choices = ", ".join(map(str, steps)) + (", and best" if best is not None else ", none with a validation loss")
    raise InputError(f"--step is {shown(wanted)}, but {checkpoints.folder} holds {choices}.")


def model_of(config: RunConfig, tokenizer: Tokenizer) -> GPT:
    """The run's model, to be applied."""
    return GPT(config.model.with_vocabulary(tokenizer.vocab_size), config.train.dtype)


def check_unchanged(
    checkpoints: Checkpoints, step: int, config: RunConfig, tokenizer: Tokenizer, of: Sequence[str] = ("",)
) -> None:
    """Compare the tokenizer and the fields whose names start with one of `of` with those the checkpoint was saved with.

    The paths of the data may differ; their sha256 says whether they are the same. Raises InputError that names the
    first difference. Checkpoints of format 1 hold no config and pass.
    """
    try:
        manifest = checkpoints.manifest(step)
    except DamagedError:
        return  # reading its arrays raises the error, with a remedy
    if manifest is None:
        return
    for name, then, now in differences(_moved(manifest, config), config):
        if name.startswith(tuple(of)) and not name.startswith(MAY_CHANGE):
            raise InputError(
                f"{name} was {shown(then)} when step {step:,} was saved, but is {shown(now)} in config.toml of "
                f"{checkpoints.folder.parent}; undo that change, or start a new run in another folder."
            )
    if tokenizer.fingerprint() != manifest.tokenizer:
        raise InputError(
            f"tokenizer.json of {checkpoints.folder.parent} is not the one that step {step:,} was trained with: its "
            f"fingerprint is {tokenizer.fingerprint()[:12]}, not {manifest.tokenizer[:12]}; bring the old one back."
        )


def _moved(manifest: Manifest, config: RunConfig) -> RunConfig:
    """The saved config, with the current paths of the data if there are as many, with the same weights.

    The base may have moved too: its fingerprint is compared when it is read.
    """
    try:
        stored = build_config(manifest.config)
    except InputError as error:
        raise InputError(
            f"step {manifest.step:,} was saved by jaxllm {manifest.versions.get('jaxllm')}, whose config this one "
            f"cannot read: {error}"
        ) from None
    now, then = config.data.sources.values(), stored.data.sources.values()
    data = asdict(stored)["data"] | ({"source": config.data.source} if list(now) == list(then) else {})
    init = {name: value for name, value in sections(config)["init"].items() if name in ("from", "adapter")}
    moved = {
        "data": data,
        "tokenizer": asdict(stored.tokenizer) | {"path": config.tokenizer.path},
        "init": sections(stored)["init"] | (init if stored.init.sha256 == config.init.sha256 else {}),
    }
    return build_config(sections(stored) | moved)
