"""Pictures by matplotlib, drawn without a window. A picture that fails is a note, not the end of the work it shows.

Figures are made without `pyplot`, so that no backend is chosen and a notebook keeps its own.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import reason
from .notes import print_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def import_matplotlib() -> Any:
    """The module, also where MPLBACKEND names a backend that is not installed. An installed one stays configured.

    Notebooks set that variable and programs started from them inherit it. In an environment without that backend
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
    """An empty figure of this size in inches."""
    import_matplotlib()
    from matplotlib.figure import Figure

    return Figure((width, height), **options)


def content(figure: "Figure", suffix: str, **options: Any) -> bytes:
    """The content of a picture file whose name ends in `suffix`, such as ".png"."""
    out = BytesIO()
    figure.savefig(out, format=suffix.lower().removeprefix("."), **options)
    return out.getvalue()


@contextmanager
def noted(path: Path) -> Iterator[None]:
    """Print an exception of drawing or writing a picture as a note, and continue."""
    try:
        yield
    except Exception as error:  # anything that matplotlib, its settings and the fonts of a machine can raise
        print_note(f"{path} was not drawn: {reason(error)}")
