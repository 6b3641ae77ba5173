"""A run on preferences with the log-probabilities of its base."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.gpt import GPT

from ..evaluate import evaluation_rows
from ..runs.load import load_run
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
    base, added = str(config.init.sha256), " ".join(config.init.add_tokens)
    key = {"base": base, "added": added}
    model = GPT(run.model, config.train.dtype)

    def parameters() -> Any:
        return parameters_on(run.base or open_base(config.init, load_run), config, run.model)

    known = with_reference(data, model, parameters, folder, key, evaluation_rows(config))
    return replace(run, examples=known, draw=known.drawing())
