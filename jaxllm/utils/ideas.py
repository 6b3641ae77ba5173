"""Functions as values of a config: one of ours under its name, or a user's own.

A config holds a name, `"ideas.py:f"`. The function takes its place only where the user has given the file by
`--code`, or the function itself in Python, so that a config alone makes no code run.
"""

import re
import sys
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from jaxllm.utils.errors import InputError, shown

_REFERENCE = re.compile(r"[^/\\:]+\.py:[A-Za-z_]\w*")


class Idea:
    """A user's function (or Linen class) under its name, and the twin that stands beside it.

    A callable that is equal to another of the same name and the same file, so that it can be a static argument of
    `jax.jit`. Its twin in NumPy is `NAME_twin` in the same file, and the twin's backward `NAME_twin_vjp`.
    """

    def __init__(
        self, function: Callable[..., Any], name: str = "", digest: str = "", names: Mapping[str, Any] | None = None
    ) -> None:
        """`name` is "FILE.py:FUNCTION", `digest` the file's sha256, and `names` are what the file defines.

        Without them the function is its own name, and its module is where twins are.
        """
        self.function, self.digest, self._names = function, digest, names
        self.__wrapped__ = function  # where `inspect.signature` looks
        self.name = name or f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', function)}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Idea) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return repr(self.name)

    def __str__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: Any) -> "Idea":
        return self  # `dataclasses.asdict` copies the values of a config

    def _key(self) -> tuple[Any, ...]:
        return (self.name, self.digest) if self.digest else (self.function,)

    @property
    def twin(self) -> Callable[..., Any] | None:
        """The function's twin; None if there is none."""
        return self._beside("_twin")

    @property
    def twin_vjp(self) -> Callable[..., Any] | None:
        """The twin's backward, `(*args) -> (out, pullback)`; None if there is none."""
        return self._beside("_twin_vjp")

    def _beside(self, ending: str) -> Callable[..., Any] | None:
        if self._names is not None:
            return self._names.get(self.name.partition(":")[2] + ending)
        module = sys.modules.get(getattr(self.function, "__module__", None) or "")
        names = getattr(self.function, "__globals__", None) or vars(module or object)
        return names.get(f"{getattr(self.function, '__name__', '')}{ending}")


def n_arguments(function: Callable[..., Any]) -> int:
    """How many positional arguments a function must be given; those with a default are not counted.

    >>> n_arguments(lambda gate, up, beta=1.0: gate * up)
    2
    """
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(x.kind in positional and x.default is x.empty for x in signature(function).parameters.values())


def as_idea(value: Any) -> Any:
    """A plain function or class as an `Idea`; everything else as it is."""
    return Idea(value) if callable(value) and not isinstance(value, Idea) else value


def with_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A dict of a config's values with the name of each function in its place, as files and other processes take it."""
    return {key: value.name if isinstance(value, Idea) else value for key, value in values.items()}


def is_reference(value: Any) -> bool:
    """Whether a value is the name of a function in a file.

    >>> is_reference("ideas.py:squared_relu"), is_reference("relu")
    (True, False)
    """
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def named(value: Any, ours: Mapping[str, Any], field: str) -> Any:
    """The function that a config's value means: one of `ours` by its name, or the value itself where it is an Idea.

    Raises InputError for the name of a function whose file was not given.
    """
    check_given(value, field)
    return ours[value] if isinstance(value, str) else value


def check_given(value: Any, field: str) -> None:
    """Raises InputError if a config's value is still the name of a function in a file."""
    if is_reference(value):
        raise InputError(
            f"{field} is {shown(value)}, a function in a file, and code runs only from a file that you name: add "
            f"--code with the path of your {value.partition(':')[0]}."
        )
