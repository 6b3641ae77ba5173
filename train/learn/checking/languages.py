"""What the child process needs of NumPy, JAX or PyTorch: arrays, copies, and gradients.

Only `runner` makes these: the program itself imports neither library for a learner's functions.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .trees import leaves_of, mapped
from .wire import Odd, Typed

LIBRARIES = {"torch": "torch", "jax": "jax", "jaxlib": "jax"}  # the package of a type, and how an array of it is named


def is_float_array(x: Any) -> bool:
    """Whether a gradient is taken by it: an array of floats, of any of the three."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and "float" in str(x.dtype)


def floats_of(arguments: list[Any]) -> list[Any]:
    """The float arrays among the arguments and in their dicts, in order."""
    return [leaf for leaf in leaves_of(arguments) if is_float_array(leaf)]


def with_floats(arguments: list[Any], floats: list[Any], otherwise: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The arguments with others in the places of their float arrays."""
    left = iter(floats)
    return mapped(lambda leaf: next(left) if is_float_array(leaf) else otherwise(leaf), arguments)


def as_gradients(arguments: list[Any], found: list[Any]) -> Any:
    """One gradient for each argument, in dicts like theirs, None for what is no float array."""
    return with_floats(arguments, found, lambda leaf: None)


class Numpy:
    """Arrays as they are; no gradients."""

    def array(self, x: Any) -> Any:
        """A copy that the learner may change."""
        return x.copy()

    def plain(self, x: Any) -> Any:
        """A leaf of a result as NumPy's. An array of the other library is no number; one of NumPy's own is."""
        return self._foreign(x)

    def gradients(self, function: Callable[..., Any], arguments: list[Any], cotangent: Any) -> Any:
        """The gradients of the sum of result times cotangent, one for each argument; None where there are none."""
        return None

    @staticmethod
    def _foreign(x: Any) -> Any:
        library = LIBRARIES.get(type(x).__module__.partition(".")[0])
        return Odd(f"an array of {library}") if library and hasattr(x, "shape") else x


class Jax(Numpy):
    """JAX on the CPU, with float64."""

    def __init__(self) -> None:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # it would write files while the learner's code runs
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # each small program is run a few times only
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.numpy.zeros(1).block_until_ready()  # starts the backend, which reads files
        self._jax = jax

    def array(self, x: Any) -> Any:
        return self._jax.numpy.asarray(x)

    def plain(self, x: Any) -> Any:
        if isinstance(x, self._jax.core.Tracer):
            return Odd("a tracer of an earlier call")
        if isinstance(x, self._jax.Array):
            few = x.dtype.name == "bfloat16"  # which is no type of NumPy's own
            return Typed(np.asarray(x, np.float64), "bfloat16") if few else np.asarray(x)
        return self._foreign(x)

    def gradients(self, function: Callable[..., Any], arguments: list[Any], cotangent: Any) -> Any:
        floats = floats_of(arguments)

        def both(floats: list[Any], cotangent: Any) -> Any:
            value, pullback = self._jax.vjp(lambda floats: function(*with_floats(arguments, floats)), floats)
            if np.shape(value) != np.shape(cotangent) or not is_float_array(value):
                return None
            return pullback(cotangent.astype(value.dtype))[0]

        seed = self._jax.numpy.asarray(cotangent)
        try:  # compiled at once, which takes a third of the time of compiling each operation
            found = self._jax.jit(both)(floats, seed)
        except Exception:  # a body may look at numbers, which it can only where nothing is compiled
            found = both(floats, seed)
        return None if found is None else as_gradients(arguments, [np.asarray(x, np.float64) for x in found])


class Torch(Numpy):
    """PyTorch on the CPU, in one thread."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch

    def array(self, x: Any) -> Any:
        return self._torch.from_numpy(np.array(x))

    def plain(self, x: Any) -> Any:
        if isinstance(x, self._torch.Tensor):
            x = x.detach()
            few = x.dtype == self._torch.bfloat16
            return Typed(x.double().numpy(), "bfloat16") if few else x.numpy()
        return self._foreign(x)

    def gradients(self, function: Callable[..., Any], arguments: list[Any], cotangent: Any) -> Any:
        floats = [x.detach().clone().requires_grad_() for x in floats_of(arguments)]
        value = function(*with_floats(arguments, floats))
        if not isinstance(value, self._torch.Tensor) or tuple(value.shape) != np.shape(cotangent):
            return None
        found: Any = [None] * len(floats)
        if value.requires_grad:
            seed = self._torch.as_tensor(np.array(cotangent)).to(value.dtype)
            found = self._torch.autograd.grad(value, floats, seed, allow_unused=True)
        zeros = [np.zeros(tuple(x.shape)) for x in floats]
        return as_gradients(
            arguments, [z if g is None else g.double().numpy() for g, z in zip(found, zeros, strict=True)]
        )


LANGUAGES: dict[str, Callable[[], Numpy]] = {"numpy": Numpy, "jax": Jax, "torch": Torch}
