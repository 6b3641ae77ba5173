"""GPT2LMHeadModel.generate of Hugging Face transformers behind `jaxllm bench generate`."""

from typing import Any

import torch
import transformers
from hf import make
from protocol import Job, serve_writer
from torch_writer import TorchWriter


class Writer(TorchWriter):
    """Says which transformers it is."""

    def about(self) -> dict[str, Any]:
        """As `protocol.Writer` says."""
        about = super().about()
        about["versions"]["transformers"] = transformers.__version__
        return about


def make_for_writing(job: Job) -> Any:
    """No token ends a text: with one, it would have to be forbidden, and both sides are to choose among all."""
    model = make(job)
    model.generation_config.eos_token_id = None
    return model


def continue_(model: Any, prompts: Any, n: int) -> Any:
    """Greedily, through its key/value cache; the mask, because it would take the padding token for no token."""
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, use_cache=True, max_new_tokens=n,
        pad_token_id=0,
    )  # fmt: skip


if __name__ == "__main__":
    serve_writer(lambda job: Writer(job, make_for_writing, continue_, transpose=False))
