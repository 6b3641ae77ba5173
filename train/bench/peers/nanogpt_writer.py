"""GPT.generate of karpathy/nanoGPT, which keeps no cache, behind `jaxllm bench generate`."""

from typing import Any

from nanogpt import make
from protocol import serve_writer
from torch_writer import TorchWriter


def continue_(model: Any, prompts: Any, n: int) -> Any:
    """A draw from the most likely token alone."""
    return model.generate(prompts, n, temperature=1.0, top_k=1)


if __name__ == "__main__":
    serve_writer(lambda job: TorchWriter(job, make, continue_, transpose=True))
