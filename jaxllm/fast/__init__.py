"""Functions that exist only for speed, and the switch that decides whether they are called.

A textbook function marked with `has_fast_form` has a function of the same name and signature in the file of the same
name in this package: `jaxllm.layers.linear` and `jaxllm.fast.layers.linear`. Values and gradients are equal up to
rounding; tests hold each pair together. The fast one is called unless `off` is active:

    with jaxllm.fast.off():
        jax.hessian(loss)(params)

The textbook functions support every transformation of JAX. Several fast ones have a reverse-mode derivative only. A
jitted function is traced again when it is called with the switch in the other position.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, cast

import jax

P = ParamSpec("P")
R = TypeVar("R")
_off: Any = jax.make_user_context(False)  # part of the key under which `jax.jit` keeps a trace


def off() -> AbstractContextManager[None]:
    """A context in which textbook functions compute by their own formula, in the thread that enters it."""
    return cast(AbstractContextManager[None], _off(True))


def has_fast_form(textbook: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of `jaxllm.NAME` that has a faster form of the same name in `jaxllm.fast.NAME`."""
    module = f"{__name__}.{textbook.__module__.removeprefix('jaxllm.')}"

    @wraps(textbook)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        function = textbook if _off.value else getattr(import_module(module), textbook.__name__)
        return cast(R, function(*args, **kwargs))

    return call


def formula(function: Callable[P, R]) -> Callable[P, R]:
    """The textbook function that `has_fast_form` decorated, whether or not `off` is active."""
    return cast(Callable[P, R], function.__wrapped__)  # type: ignore[attr-defined]
