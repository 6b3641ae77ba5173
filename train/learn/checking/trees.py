"""Nested dicts, lists and tuples: arguments, results and gradients are such trees."""

from collections.abc import Callable, Iterator
from typing import Any

Place = tuple[Any, ...]  # the keys and indices that lead to a leaf


def leaves_of(tree: Any) -> list[Any]:
    """The leaves, depth first.

    >>> leaves_of({"a": [1, 2], "b": 3})
    [1, 2, 3]
    """
    return [leaf for _, leaf in places(tree)]


def places(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Each leaf with its place, depth first.

    >>> list(places({"a": [1, 2], "b": 3}))
    [(('a', 0), 1), (('a', 1), 2), (('b',), 3)]
    """
    if isinstance(tree, dict | list | tuple):
        for name, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(item, (*place, name))
    else:
        yield place, tree


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """A copy of the tree with `function` of each leaf.

    >>> mapped(str, ([1, 2], {"a": 3}))
    (['1', '2'], {'a': '3'})
    """
    if isinstance(tree, dict):
        return {name: mapped(function, item) for name, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [mapped(function, item) for item in tree]
        return tuple(items) if isinstance(tree, tuple) else items
    return function(tree)


def named(place: Place) -> str:
    """A place as it is written in Python.

    >>> named(("query", "kernel", 0))
    "['query']['kernel'][0]"
    """
    return "".join(f"[{name!r}]" for name in place)
