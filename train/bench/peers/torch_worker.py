"""Training by nanoGPT and transformers under PyTorch: GPT-2's names of parameters, and the optimizer step."""

import contextlib
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from protocol import Job, peak_memory

Loss = Callable[[Any, Any], Any]  # inputs and targets [B, T] -> the mean loss


def gpt2_names(weights: dict[str, np.ndarray], transpose: bool) -> dict[str, np.ndarray]:
    """Our weights by GPT-2's names, with one map for query, key and value; `transpose` is for maps stored [out, in]."""
    names = {"scale": "weight", "bias": "bias", "kernel": "weight"}
    places = {
        "norm_1": "ln_1", "norm_2": "ln_2", "attention/output": "attn.c_proj", "mlp/up": "mlp.c_fc",
        "mlp/down": "mlp.c_proj", "attention/query": "attn.c_attn",
    }  # fmt: skip
    out = {
        "transformer.wte.weight": weights["token_embedding/table"],
        "transformer.wpe.weight": weights["position_embedding/table"],
    }
    for name, value in weights.items():
        place, _, kind = name.rpartition("/")
        block, _, place = place.partition("/")
        if block == "norm_final":
            out[f"transformer.ln_f.{names[kind]}"] = value
        elif place in places:
            if place == "attention/query":
                three = (weights[f"{block}/attention/{which}/{kind}"] for which in ("query", "key", "value"))
                value = np.concatenate(list(three), axis=-1)
            value = value.T if kind == "kernel" and transpose else value
            out[f"transformer.h.{block.removeprefix('block_')}.{places[place]}.{names[kind]}"] = value
    return out


def load_weights(model: Any, path: str, transpose: bool) -> None:
    """Copy our .npz into the model's parameters; a parameter without a counterpart is an error."""
    with np.load(path, allow_pickle=False) as file:
        weights = gpt2_names(dict(file), transpose)
    parameters = dict(model.named_parameters())  # the tied head has no entry
    if parameters.keys() != weights.keys():
        raise SystemExit(f"its parameters are not GPT-2's: {sorted(parameters.keys() ^ weights.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


class TorchTraining:
    """A `protocol.TrainSide`: forward, backward, clipping and AdamW, as nanoGPT's train.py orders them."""

    def __init__(self, job: Job, make: Callable[[Job], Any], loss: Callable[[Any], Loss], transpose: bool) -> None:
        """`make` builds the model, `loss` its loss function from it."""
        self._device = device_of(job["platform"])
        self._train, self._clip_norm = job["train"], job["optimizer"]["clip_norm"]
        self.model = make(job)
        start = time.perf_counter()
        load_weights(self.model, job["load_weights"], transpose)
        self.weights_s = time.perf_counter() - start
        self.model.to(self._device).train()
        self._loss = loss(self.model)
        if self._device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            self._loss = torch.compile(self._loss)
        # nanoGPT has a method for this. Others get the same two groups and, on CUDA, the fused step.
        configure = getattr(self.model, "configure_optimizers", self._two_groups)
        o = job["optimizer"]
        self._optimizer = configure(o["weight_decay"], o["learning_rate"], (o["beta1"], o["beta2"]), self._device)

    def _two_groups(self, weight_decay: float, learning_rate: float, betas: tuple[float, float], device: str) -> Any:
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        fused = {"fused": True} if device == "cuda" else {}
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, **fused)

    def step(self, tokens: np.ndarray, rate: float) -> float:
        """As `protocol.TrainSide` says; reading the loss waits for the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(tokens).long().to(self._device)
        n = self._train["grad_accumulation"]
        total = torch.zeros((), device=self._device)
        for microbatch in batch.chunk(n):
            inputs, targets = microbatch[:, :-1].contiguous(), microbatch[:, 1:].contiguous()
            with self._precision():
                loss = self._loss(inputs, targets) / n
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(total)

    def _precision(self) -> Any:
        if self._train["dtype"] == "bfloat16":
            return torch.autocast(self._device, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def about(self, first_step_s: float) -> dict[str, Any]:
        """As `protocol.TrainSide` says; on CUDA the first step compiles."""
        cuda = self._device == "cuda"
        return {
            "compile_s": first_step_s if cuda else 0.0,
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            **describe(self._device),
        }

    def close(self) -> dict[str, Any]:
        """As `protocol.TrainSide` says."""
        return {"peak_bytes": most_memory(self._device)}


def describe(device: str) -> dict[str, Any]:
    """The name of the device, and versions."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def most_memory(device: str) -> int:
    """The peak of allocated bytes on that device so far."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()


def device_of(platform: str) -> str:
    """PyTorch's name of the device that jaxllm runs on."""
    if platform == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise SystemExit(f"JAX runs on a {platform} here, where this PyTorch has no device")
    return "cuda"
