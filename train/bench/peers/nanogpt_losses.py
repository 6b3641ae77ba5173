"""Losses of nanoGPT's checkpoints over the whole validation split, for `jaxllm bench speedrun`.

The job is read from standard input as JSON: `peer`, the folder of its model.py; `ids`, a file of uint16; `checkpoints`,
files that its train.py has written. The answer is JSON on standard output.
"""

import json
import math
import platform
import sys
from typing import Any

import numpy as np
import torch
from nanogpt import load_model_module

ROWS = 64  # windows at a time


def load_gpt(module: Any, path: str) -> Any:
    """The model of a checkpoint, which holds tensors and plain values only: nothing else is read from it."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = module.GPT(module.GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    return model.eval()


def whole_loss(model: Any, ids: Any) -> float:
    """Mean cross-entropy in nats of all ids [N] but the first, in windows of the context that do not overlap.

    The windows are those of `jaxllm.data.batches.evaluation_batches`; the last one may be shorter.
    """
    context, inputs, targets = model.config.block_size, ids[:-1], ids[1:]
    whole = len(targets) // context * context
    parts = [*zip(*(x[:whole].view(-1, context).split(ROWS) for x in (inputs, targets)), strict=True)]
    if whole < len(targets):
        parts.append((inputs[None, whole:], targets[None, whole:]))
    with torch.no_grad():
        return math.fsum(model(x, y)[1].item() * y.numel() for x, y in parts) / len(targets)


def main() -> None:
    """Answer one job."""
    job = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # its model prints
    module = load_model_module(job["peer"])
    ids = torch.from_numpy(np.fromfile(job["ids"], np.uint16).astype(np.int64))
    losses = [whole_loss(load_gpt(module, path), ids) for path in job["checkpoints"]]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    answers.write(json.dumps({"losses": losses, "versions": versions}))


if __name__ == "__main__":
    main()
