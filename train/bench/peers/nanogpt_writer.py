"""GPT.generate of karpathy/nanoGPT, which has no key/value cache, behind `jaxllm bench generate`."""

from typing import Any

from nanogpt import make
from protocol import serve_generation
from torch_writer import TorchGeneration


def continue_(model: Any, prompts: Any, n: int) -> Any:
    """Continue greedily: top-k with k = 1 leaves only the most likely token."""
    return model.generate(prompts, n, temperature=1.0, top_k=1)


if __name__ == "__main__":
    serve_generation(lambda job: TorchGeneration(job, make, continue_, transpose=True))
