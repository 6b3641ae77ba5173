"""What `jaxllm learn train` trains: sizes by language, a config with their functions, and whose the pieces are."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.utils.errors import InputError

from ...config import RunConfig
from ...config_file import build_config, parse_override
from ...inputs import Prepared, prepare
from ..course import ORDER
from .bridge import IN_MODEL, Bridge
from .chosen import Chosen
from .writing import draw_pairs, tokenizer_of, write_text

Sections = dict[str, dict[str, Any]]
SMALL: Sections = {  # NumPy and PyTorch, which a program of XLA waits for
    "model": {"context_length": 48, "d_model": 64, "n_layers": 2, "n_heads": 4},
    "train": {"steps": 2000, "batch_size": 8, "seconds": 150.0},
    "optimizer": {"learning_rate": 5e-3, "min_learning_rate": 5e-4, "warmup_steps": 20, "beta2": 0.99},
}
SIZES: dict[str, Sections] = {
    "jax": {
        "model": {"context_length": 64, "d_model": 128, "n_layers": 3, "n_heads": 4},
        "train": {"steps": 1500, "batch_size": 16},
        "optimizer": {"learning_rate": 3e-3, "min_learning_rate": 3e-4, "warmup_steps": 50, "beta2": 0.99},
    },
    "numpy": SMALL,
    "torch": SMALL,
}
COMMON: Sections = {
    "data": {"source": "python-docs"},
    "tokenizer": {"kind": "char"},
    "model": {},
    "train": {},
    "optimizer": {"schedule": "cosine"},
    "eval": {"every": 500, "prompt": "The ", "sample_tokens": 300},
    "parallel": {"data": 1},
}
MAY_VARY = (
    "vocab_size", "context_length", "d_model", "n_layers", "n_heads", "d_ff", "zero_init", "block", "norm",
)  # fmt: skip


def config_of(bridge: Bridge, overrides: Iterable[str]) -> RunConfig:
    """The config of a training with their functions; `overrides` as those of `jaxllm train`.

    Raises InputError for a field of the model that the pieces of the course do not compute.
    """
    fields = bridge.fields
    sections = {
        name: values | SIZES[bridge.language].get(name, {}) | fields.get(name, {}) for name, values in COMMON.items()
    }
    overrides = list(overrides)
    for override in overrides:
        section, key, _ = parse_override(override)
        if key in fields.get(section, {}) or (section == "model" and key not in MAY_VARY):
            raise InputError(
                f"--set {section}.{key} cannot be given here, because your pieces decide it; set sizes of the model, "
                "such as model.d_model, or fields of other sections."
            )
    return build_config(sections, overrides)


def with_theirs(bridge: Bridge, config: RunConfig) -> Prepared:
    """As `prepare(config)`, with their tokenizer, their input-target pairs and their sampling where these are used."""
    inputs = prepare(config, tokenizer_of(bridge, config))
    if pairs := bridge.functions.get("input_target_pairs"):
        inputs = replace(inputs, draw=partial(draw_pairs, pairs["input_target_pairs"], bridge.arrays))
    if sampling := bridge.functions.get("sampling"):
        of_text = partial(write_text, sampling["next_token_probabilities"], sampling["sample"], bridge.arrays)
        inputs = replace(inputs, write=of_text)
    return inputs


def whose(chosen: Chosen, language: str, tokenizer: str) -> list[str]:
    """A line on the pieces that are theirs, one on those that are ours and why, and one on the backward."""
    other = "word_tokenizer" if tokenizer == "char" else "char_tokenizer"
    theirs = [name for name in ORDER if name in chosen.used and name != other]
    ours = [f"{name} ({chosen.why_not[name]})" for name in ORDER if name in chosen.why_not and name != other]
    if "gpt" in theirs:  # it calls a block and a norm, as it likes
        theirs = [name for name in theirs if name not in ("block", "layer_norm")]
        ours = [text for text in ours if not text.startswith(("block ", "layer_norm "))]
    shown = [f"{name} (the whole model)" if name == "gpt" else name for name in theirs]
    lines = [f"yours: {', '.join(shown) or 'no piece yet'}", f"ours: {'; '.join(ours) or 'no piece'}"]
    if language == "numpy" and any(name in IN_MODEL for name in theirs):
        lines.append("NumPy has no gradients: the backward of your functions is that of the reference")
    return lines


def check_tree(model: GPTConfig) -> None:
    """Raises InputError for a model whose documents are separate, which no piece of the course computes."""
    if model.separator is not None:
        raise InputError(
            f"model.separator is {model.separator}, but your attention does not know of documents; set "
            "data.attend_across=true."
        )
