"""Values as lines of text: arguments, and the learner's numbers beside the right ones."""

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import numpy as np
from rich.text import Text

from jaxllm.utils.errors import shown

from ..piece import Arguments
from .compare import Mismatch, close
from .gradients import written
from .trees import leaves_of, mapped, named, places
from .wire import Odd, Typed

MOST = 6  # rows and columns of a table; the first difference is among them
DIGITS = range(4, 16)  # after the point: as few as show the first difference
MARK = ">"
LONGEST = 200  # characters of a text
WIDTH = 100
MOST_PARAMETERS = 24  # of nested dicts, more of which nobody multiplies by hand


def argument_lines(arguments: Arguments) -> Iterator[str]:
    """Each argument as `name = value`; of many parameters the shapes only."""
    for name, value in arguments.items():
        if isinstance(value, dict) and sum(np.size(leaf) for leaf in leaves_of(value)) > MOST_PARAMETERS:
            text = f"{name} has random numbers of the shapes {mapped(np.shape, value)}"
            yield from wrap(text, WIDTH, subsequent_indent="  ")
        else:
            for place, leaf in places(value):
                yield from _argument(written((name, *place)), leaf)


def _argument(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, np.ndarray):
        value = np.round(value, 12) + 0 if value.dtype.kind == "f" else value
        text = np.array2string(value, max_line_width=WIDTH, precision=4, threshold=60, separator=", ")
        kind = "" if value.ndim < 3 else f"  # {value.shape}"
        yield from f"{name} = {text}{kind}".replace("\n", "\n" + " " * (len(name) + 3)).splitlines()
    else:
        yield f"{name} = {shown(value, LONGEST)}"


def comparison_lines(found: Mismatch) -> list[Text]:
    """The learner's value beside the right one, the first difference marked."""
    at = f" at {named(found.place)}" if found.place else ""
    mine = found.mine.array if isinstance(found.mine, Typed) else found.mine
    if found.kind == "value" and np.ndim(found.right) and np.shape(mine) == np.shape(found.right):
        return _tables(np.asarray(mine), np.asarray(found.right), found.index, at)
    if found.kind == "value" and isinstance(found.right, float | np.generic | np.ndarray):  # a single number
        mine, right = _single(np.asarray(mine)[()], np.asarray(found.right)[()])
        return [Text(f"yours{at}: {mine}"), Text(f"right{at}: {right}")]
    return [Text(f"yours{at}: {_whole(mine)}"), Text(f"right{at}: {_whole(found.right)}")]


def _whole(value: Any) -> str:
    if isinstance(value, Odd):
        return value.what
    if isinstance(value, np.ndarray):
        numbers = np.array2string(value, precision=4, threshold=20, max_line_width=10**6).replace("\n", "")
        return f"{shown_text(numbers)}, shape {value.shape}, {value.dtype}"
    return shown(value, LONGEST)


def shown_text(text: str) -> str:
    """A text cut in its middle."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def _single(mine: Any, right: Any) -> tuple[str, str]:
    digits = next((n for n in DIGITS if _number(mine, n) != _number(right, n)), DIGITS[-1])
    return _number(mine, digits), _number(right, digits)


def _number(x: Any, digits: int) -> str:
    kind = np.asarray(x).dtype.kind
    if kind not in "fc":
        return str(x)
    large = np.isfinite(x) and (abs(x) >= 1e6 or 0 < abs(x) < 1e-3)
    return f"{x:.{digits}{'e' if large else 'f'}}"


def _tables(mine: Any, right: Any, index: tuple[int, ...], at: str) -> list[Text]:
    """Two tables of the last two axes, at the place and around the index of the first difference."""
    above = index[:-2]
    rows, columns = mine[above], right[above]
    mine, right = np.atleast_2d(rows), np.atleast_2d(columns)
    wrong = np.atleast_2d(~close(right, mine, scale=float(_largest(right))))
    centre = (0, *index)[-2:] if np.ndim(rows) == 1 else index[-2:]
    (r0, r1), (c0, c1) = (_window(n, i) for n, i in zip(right.shape, centre, strict=True))
    digits = next((n for n in DIGITS if _number(mine[centre], n) != _number(right[centre], n)), DIGITS[-1])
    where = f"{at} at [{', '.join(map(str, above))}]" if above else at
    cells = [[[_number(x[i, j], digits) for j in range(c0, c1)] for i in range(r0, r1)] for x in (mine, right)]
    width = max(len(cell) for table in cells for row in table for cell in row) + 2
    head = f"yours{where}".ljust(max(width * (c1 - c0) + 4, len(f"yours{where}") + 2)) + "right"
    lines = [Text(head)]
    for i, (ours, theirs) in enumerate(zip(*cells, strict=True), start=r0):
        line = Text()
        for table, row in ((0, ours), (1, theirs)):
            for j, cell in enumerate(row, start=c0):
                mark = MARK if (i, j) == tuple(centre) else " "
                style = ("red" if table == 0 else "green") if wrong[i, j] else ""
                line.append((mark + cell).rjust(width), style=style)
            line.append("    " if table == 0 else "")
        lines.append(line)
    cut = [f"rows {r0} to {r1 - 1} of {right.shape[0]}"] if r1 - r0 < right.shape[0] else []
    cut += [f"columns {c0} to {c1 - 1} of {right.shape[1]}"] if c1 - c0 < right.shape[1] else []
    return [*lines, *([Text(f"({', '.join(cut)})")] if cut else [])]


def _largest(x: Any) -> float:
    if x.dtype.kind != "f":
        return 0.0
    finite = np.abs(x[np.isfinite(x)])
    return float(finite.max()) if finite.size else 0.0


def _window(length: int, index: int) -> tuple[int, int]:
    """The first rows, or those around the index if it is beyond them."""
    first = 0 if index < MOST else min(index - MOST // 2, length - MOST)
    return first, min(length, first + MOST)
