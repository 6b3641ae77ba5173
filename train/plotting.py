"""Pictures by matplotlib: drawn without a window, and no reason for the work that they show to fail.

Figures are made without `pyplot`, so no backend is chosen and a notebook's own stays as it is.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def import_matplotlib() -> Any:
    """The module, also where MPLBACKEND names a backend that is not there; one that is there stays chosen.

    A notebook sets that variable, programs begun from it inherit it, and where they run in another environment
    `import matplotlib` raises ValueError.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
    return matplotlib


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """An empty figure of so many inches."""
    import_matplotlib()
    from matplotlib.figure import Figure

    return Figure((width, height), **options)


def content(figure: "Figure", suffix: str, **options: Any) -> bytes:
    """The content of a file of that kind, such as ".png"."""
    out = BytesIO()
    figure.savefig(out, format=suffix.lower().removeprefix("."), **options)
    return out.getvalue()


@contextmanager
def noted(path: Path) -> Iterator[None]:
    """Print in a line what drawing or writing a picture raises, and go on."""
    try:
        yield
    except Exception as error:  # whatever matplotlib, its settings and the fonts of a machine lead to
        print(f"note: {path} was not drawn: {reason(error)}", file=sys.stderr)
