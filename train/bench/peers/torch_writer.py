"""Generation by nanoGPT and transformers under PyTorch: our weights, prompts in, tokens out."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from protocol import Job
from torch_worker import describe, device_of, load_weights, most_memory

Continue = Callable[[Any, Any, int], Any]  # model, prompts [B, P], n -> prompts and n tokens [B, P + n]


class TorchGeneration:
    """A `protocol.GenerateSide`, in float32 and without torch.compile, as both programs generate by default."""

    def __init__(self, job: Job, make: Callable[[Job], Any], continue_: Continue, transpose: bool) -> None:
        """`make` builds the model; `transpose` is for maps stored [out, in]."""
        self._device = device_of(job["platform"])
        self._continue, self._n = continue_, job["new_tokens"]
        self.model = make(job)
        start = time.perf_counter()
        load_weights(self.model, job["load_weights"], transpose)
        self.weights_s = time.perf_counter() - start
        self.model.to(self._device).eval()
        self._first_at: float | None = None
        self.model.register_forward_hook(self._note_first)

    def _tensor(self, prompts: np.ndarray) -> Any:
        return torch.from_numpy(prompts).long().to(self._device)

    def write(self, prompts: np.ndarray) -> tuple[np.ndarray, float]:
        """As `protocol.GenerateSide` says."""
        self._first_at = None
        tokens = self._continue(self.model, self._tensor(prompts), self._n).cpu().numpy()
        assert self._first_at is not None
        return np.asarray(tokens[:, prompts.shape[1] :], np.int32), self._first_at

    def _note_first(self, *call: Any) -> None:
        """Record the time after the first call of the model in a text, which reads the prompts."""
        if self._first_at is None:
            if self._device == "cuda":
                torch.cuda.synchronize()
            self._first_at = time.perf_counter()

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        """As `protocol.GenerateSide` says."""
        with torch.no_grad():
            out = self.model(self._tensor(prompts))
        logits = out.logits if hasattr(out, "logits") else out[0]
        return np.asarray(logits[:, -1].cpu().numpy(), np.float32)

    def about(self) -> dict[str, Any]:
        """As `protocol.GenerateSide` says."""
        about = describe(self._device)
        return about | {"versions": about["versions"] | {"threads": str(torch.get_num_threads())}}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """A peer has no other messages to answer."""
        raise NotImplementedError(str(message))

    def close(self) -> dict[str, Any]:
        """As `protocol.GenerateSide` says."""
        return {"peak_bytes": most_memory(self._device)}
