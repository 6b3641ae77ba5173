"""GPT2LMHeadModel.generate of Hugging Face transformers behind `jaxllm bench generate`."""

from typing import Any

import torch
import transformers
from hf import make
from protocol import Job, serve_generation
from torch_writer import TorchGeneration


class TransformersGeneration(TorchGeneration):
    """A TorchGeneration that adds the version of transformers."""

    def about(self) -> dict[str, Any]:
        """As `protocol.GenerateSide` says."""
        about = super().about()
        about["versions"]["transformers"] = transformers.__version__
        return about


def make_for_generation(job: Job) -> Any:
    """The model without an end token: both sides choose among all tokens and end no text early."""
    model = make(job)
    model.generation_config.eos_token_id = None
    return model


def continue_(model: Any, prompts: Any, n: int) -> Any:
    """Continue greedily with its key/value cache. The mask makes it read padding tokens in prompts, too."""
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, use_cache=True, max_new_tokens=n,
        pad_token_id=0,
    )  # fmt: skip


if __name__ == "__main__":
    serve_generation(lambda job: TransformersGeneration(job, make_for_generation, continue_, transpose=False))
