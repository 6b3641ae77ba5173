"""Our side of `jaxllm bench generate`, in a separate process."""

import platform
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import GPT, __version__
from jaxllm.compare import random_parameters
from jaxllm.fast.generate import start_generation
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling

from ..runtime.allocator import compute_in_this_thread
from .departures import departures
from .job import config_of
from .peers.protocol import Job, draw_prompts, peak_memory, serve_generation
from .weights import share_weights

GREEDY = Sampling(temperature=0)
TRIES = 3


class OurGeneration:
    """A `train.bench.peers.protocol.GenerateSide`. It also compares with the peer's text and measures the memory."""

    def __init__(self, job: Job) -> None:
        self._job, self._model = job, GPT(config_of(job)[0])
        # Freshly initialised parameters would repeat the prompt's last token.
        params, self.weights_s = share_weights(random_parameters(self._model), job)
        self._params = pack(params, job["weights"])
        self._sizes = {
            "n_parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "weight_bytes": weight_bytes(self._params),
            "float32_weight_bytes": weight_bytes(params),
        }
        self._peak_bytes: int | None = None

    def write(self, prompts: np.ndarray) -> tuple[np.ndarray, float]:
        """As `GenerateSide` says."""
        n = self._job["new_tokens"]
        begun = start_generation(self._model, self._params, prompts, jax.random.key(0), n, GREEDY)
        jax.block_until_ready(begun.state)
        first_at = time.perf_counter()
        return begun.advance(n - 1).tokens(), first_at

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        """As `GenerateSide` says."""
        return np.asarray(last_logits(self._model, self._params, prompts))

    def about(self) -> dict[str, Any]:
        """As `GenerateSide` says."""
        device = jax.devices()[0]
        versions = {"jaxllm": __version__, "python": platform.python_version(), "jax": jax.__version__}
        return self._sizes | {
            "device": device.device_kind, "platform": device.platform, "versions": versions | {"numpy": np.__version__}
        }  # fmt: skip

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answers {"compare": file of the peer's sample} and {"bandwidth": bytes of memory to read}."""
        if "compare" in message:
            with np.load(message["compare"], allow_pickle=False) as file:
                return self._compare(file["tokens"], file["logits"])
        self._note_peak()  # before the bytes that are read here count
        return {"bytes_per_s": memory_bandwidth(message["bandwidth"])}

    def _compare(self, tokens: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        """The largest difference of the logits of the first token, and the logit gap at the first token that differs.

        After that token the texts differ, so later tokens of the row are not compared. When the context is full,
        jaxllm drops its older half and nanoGPT its oldest token, so only tokens drawn before that are compared.
        """
        prompts = draw_prompts(self._job)
        shared = min(self._model.config.context_length - prompts.shape[1] + 1, tokens.shape[1])
        ours, tokens = self.write(prompts)[0][:, :shared], tokens[:, :shared]
        parted = departures(self.logits, prompts, ours, tokens)
        difference = float(np.abs(self.logits(prompts) - logits).max())
        return {"logits_difference": difference, "tokens": shared, "parted": parted}

    def _note_peak(self) -> None:
        if self._peak_bytes is None:
            on_cpu = jax.default_backend() == "cpu"
            self._peak_bytes = peak_memory() if on_cpu else jax.devices()[0].memory_stats()["peak_bytes_in_use"]

    def close(self) -> dict[str, Any]:
        """As `GenerateSide` says."""
        self._note_peak()
        return {"peak_bytes": self._peak_bytes}


@partial(jax.jit, static_argnames="model")
def last_logits(model: GPT, params: Any, tokens: np.ndarray) -> jax.Array:
    """The logits [B, V] of the tokens that follow texts [B, T]."""
    out: Any = model.apply({"params": params}, tokens)
    return out[:, -1]


def weight_bytes(params: Any) -> int:
    """Bytes of the parameters that a step reads, packed or not: all except tables in which it looks up a row."""
    looked_up = ("position_embedding", "ngram_embedding", "token_embedding")
    read = {name: part for name, part in params.items() if name not in looked_up}
    if "head" not in params:
        read["head"] = params["token_embedding"]["table"].T
    return sum(leaf.nbytes for leaf in jax.tree.leaves(read))


def memory_bandwidth(n_bytes: int) -> float:
    """Bytes a second: the fastest of several reads of an array, by sums and by products with a vector.

    Either may be faster: XLA on a CPU computes a product on all cores, a sum by wider instructions.
    """
    x = jnp.ones((n_bytes // (4 * 4096), 4096))
    readings = [jax.jit(lambda x: x.sum(0)), jax.jit(lambda x: x @ x[0])]
    times = []
    for read in readings:
        jax.block_until_ready(read(x))
        for _ in range(TRIES):
            start = time.perf_counter()
            jax.block_until_ready(read(x))
            times.append(time.perf_counter() - start)
    return x.nbytes / min(times)


if __name__ == "__main__":
    compute_in_this_thread()
    serve_generation(OurGeneration)
