"""Record one training step of a PyTorch model, for `jaxllm compare CONFIG.toml --against trace.npz`.

    from record import record
    record(model, tokens, targets, "trace.npz", optimizer=torch.optim.AdamW(model.parameters()))

It needs PyTorch and NumPy alone. `model.double()` before it shows the most.
"""

import inspect
import json
from typing import Any

import numpy as np


def record(model: Any, tokens: Any, targets: Any, path: str, loss: Any = None, optimizer: Any = None) -> None:
    """Write what goes into and comes out of each module, the parameters, the gradients and a new optimizer's step.

    Tokens and targets are integers [B, T]. `loss(model, tokens, targets)` returns a scalar; by default it is the
    model's own, as nanoGPT has it, or the mean cross-entropy. Dropout is off. Of a module's calls the first counts.
    The step is taken: the parameters change.
    """
    import torch

    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        model = model.module
    first: dict[Any, str] = {}  # the first name of each parameter; a tied one has several
    names = {name: first.setdefault(p, name) for name, p in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Any] = {"tokens": _array(tokens), "targets": _array(targets)}
    found |= {f"param/{k}": _array(p) for p, k in first.items()}
    about: dict[str, Any] = {"torch": torch.__version__, "dtype": str(next(iter(first)).dtype).removeprefix("torch.")}
    about["classes"] = {name: type(module).__name__ for name, module in model.named_modules()}
    about["tied"] = {name: of for name, of in names.items() if name != of}
    training = {module: module.training for module in model.modules()}
    model.eval().zero_grad()
    hooks = [hook for name, module in model.named_modules() for hook in _watch(name, module, found)]
    try:
        value = (loss or _loss)(model, tokens, targets)
        value.backward()
    finally:
        for hook in hooks:
            hook.remove()
        for module, before in training.items():
            module.training = before
    found |= {"loss": _array(value)} | {f"grad/{k}": _array(p.grad) for p, k in first.items() if p.grad is not None}
    if optimizer is not None:
        groups = [
            {**g, "params": None, "parameters": [first.get(p) for p in g["params"]]} for g in optimizer.param_groups
        ]
        about["optimizer"] = {"class": type(optimizer).__name__, "groups": groups, "new": not optimizer.state}
        optimizer.step()
        found |= {f"after/{k}": _array(p) for p, k in first.items()}
    np.savez(
        path, about=np.array(json.dumps(about, default=lambda x: x.item() if hasattr(x, "item") else str(x))), **found
    )


def _watch(name: str, module: Any, found: dict[str, Any]) -> list[Any]:
    """Hooks that keep a module's first tensor, that of its result and the gradient there."""

    def before(_: Any, args: Any, kwargs: Any) -> None:
        x = _first((args, kwargs))
        if x is not None:
            found.setdefault(f"in/{name}", _array(x))

    def after(_: Any, args: Any, result: Any) -> Any:
        y = _first(result)
        if y is None or f"out/{name}" in found:
            return None
        found[f"out/{name}"] = _array(y)
        copy = y.clone() if y is result else y  # a copy keeps its hook when it is changed in place
        if y.requires_grad:
            copy.register_hook(lambda dy: found.update({f"grad_out/{name}": _array(dy)}))
        return copy if y is result else None

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def _loss(model: Any, tokens: Any, targets: Any) -> Any:
    import torch

    if "targets" in inspect.signature(model.forward).parameters:
        result = model(tokens, targets)
        if isinstance(result, tuple | list):
            return result[1]
        return result["loss"] if isinstance(result, dict) else result.loss
    return torch.nn.functional.cross_entropy(_first(model(tokens)).flatten(0, 1), targets.flatten())


def _first(x: Any, depth: int = 0) -> Any:
    """The first tensor of nested tuples, dicts and dataclasses; None where there is none, or only a deeper one."""
    if hasattr(x, "detach"):
        return x
    fields = (getattr(x, name, None) for name in getattr(x, "__dataclass_fields__", ()))
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else fields
    found = (_first(part, depth + 1) for part in parts if depth < 9)
    return next((y for y in found if y is not None), None)


def _array(x: Any) -> np.ndarray:
    """A copy of a tensor; NumPy has no bfloat16, so narrow floats become float32."""
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() and x.itemsize < 4 else x).numpy().copy()
