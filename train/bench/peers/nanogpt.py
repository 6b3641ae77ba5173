"""karpathy/nanoGPT, from the user's checkout of it, behind `jaxllm bench`."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from protocol import Job, serve
from torch_worker import Loss, TorchTraining


def load_model_module(folder: str) -> Any:
    """Its model.py as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(folder) / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make(job: Job) -> Any:
    """Its GPT, from the model.py in job["peer"]."""
    module = load_model_module(job["peer"])
    m = job["model"]
    return module.GPT(
        module.GPTConfig(
            block_size=m["context_length"], vocab_size=m["vocab_size"], n_layer=m["n_layers"], n_head=m["n_heads"],
            n_embd=m["d_model"], dropout=0.0, bias=m["use_bias"],
        )
    )  # fmt: skip


def loss(model: Any) -> Loss:
    """The loss that the model computes."""
    return lambda inputs, targets: model(inputs, targets)[1]


if __name__ == "__main__":
    serve(lambda job: TorchTraining(job, make, loss, transpose=True))
