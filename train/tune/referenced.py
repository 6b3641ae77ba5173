"""A run on preferences with the log-probabilities of its base."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxllm.gpt import GPT

from ..evaluate import evaluation_rows
from .base import open_base
from .beginning import parameters_on
from .reference_log_probs import with_reference

if TYPE_CHECKING:
    from ..inputs import Prepared


def referenced(run: "Prepared", folder: Path) -> "Prepared":
    """The run with what `with_reference` adds to its examples; any other kind of run as it is."""
    config, data = run.config, run.examples
    if config.tune.kind != "prefer" or data is None:
        return run
    key = {
        "base": str(config.init.sha256), "data": data.sha256, "tokenizer": run.tokenizer.fingerprint(),
        "row": str(data.train.width), "too_long": config.tune.too_long, "added": " ".join(config.init.add_tokens),
    }  # fmt: skip
    model = GPT(run.model, config.train.dtype)
    known = with_reference(
        data, model, lambda: parameters_on(run.base or open_base(config.init), config, run.model), folder, key,
        evaluation_rows(config),
    )  # fmt: skip
    return replace(run, examples=known, draw=known.drawing())
