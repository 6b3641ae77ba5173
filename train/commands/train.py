"""What the commands do, between the words on the command line and the functions that work."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import read_source
from jaxllm.data.id_sequences import IdSequence
from jaxllm.data.shards import is_prepared
from jaxllm.fast.attention import attention_path
from jaxllm.fast.quantised_weights import pack
from jaxllm.gpt import count_parameters
from jaxllm.tokenizers import Tokenizer, load_tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file
from jaxllm.utils.utf8 import visible

from ..config import DataConfig, RunConfig, differences, load_config, with_absolute_paths
from ..evaluate import evaluator, score
from ..inputs import Prepared, prepare
from ..loop import train
from ..memory_estimate import estimate, memory_line, warning
from ..nonfinite import check_computed
from ..runs.checkpoint import Checkpoints
from ..runs.folder import RunFolder
from ..runs.load import MAY_CHANGE, check_unchanged, load_run, model_of
from ..runs.loss_plot import draw_losses, is_older
from ..runs.metrics import SAMPLE, read_metrics
from ..runtime.allocator import compute_deterministically
from ..runtime.jax_check import check_jax
from ..runtime.memory import available_bytes
from ..runtime.profile import WARM_UP
from ..state import abstract_state
from ..writer import left_out


def train_command(
    config: str | None, out: str | None, overrides: list[str], resume: bool, fall_back: bool, profile: int | None
) -> None:  # fmt: skip
    """`jaxllm train`: everything about the input is checked before the run folder is touched."""
    if config is None and not (resume and out):
        raise InputError("name a config file, for example configs/quickstart.toml, or --out RUN with --resume.")
    if fall_back and not resume:
        raise InputError("--fall-back is for going on with a run; give it together with --resume.")
    folder = RunFolder(out or Path("runs") / Path(str(config)).stem)
    if resume:
        _resume(folder, config, overrides, fall_back, profile)
        return
    folder.check_new()
    assert config is not None
    loaded = load_config(config, overrides)
    _check_profile(profile, loaded.train.steps)
    _start_backend(loaded)
    run = prepare(loaded)
    with folder.locked():
        folder.check_new()  # once more: preparing may have taken long
        folder.create(run.config, run.tokenizer)
        _run(run, folder, 0, profile)


def _resume(
    folder: RunFolder, config: str | None, overrides: list[str], fall_back: bool, profile: int | None
) -> None:  # fmt: skip
    if folder.weights.exists():
        raise InputError(f"{folder.path} has no run to go on with: it was imported.")
    resumed, tokenizer = _resumed(folder, config, overrides), load_tokenizer(folder.tokenizer)
    _start_backend(resumed)
    with folder.locked():
        checkpoints = Checkpoints(folder.checkpoints)
        if fall_back:
            checkpoints.leave_out_damaged(abstract_state(model_of(resumed, tokenizer), resumed))
        done, steps = checkpoints.latest_step() or 0, resumed.train.steps
        if done > steps:
            raise InputError(f"train.steps is {steps}, but {folder.path} has done {done}; ask for more than {done}.")
        if done:
            check_unchanged(checkpoints, done, resumed, tokenizer)
        records = read_metrics(folder.metrics)
        unmeasured = bool(records) and records[-1]["step"] == done and "val_loss" not in records[-1]
        if done == steps and not unmeasured:
            if is_older(folder.loss_picture, folder.metrics):  # killed while it was drawn
                draw_losses(records, folder.loss_picture)
            print(f"{folder.path} has all its {steps} steps; to go on: --resume --set train.steps=MORE")
            return
        _check_profile(profile, steps - done)
        _run(prepare(resumed, tokenizer), folder, done, profile)


def _run(run: Prepared, folder: RunFolder, done: int, profile: int | None) -> None:
    _introduce(run, done)
    train(run, folder, profile)
    _conclude(run, folder)


def _resumed(folder: RunFolder, config: str | None, overrides: list[str]) -> RunConfig:
    """The config of the folder's run; refuses whatever would make its second half another run than its first."""
    old = with_absolute_paths(folder.read_config())
    new = with_absolute_paths(folder.read_config(overrides))
    for name, before, after in differences(old, new):
        if not name.startswith(MAY_CHANGE):
            raise InputError(
                f"{name} was {before!r} in this run and cannot become {after!r} on the way; resume without it, "
                "or start a new run in another folder."
            )
    given_config = with_absolute_paths(load_config(config, overrides)) if config else new
    for name, before, given in differences(new, given_config):
        left_to_the_data = {
            "data.sha256": None, "data.characters": None, "model.vocab_size": 0, "tokenizer.kind": None,
            "tokenizer.path": None, "model.separator": None,
        }  # fmt: skip
        if name not in left_to_the_data or given != left_to_the_data[name]:
            raise InputError(
                f"{name} is {before!r} in {folder.path} but {given!r} in {config}; leave {config} out to continue "
                "the run as it is, or choose another folder with --out."
            )
    return new


def _start_backend(config: RunConfig) -> None:
    """JAX's first computation, after all that must be said before it."""
    if config.train.deterministic:
        compute_deterministically()
    check_jax()


def _check_profile(n_steps: int | None, left: int) -> None:
    if n_steps is not None and not 1 <= n_steps <= left - WARM_UP:
        raise InputError(
            f"--profile is {n_steps}, but it must be at least 1 and leave {WARM_UP} of the {left:,} steps to do: the "
            f"first {WARM_UP}, which find memory cold, are not profiled."
        )


def _introduce(run: Prepared, done: int) -> None:
    c, model = run.config, run.model
    print(
        f"{len(run.train_ids):,} training and {len(run.validation_ids):,} validation tokens from "
        f"{' and '.join(c.data.sources)} ({c.data.characters:,} characters, sha256 {str(c.data.sha256)[:12]}), "
        f"{run.tokenizer.kind} tokenizer with "
        f"{run.tokenizer.vocab_size:,} ids"
    )
    print(
        f"{count_parameters(model):,} parameters, {c.train.batch_size * model.context_length:,} tokens a step, "
        f"{c.train.dtype} on {jax.devices()[0].platform}; an untrained model's loss is "
        f"ln {model.vocab_size} = {math.log(model.vocab_size):.2f}; attention is {_attention(c, model)}"
    )
    need, free = estimate(model, c.train, c.optimizer), available_bytes()
    print(memory_line(need, free))
    if too_much := warning(need, free, c, model):
        print(f"warning: {too_much}", file=sys.stderr)
    prompt, context = len(run.tokenizer.encode(c.eval.prompt)), model.context_length
    if prompt > context:
        print(f"note: {left_out('eval.prompt', prompt, context, context)}", file=sys.stderr)
    if done:
        print(f"resuming after step {done:,} of {c.train.steps:,}")


def _attention(config: RunConfig, model: GPTConfig) -> str:
    """Which path is live (`jaxllm.fast.attention`)."""
    if model.dropout:
        return "plain, because its weights are dropped"
    shape = (config.train.batch_size, model.n_heads, model.context_length, model.head_dim)
    x = jax.ShapeDtypeStruct(shape, config.train.dtype)
    return "chunked, within documents" if model.separator is not None else attention_path(x, x)


def _conclude(run: Prepared, folder: RunFolder) -> None:
    records = read_metrics(folder.metrics)
    last = records[-1]
    picture = f"picture {folder.loss_picture}, " if folder.loss_picture.exists() else ""
    waited = sum(record.get("data_wait_s", 0) for record in records) / max(last["elapsed_s"], 1e-9)
    print(
        f"validation loss {last['val_loss']:.4f} after {last['step']:,} steps and {last['elapsed_s']:.0f} s, of which "
        f"{waited:.1%} went by waiting for data; {picture}samples {folder.samples}"
    )
    sample = read_file(folder.samples).decode(errors="replace").rpartition(SAMPLE)[2]
    print(SAMPLE + sample.rstrip())


def evaluate_command(path: str, step: str | None, data: str | None, field: str | None, weights: str | None) -> None:
    """`jaxllm evaluate`: prints the scores."""
    if field is not None and data is None:
        raise InputError(f"--field is {field!r}, but there is no --data whose text it names; give both.")
    if field is not None and data is not None and is_prepared(data):
        raise InputError(f"--field is {field!r}, but {data} is prepared data, which holds tokens; leave it out.")
    run = load_run(path, step)
    if data is None and run.chat is not None:
        raise InputError(f"{path} was imported without the text that it was trained on; name a text with --data.")
    begin = run.begin_token
    field = run.config.data.field if field is None else field
    ids = _evaluation_ids(run.config, run.tokenizer, data, field, 2 if begin is None else 1)
    params = run.params if weights is None else pack(run.params, weights)
    loss = evaluator(run.model, run.config, begin=begin)(params, ids)
    check_computed(loss, path, run.params)
    scores = score(loss, ids, run.tokenizer, begin)
    bits = "not defined for a word tokenizer" if scores.bits_per_byte is None else f"{scores.bits_per_byte:.4f}"
    print(f"step             {run.step:,}")
    print(f"tokens           {scores.n_targets:,}")
    if run.chat is not None:
        first = "the text itself" if begin is None else visible(run.tokenizer.decode_bytes([begin]))
        print(f"each window      begins with {first}")
    print(f"validation loss  {scores.loss:.4f} nats per token")
    print(f"perplexity       {scores.perplexity:.4f}")
    print(f"bits per byte    {bits}")


def _evaluation_ids(config: RunConfig, tokenizer: Tokenizer, data: str | None, field: str, fewest: int) -> IdSequence:
    """The run's validation split; or all ids of a text; or the validation split of prepared data."""
    if data is None:
        return prepare(config, tokenizer).validation_ids
    if is_prepared(data):
        return prepare(replace(config, data=DataConfig(data)), tokenizer).validation_ids
    ids = np.asarray(tokenizer.encode(read_source(data, field)), np.int32)
    if len(ids) < fewest:
        raise InputError(
            f"{data} holds {len(ids)} tokens, but the loss of one needs a token before it; give more text."
        )
    return ids
