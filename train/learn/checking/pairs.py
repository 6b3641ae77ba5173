"""Two slips in one body."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import permutations
from typing import Any

from ..piece import Function, Slip


def combinations(function: Function) -> Iterator[tuple[tuple[Slip, Slip], Callable[..., Any]]]:
    """Each two slips that compose, with the function that has both. Where the order matters, both orders."""
    seen = set()
    for outer, inner in permutations(function.slips, 2):
        both = _options(outer, inner)
        if both is not None:
            if frozenset((outer.name, inner.name)) not in seen:
                seen.add(frozenset((outer.name, inner.name)))
                yield (outer, inner), both
        elif outer.before or outer.after:
            yield (outer, inner), _around(function, outer, inner)


def _options(one: Slip, other: Slip) -> Callable[..., Any] | None:
    """Both, if each is the same function with other keywords."""
    first, second = one.wrong, other.wrong
    if not (isinstance(first, partial) and isinstance(second, partial)) or first.args or second.args:
        return None
    if first.func is not second.func or first.keywords.keys() & second.keywords.keys():
        return None
    return partial(first.func, **first.keywords, **second.keywords)


def _around(function: Function, outer: Slip, inner: Slip) -> Callable[..., Any]:
    """`outer` changes the arguments that `inner` gets, and the result that it returns."""

    def both(*values: Any) -> Any:
        arguments = dict(zip(function.parameters, values, strict=True))
        changed = outer.before(deepcopy(arguments)) if outer.before else arguments
        result = inner.wrong(*changed.values())
        return outer.after(result, arguments) if outer.after else result

    return both
