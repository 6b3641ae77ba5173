"""AdamW steps on PyTorch as `train.step` takes them. Tests that import this module need `peers`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from train.config import OptimizerConfig

torch = pytest.importorskip("torch", reason="needs the extra `peers`")


class TorchSteps:
    """PyTorch's AdamW on named parameters, with decay on matrices only, and clipping.

    Clipping is written out, because PyTorch's own adds 1e-6 to the norm. Adam's step does not depend on the size of a
    gradient, not even of one that is only rounding. So `clear` says of each number of a parameter whether its gradient
    was zero, or above `bound` times the parameter's largest, in all steps.
    """

    def __init__(
        self, parameters: dict[str, Any], config: OptimizerConfig, schedule: Callable[[int], Any], bound: float
    ) -> None:
        self.parameters, self.clip_norm, self.schedule, self.bound = parameters, config.clip_norm, schedule, bound
        groups = [
            {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=1e-8)
        self.norms: list[float] = []  # of the gradients, before clipping
        self.clear = {name: np.ones(p.shape, bool) for name, p in parameters.items()}

    def step(self, loss: Any) -> None:
        """One step down the gradient of the loss."""
        self.adamw.zero_grad()
        loss.backward()
        for name, p in self.parameters.items():
            size = np.abs(p.grad.numpy())
            self.clear[name] &= (size > self.bound * size.max()) | (size == 0)
        norm = float(torch.sqrt(sum((p.grad**2).sum() for p in self.parameters.values())))
        for p in self.parameters.values():
            p.grad *= min(1.0, self.clip_norm / norm)
        for group in self.adamw.param_groups:
            group["lr"] = float(self.schedule(len(self.norms)))
        self.adamw.step()
        self.norms.append(norm)
