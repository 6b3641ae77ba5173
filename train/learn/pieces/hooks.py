"""Slips that change the arguments before the right computation, or its result after it."""

import inspect
from collections.abc import Callable
from typing import Any

from ..piece import Arguments

Right = Callable[..., Any]


def before(right: Right, change: Callable[[Arguments], Arguments]) -> dict[str, Any]:
    """`wrong` and `before` of a Slip: `right` of changed arguments.

    >>> before(lambda x, n: x * n, lambda given: given | {"n": 2})["wrong"](5, 3)
    10
    """
    names = tuple(inspect.signature(right).parameters)

    def wrong(*arguments: Any) -> Any:
        return right(*change(dict(zip(names, arguments, strict=True))).values())

    return {"wrong": wrong, "before": change}


def after(right: Right, change: Callable[[Any, Arguments], Any]) -> dict[str, Any]:
    """`wrong` and `after` of a Slip: the result of `right`, changed.

    >>> after(lambda x, n: x * n, lambda result, given: result + given["x"])["wrong"](5, 3)
    20
    """
    names = tuple(inspect.signature(right).parameters)

    def wrong(*arguments: Any) -> Any:
        return change(right(*arguments), dict(zip(names, arguments, strict=True)))

    return {"wrong": wrong, "after": change}
