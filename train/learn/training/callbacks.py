"""A learner's function in NumPy or PyTorch as one that `jax.jit` and `jax.grad` take.

XLA calls Python back (`jax.pure_callback`). The function is given float64 arrays, as in the check, and its result gets
the dtype of ours. PyTorch computes the backward itself. NumPy has none: there it is the twin's.

Code that is called back must not use JAX, which may wait for the very program that waits for it.
"""

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm.utils.errors import InputError

from ...errors import UserCodeError
from .loading import lines_of

Vjp = Callable[..., Any]  # (*arguments) -> (result, pullback)


@dataclass(eq=False)
class Watch:
    """The first error of a function that XLA called back; the program goes on with NaN, which ends the run."""

    folder: Path
    error: Exception | None = None

    def failed(self, name: str, error: Exception) -> None:
        """Keep an exception, with the learner's lines only."""
        lines = lines_of(error, self.folder)
        self.error = self.error or (UserCodeError(error, lines) if lines else InputError(f"your {name}: {error}"))

    def check(self) -> None:
        """Raise what was kept."""
        if self.error is not None:
            raise self.error


class NumpyArrays:
    """Arrays as they are, and the backward of the twin."""

    def __init__(self) -> None:
        compute_in_one_thread()

    def array(self, x: Any) -> Any:
        """A float64 or int64 array of the learner's language, which it may change."""
        return np.array(x, np.float64 if _is_float(x) else None if x.dtype == bool else np.int64)

    def plain(self, x: Any) -> Any:
        """A result as NumPy's."""
        return np.asarray(x)

    def call(self, function: Callable[..., Any], arguments: Any) -> Any:
        """The result of the function, without a gradient."""
        return self.plain(function(*arguments))

    def gradients(self, function: "Called", arguments: Any, cotangent: Any) -> list[Any]:
        """For each argument the gradient of the sum of result times cotangent; None for those that have none."""
        assert function.vjp is not None  # `Called` has checked it
        found = list(function.vjp(*arguments)[1](np.asarray(cotangent, np.float64)))
        return [*found, *[None] * (len(arguments) - len(found))]


class JaxArrays(NumpyArrays):
    """Arrays of JAX, for what is called outside of its programs."""

    def __init__(self) -> None:
        pass

    def array(self, x: Any) -> Any:
        return jnp.asarray(x)


class TorchArrays(NumpyArrays):
    """Tensors that share memory with copies of arrays, and PyTorch's own backward."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.torch = importlib.import_module("torch")
        except ImportError:
            raise InputError(
                "the course is in PyTorch, which this Python has not; install it: pip install torch."
            ) from None
        self.torch.set_num_threads(1)

    def array(self, x: Any) -> Any:
        return self.torch.from_numpy(super().array(x))

    def plain(self, x: Any) -> Any:
        return x.detach().numpy() if isinstance(x, self.torch.Tensor) else np.asarray(x)

    def call(self, function: Callable[..., Any], arguments: Any) -> Any:
        with self.torch.no_grad():
            return self.plain(function(*arguments))

    def gradients(self, function: "Called", arguments: Any, cotangent: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(arguments)
        floats = [x.requires_grad_() for x in leaves if self.torch.is_tensor(x) and x.is_floating_point()]
        value = function.function(*jax.tree.unflatten(structure, leaves))
        seed = self.torch.from_numpy(np.array(cotangent)).to(value.dtype)
        left = iter(self.torch.autograd.grad(value, floats, seed, allow_unused=True) if value.requires_grad else floats)
        found = [next(left) if any(x is one for one in floats) else None for x in leaves]
        return list(jax.tree.unflatten(structure, found))


def compute_in_one_thread() -> None:
    """Keep NumPy's OpenBLAS to one thread. Its threads wait by spinning, beside those of XLA, which made steps of the
    size of a lesson 10 times as long. NumPy has no function for it; other libraries than OpenBLAS stay as they are."""
    for path in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(1)


@dataclass(eq=False)
class Called:
    """A learner's function of arrays, dicts of them, and constants: it returns one array.

    `ours` computes the same in JAX; its results have the shape and the dtype of those of this function.
    """

    name: str
    function: Callable[..., Any]
    ours: Callable[..., Array]
    arrays: NumpyArrays
    watch: Watch
    vjp: Vjp | None = None

    def __call__(self, *arguments: Any) -> Array:
        leaves, structure = jax.tree.flatten(arguments)
        given = [leaf for leaf in leaves if hasattr(leaf, "dtype")]
        constants = tuple(None if hasattr(leaf, "dtype") else leaf for leaf in leaves)
        like = jax.eval_shape(lambda arrays: self.ours(*_joined(structure, constants, arrays)), given)
        return _traced(self, structure, constants, like.shape, like.dtype)(*given)

    def value(self, arguments: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """What the function returns, called back; NaN after an error, which the watch keeps."""
        try:
            given = jax.tree.map(lambda x: self.arrays.array(x) if hasattr(x, "dtype") else x, arguments)
            result = self.arrays.call(self.function, given)
            if result.shape != shape:
                raise InputError(f"{self.name} returned shape {result.shape}, but it must return {shape}.")
            if not np.isfinite(result).all() and _all_finite(arguments):
                raise InputError(f"{self.name} returned a non-finite number, and all that it was given is finite.")
            return result.astype(dtype)
        except Exception as error:
            self.watch.failed(self.name, error)
            return np.full(shape, np.nan, dtype)

    def gradients(self, arguments: Any, cotangent: Any) -> list[Any]:
        """The gradients of the float arrays among the arguments, in order, called back."""
        floats = [x for x in jax.tree.leaves(arguments) if hasattr(x, "dtype") and _is_float(x)]
        try:
            given = jax.tree.map(lambda x: self.arrays.array(x) if hasattr(x, "dtype") else x, arguments)
            found = self.arrays.gradients(self, given, cotangent)
            return [
                np.zeros(x.shape, x.dtype) if d is None else self.arrays.plain(d).astype(x.dtype)
                for argument, of in zip(arguments, found, strict=True)
                for x, d in _pairs(argument, of)
                if hasattr(x, "dtype") and _is_float(x)
            ]
        except Exception as error:
            self.watch.failed(self.name, error)
            return [np.full(x.shape, np.nan, x.dtype) for x in floats]


@lru_cache(maxsize=256)
def _traced(called: Called, structure: Any, constants: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The function of the arrays among its arguments; one and the same object for the same shapes, as JAX expects."""

    def forward(*arrays: Any) -> Any:
        return called.value(_joined(structure, constants, [np.asarray(x) for x in arrays]), shape, dtype)

    def backward(cotangent: Any, *arrays: Any) -> Any:
        return called.gradients(_joined(structure, constants, [np.asarray(x) for x in arrays]), np.asarray(cotangent))

    @jax.custom_vjp
    def function(*arrays: Array) -> Array:
        return jax.pure_callback(forward, jax.ShapeDtypeStruct(shape, dtype), *arrays, vmap_method="sequential")

    def pull(arrays: tuple[Array, ...], cotangent: Array) -> tuple[Array | None, ...]:
        like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays if _is_float(x)]
        found = iter(jax.pure_callback(backward, like, cotangent, *arrays, vmap_method="sequential"))
        return tuple(next(found) if _is_float(x) else None for x in arrays)

    function.defvjp(lambda *arrays: (function(*arrays), arrays), pull)
    return function


def _joined(structure: Any, constants: Any, arrays: Any) -> Any:
    """The arguments again, of their arrays and of what else was among them."""
    left = iter(arrays)
    return jax.tree.unflatten(structure, [next(left) if constant is None else constant for constant in constants])


def _pairs(argument: Any, gradients: Any) -> list[tuple[Any, Any]]:
    """Each leaf of an argument with its gradient; None where there is none."""
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(argument)
    found = [None] * len(leaves) if gradients is None else structure.flatten_up_to(gradients)
    return list(zip(leaves, found, strict=True))


def _is_float(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, np.floating)


def _all_finite(arguments: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(arguments) if hasattr(x, "dtype") and _is_float(x))
