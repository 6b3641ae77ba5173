"""A str that records for each character whether a chat template or a user wrote it.

The record follows the characters through the operations that templates apply to text: slices, joins, splits, formats.
The result of any other operation counts as the template's only if all its inputs do. A template sees each message
unchanged.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import accumulate, count
from operator import index
from string import Formatter
from typing import Any, SupportsIndex, cast

CONVERSION = re.compile(r"%(?:%|(?:\((\w+)\))?s)")  # the conversions of `%` that are tracked
USERS = b"\1"  # a user's character in a mask; the template's characters are 0


class TrackedText(str):
    """A str with a mask of the origins of its characters; without a mask all are a user's.

    The methods return what those of str return, as TrackedText.
    """

    __slots__ = ("_users",)
    _users: bytes  # as long as the text: 1 where a user wrote the character

    def __new__(cls, text: str, users: bytes | None = None) -> "TrackedText":
        self = super().__new__(cls, text)
        self._users = USERS * len(self) if users is None else users
        return self

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> "TrackedText":
        where = key if isinstance(key, slice) else slice(i := index(key), i + 1 or None)
        return TrackedText(super().__getitem__(key), self._users[where])

    def __add__(self, other: str) -> "TrackedText":
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented  # Markup must escape the text
        return TrackedText(super().__add__(other), self._users + tracked(other)._users)

    def __radd__(self, other: str) -> "TrackedText":
        return tracked(other) + self if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> "TrackedText":
        return TrackedText(super().__mul__(times), self._users * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> "TrackedText":
        sources = values if isinstance(values, tuple) else values.values() if isinstance(values, Mapping) else [values]
        left, named = iter(sources), values if isinstance(values, Mapping) else {}
        pieces, end = [], 0
        for found in CONVERSION.finditer(self):
            value = self[found.start()] if found[0] == "%%" else named.get(found[1]) if found[1] else next(left, None)
            pieces += [self[end : found.start()], to_tracked(value)]
            end = found.end()
        return _checked([*pieces, self[end:]], super().__mod__(values), self, *sources)

    def join(self, parts: Iterable[str]) -> "TrackedText":
        texts = list(parts)
        users = self._users.join(tracked(one)._users for one in texts if isinstance(one, str))
        return TrackedText(super().join(texts), users)

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> "TrackedText":
        text = super().replace(old, new, count)
        if not old:
            return combined(text, self, new)
        lengths = [len(piece) for piece in super().split(old, count)]
        pieces = self._cut(lengths, len(old))
        return TrackedText(text, tracked(new)._users.join(piece._users for piece in pieces))

    def lstrip(self, chars: str | None = None) -> "TrackedText":
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> "TrackedText":
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> "TrackedText":
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> "TrackedText":
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str) -> "TrackedText":
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> Any:
        return self._pieces(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> Any:
        return self._pieces(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> Any:
        return self._pieces(super().splitlines(keepends), None)

    def partition(self, sep: str) -> Any:
        return tuple(self._cut([len(part) for part in super().partition(sep)]))

    def rpartition(self, sep: str) -> Any:
        return tuple(self._cut([len(part) for part in super().rpartition(sep)]))

    def _pieces(self, pieces: list[str], sep: str | None) -> list["TrackedText"]:
        """The pieces that str.split and similar methods return, as tracked slices of the text.

        Without `sep` each piece is searched from the end of the one before, because the gaps have any length.
        """
        if sep is not None:
            return self._cut([len(piece) for piece in pieces], len(sep))
        found, end = [], 0
        for piece in pieces:
            start = self.index(piece, end)
            end = start + len(piece)
            found.append(self[start:end])
        return found

    def _cut(self, lengths: list[int], gap: int = 0) -> list["TrackedText"]:
        """Slices of these lengths, with `gap` characters between each two."""
        starts = accumulate((length + gap for length in lengths[:-1]), initial=0)
        return [self[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def by_template(text: str) -> TrackedText:
    """The text, written by the template."""
    return TrackedText(text, bytes(len(text)))


def tracked(text: str) -> TrackedText:
    """The text; if it is not tracked, it counts as a user's."""
    return text if isinstance(text, TrackedText) else TrackedText(text)


def to_tracked(value: Any) -> TrackedText:
    """`str(value)`, tracked."""
    return tracked(str(value))


def user_mask(text: TrackedText) -> bytes:
    """The mask of the text: 1 for each character that a user wrote, 0 for the others."""
    return text._users


def combined(text: str, *sources: Any) -> TrackedText:
    """A text that an untracked operation made of the sources: the template's if all sources are, else a user's."""
    ours = all(isinstance(one, TrackedText) and USERS not in user_mask(one) for one in sources)
    return by_template(text) if ours else TrackedText(text)


def tracked_format(text: str, form: TrackedText, values: tuple[Any, ...], named: Mapping[str, Any]) -> TrackedText:
    """The text that `form.format(*values, **named)` returned; tracked if its fields are plain, as in `{}{a}`."""
    numbers, given = count(), {**named, **{str(i): value for i, value in enumerate(values)}}
    pieces = []
    for literal, field, *_ in Formatter().parse(form):
        pieces.append(combined(literal, form))
        if field is not None:
            pieces.append(to_tracked(given.get(field or str(next(numbers)))))
    return _checked(pieces, text, form, *values, *named.values())


def _checked(pieces: Iterable[TrackedText], text: str, *sources: Any) -> TrackedText:
    """The pieces joined, if they make that text; else the text combined from the sources."""
    joined = TrackedText("").join(pieces)
    return joined if joined == text else combined(text, *sources)


def tracking(function: Callable[..., Any], skipped: int = 0) -> Callable[..., Any]:
    """The function, with a text that it returns combined from its arguments after the first `skipped` ones.

    Integers among the arguments are parameters such as a width, and have no origin.
    """

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        if not isinstance(result, str) or isinstance(result, TrackedText) or hasattr(result, "__html__"):
            return result
        value, *others = args[skipped:]
        return combined(result, value, *(one for one in (*others, *named.values()) if not isinstance(one, int | None)))

    return call


def _change_case(name: str) -> Callable[[TrackedText], TrackedText]:
    """A method of str that changes case. No change shortens a text: at equal length each character keeps its place."""
    change = getattr(str, name)

    @wraps(change)
    def method(self: TrackedText) -> TrackedText:
        text = change(self)
        return TrackedText(text, self._users) if len(text) == len(self) else combined(text, self)

    return method


for _name in ("capitalize", "casefold", "lower", "swapcase", "title", "upper"):
    setattr(TrackedText, _name, _change_case(_name))
for _name in ("center", "expandtabs", "ljust", "rjust", "translate", "zfill"):
    setattr(TrackedText, _name, tracking(cast(Any, getattr(str, _name))))
