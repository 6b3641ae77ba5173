"""Record one training step of a PyTorch model, to compare the model with another one. Needs PyTorch and NumPy only.

    from record import record
    record(model, tokens, targets, "trace.npz", optimizer=torch.optim.AdamW(model.parameters()))

Then `jaxllm compare CONFIG.toml --against trace.npz` shows where the two part.
`model.double()` before it shows the most.
"""

import inspect
import json
from typing import Any

import numpy as np


def record(model: Any, tokens: Any, targets: Any, path: str, loss: Any = None, optimizer: Any = None) -> None:
    """Write what goes into and comes out of each module, gradients, parameters and the step of a new optimizer to .npz.

    Tokens and targets are tensors of integers [B, T]. `loss(model, tokens, targets)` returns a scalar; by default it is
    the mean cross-entropy of the logits. Dropout is off. Of a module that is called twice the first call is recorded.
    The optimizer's step changes the parameters.
    """
    tied: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(p), name)
    own = {name: p for name, p in model.named_parameters(remove_duplicate=False) if tied[id(p)] == name}
    found = {"tokens": _array(tokens), "targets": _array(targets)} | {f"param/{k}": _array(p) for k, p in own.items()}
    hooks: list[Any] = []
    was_training = model.training
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(_before(name, found), with_kwargs=True))
        hooks.append(module.register_forward_hook(_after(name, found)))
    model.eval()
    model.zero_grad()
    value = (loss or _loss)(model, tokens, targets)
    value.backward()
    found["loss"] = _array(value)
    found |= {f"grad/{name}": _array(p.grad) for name, p in own.items() if p.grad is not None}
    for hook in hooks:
        hook.remove()
    about = _about(model, optimizer, {id(p): name for name, p in own.items()})
    about["tied"] = {k: tied[id(p)] for k, p in model.named_parameters(remove_duplicate=False) if tied[id(p)] != k}
    if optimizer is not None:
        optimizer.step()
        found |= {f"after/{name}": _array(p) for name, p in own.items()}
    model.train(was_training)
    np.savez(path, about=np.array(json.dumps(about, default=str)), **found)


def _loss(model: Any, tokens: Any, targets: Any) -> Any:
    """The mean cross-entropy of the model's logits [B, T, V]; its own loss where it takes targets, as nanoGPT does."""
    import torch

    if "targets" in inspect.signature(model.forward).parameters:
        return model(tokens, targets)[1]
    return torch.nn.functional.cross_entropy(_first(model(tokens)).flatten(0, 1), targets.flatten())


def _before(name: str, found: dict[str, Any]) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> None:
        x = _first((args, kwargs))
        if x is not None:
            found.setdefault(f"in/{name}", _array(x))

    return hook


def _after(name: str, found: dict[str, Any]) -> Any:
    def hook(module: Any, args: Any, result: Any) -> Any:
        y = _first(result)
        if y is None or f"out/{name}" in found:
            return None
        found[f"out/{name}"] = _array(y)
        if y.requires_grad:  # a copy keeps its hook when it is changed in place, which a view does not
            copy = y.clone() if y is result else y
            copy.register_hook(lambda dy: found.__setitem__(f"grad_out/{name}", _array(dy)))
            return copy if y is result else None
        return None

    return hook


def _first(x: Any) -> Any:
    """The first tensor of nested tuples and dicts, None without one."""
    if hasattr(x, "detach"):
        return x
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ()
    return next((y for y in map(_first, parts) if y is not None), None)


def _array(x: Any) -> np.ndarray:
    """A copy of a tensor; NumPy has no bfloat16, so narrow floats become float32."""
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() and x.itemsize < 4 else x).numpy().copy()


def _about(model: Any, optimizer: Any, names: dict[int, str]) -> dict[str, Any]:
    """Versions, dtype, the classes of the modules, and the optimizer's settings."""
    import torch

    about: dict[str, Any] = {
        "torch": torch.__version__, "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "classes": {name: type(module).__name__ for name, module in model.named_modules()},
    }  # fmt: skip
    if optimizer is not None:
        groups = [
            {k: v for k, v in group.items() if k != "params"}
            | {"parameters": [names[id(p)] for p in group["params"] if id(p) in names]}
            for group in optimizer.param_groups
        ]
        about["optimizer"] = {"class": type(optimizer).__name__, "groups": groups, "new": not optimizer.state}
    return about
