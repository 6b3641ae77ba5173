"""What `jaxllm train` prints of a run before it begins and after its end."""

import math
import sys

import jax

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import attention_path, looks_ahead
from jaxllm.gpt import count_parameters
from jaxllm.loss import takes_hidden
from jaxllm.utils.files import read_file

from ..config import RunConfig, TrainConfig, row_length, tokens_of_step
from ..inputs import Prepared
from ..memory_estimate import memory_line, needed, warning
from ..notes import print_cut_prompt
from ..runs.folder import RunFolder
from ..runs.metrics import SAMPLE, read_metrics
from ..runtime.memory import available_bytes
from ..tune.partition import Partition, n_changing, partition_of


def introduction(inputs: Prepared) -> list[str]:
    """Lines on the data, the model and the memory."""
    c, model, tokenizer = inputs.config, inputs.model, inputs.tokenizer
    untrained = f"an untrained model's loss is ln {model.vocab_size} = {math.log(model.vocab_size):.2f}; "
    untrained = "" if c.init.from_ else untrained
    return [
        f"{len(inputs.train_ids):,} training and {len(inputs.validation_ids):,} validation tokens from "
        f"{' and '.join(c.data.sources)} ({c.data.characters:,} characters, sha256 {str(c.data.sha256)[:12]}), "
        f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} ids",
        f"{count_parameters(model):,} parameters, {tokens_of_step(c, model):,} tokens a step, "
        f"{c.train.dtype} on {jax.devices()[0].platform}; {untrained}attention is {describe_attention(c, model)}",
        *describe_loss(c.train),
        *describe_base(inputs),
        *(inputs.examples.notes if inputs.examples else ()),
    ]


def describe_base(inputs: Prepared) -> list[str]:
    """Lines on the weights that a run begins from, and on how many of them change."""
    init, parts = inputs.config.init, partition_of(inputs.config)
    if init.from_ is None:
        return []
    lines = [f"begins from {init.from_} (fingerprint {str(init.sha256)[:12]})"]
    if parts is not None:
        lines.append(
            f"{n_changing(inputs.model, parts):,} parameters change: {describe_parts(parts)}; the others are frozen"
        )
    return lines


def describe_parts(parts: Partition) -> str:
    """What of the parameters changes, in words."""
    lora = parts.lora
    words = [f"adapters of rank {lora.rank} beside {lora.targets or 'all maps of the blocks'}"] if lora.rank else []
    return " and ".join([*words, *([f"those of {parts.train}"] if parts.train else [])])


def describe_loss(config: TrainConfig) -> list[str]:
    """A line where a user's loss is computed without the chunks of `jaxllm.fast.loss`."""
    if config.loss is None:
        return []
    what = "the hidden states" if takes_hidden(config.loss) else "all logits of a batch at once, and holds them"
    return [f"the loss is {config.loss}, which reads {what}; val_loss is the cross-entropy"]


def describe_attention(config: RunConfig, model: GPTConfig) -> str:
    """Which form of attention training uses (`jaxllm.fast.attention`)."""
    if model.block is not None:
        return f"that of {model.block}"
    if model.dropout:
        return "plain, because its weights are dropped"
    if looks_ahead(model.visible, row_length(model, config.train), model.separator is not None):
        return f"chunked over all keys, because {model.visible} lets tokens attend to later ones"
    if ours := [str(one) for one in (model.visible, model.score) if one is not None]:
        return f"chunked, with {' and '.join(ours)}"
    cap = "" if model.score_softcap is None else f", with a soft cap of {model.score_softcap:g}"
    shape = (config.train.batch_size, model.n_heads, row_length(model, config.train), model.head_dim)
    x = jax.ShapeDtypeStruct(shape, config.train.dtype)
    documents = model.separator is not None
    parts = config.parallel.context
    path = attention_path(x, x, documents or model.sliding_window is not None or bool(cap), parts)
    path = path if parts == 1 else f"{path} over all keys, because positions are in {parts} parts"
    return f"{path}{', within documents' * documents}{_window(model)}{cap}"


def _window(model: GPTConfig) -> str:
    """The window, and how many layers have it if not all do."""
    n = model.n_layers
    local = sum(model.of_layer(i).sliding_window is not None for i in range(n))
    share = f" in {local} of {n} layers" if local < n else ""
    return f", within a window of {model.sliding_window:,}{share}" if local else ""


def warn_of_memory(inputs: Prepared) -> None:
    """Print what the run needs and what is free, and a warning where that is not enough."""
    config, model = inputs.config, inputs.model
    need, free = needed(config, model), available_bytes()
    print(memory_line(need, free))
    if too_much := warning(need, free, config, model):
        print(f"warning: {too_much}", file=sys.stderr)


def warn_of_long_prompt(inputs: Prepared) -> None:
    """Print a note where the prompt of the samples is longer than the context."""
    n_tokens, context = len(inputs.tokenizer.encode(inputs.config.eval.prompt)), inputs.model.context_length
    if n_tokens > context:
        print_cut_prompt("eval.prompt", n_tokens, context, context)


def conclusion(folder: RunFolder) -> list[str]:
    """Lines on the loss, the time and the last sample."""
    records = read_metrics(folder.metrics)
    last = records[-1]
    picture = f"picture {folder.loss_picture}, " if folder.loss_picture.exists() else ""
    waited = sum(record.get("data_wait_s", 0) for record in records) / max(last["elapsed_s"], 1e-9)
    averaged = f", averaged weights {last['averaged_val_loss']:.4f}," if "averaged_val_loss" in last else ""
    more = "".join(f", {name} {last[f'val_{name}']:.4f}" for name in ("accuracy", "margin") if f"val_{name}" in last)
    lines = [
        f"validation loss {last['val_loss']:.4f}{averaged}{more} after {last['step']:,} steps and "
        f"{last['elapsed_s']:.0f} s, of which {waited:.1%} was spent waiting for data; {picture}"
        f"{f'samples {folder.samples}' if folder.samples.exists() else f'run {folder.path}'}"
    ]
    if folder.samples.exists():
        lines.append(SAMPLE + read_file(folder.samples).decode(errors="replace").rpartition(SAMPLE)[2].rstrip())
    return lines
