"""GPT2LMHeadModel of Hugging Face transformers behind `jaxllm bench`."""

from typing import Any

import transformers
from protocol import Job, serve
from torch.nn.functional import cross_entropy
from torch_worker import Loss, TorchTraining


class TransformersTraining(TorchTraining):
    """A TorchTraining that adds the version of transformers."""

    def about(self, first_step_s: float) -> dict[str, Any]:
        """As `protocol.TrainSide` says."""
        about = super().about(first_step_s)
        about["versions"]["transformers"] = transformers.__version__
        return about


def make(job: Job) -> Any:
    """A GPT2LMHeadModel without dropout."""
    m = job["model"]
    config = transformers.GPT2Config(
        vocab_size=m["vocab_size"], n_positions=m["context_length"], n_embd=m["d_model"], n_layer=m["n_layers"],
        n_head=m["n_heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def loss(model: Any) -> Loss:
    """The cross-entropy of its logits. Its own loss would shift the targets again and drop one per window."""
    return lambda inputs, targets: cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    serve(lambda job: TransformersTraining(job, make, loss, transpose=False))
