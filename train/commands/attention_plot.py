"""Attention weights as a picture: rows attend, columns are attended to, causally masked cells stay white.

Colours follow the square root of the weight, so that a token that attends to twenty others evenly still shows it.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import RunError, reason
from ..plotting import content, import_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# All lengths are in inches.
SIDE = 2.4  # of a large map, at least
SMALL_SIDE = 0.9  # of a small one
CELL = 0.11  # of a token with a label, at least
PIXEL = 1 / 120  # of a token, at least
SPACE = 0.25  # between large maps
LABELLED = 24  # the most tokens of small maps with labels
LONGEST = 16  # characters of a label
COLUMNS = 4  # of large maps


def attention_picture(name: str, weights: np.ndarray, labels: list[str], layer: int | None, suffix: str) -> bytes:
    """The content of a picture file, such as ".png", of weights [L, H, T, T]: all heads, or those of one layer.

    Raises RunError where matplotlib cannot draw it.
    """
    try:
        with import_matplotlib().rc_context({"text.parse_math": False}):  # dollar signs are text
            if layer is None:
                figure = draw_layers(weights, labels, f"Attention in {name}")
            else:
                figure = draw_layer(weights[layer], labels, f"Attention in {name}, layer {layer}")
            return content(figure, suffix, dpi=1 / PIXEL, bbox_inches="tight", pad_inches=0.15)
    except Exception as error:  # anything that matplotlib, its settings and the fonts of a machine can raise
        raise RunError(
            f"the picture cannot be drawn ({reason(error)}); write a page instead, with --out FILE.html."
        ) from None


def draw_layer(weights: np.ndarray, labels: list[str], title: str) -> "Figure":
    """A figure of the heads of one layer, [H, T, T], each a large map with the tokens on its axes."""
    heads, length, names = len(weights), len(labels), _names(labels)
    columns = min(COLUMNS, heads)
    rows = -(-heads // columns)
    side = max(SIDE, CELL * length)
    size = _font_size(side / length)
    below = 0.6 * size / 72 * max(map(len, names)) + 2 * SPACE  # labels, and the title of the next map
    figure = new_figure(columns * (side + SPACE) - SPACE, rows * (side + below) - below)
    for head, map_ in enumerate(weights):
        row, column = divmod(head, columns)
        axes = _axes(figure, column * (side + SPACE), row * (side + below), side, side)
        image = _show(axes, _visible_half(map_))
        axes.set_title(f"head {head}", fontsize=9)
        _write_below(axes, names, length, 0, size)
        if column == 0:
            _write_beside(axes, names, 0, size)
    _annotate(figure, image, title, 0.5)
    return figure


def draw_layers(weights: np.ndarray, labels: list[str], title: str) -> "Figure":
    """A figure of small maps of every head, [L, H, T, T]: a row for each layer, a column for each head."""
    layers, heads, length, _ = weights.shape
    names = _names(labels) if length <= LABELLED else []
    cell = max(SMALL_SIDE / length, CELL if names else PIXEL)
    gap = max(1, length // 12)
    stride = length + gap  # in cells
    figure = new_figure(heads * stride * cell, layers * stride * cell)
    axes = _axes(figure, 0, 0, *figure.get_size_inches())
    image = _show(axes, _mosaic(weights, gap))
    size = _font_size(cell)
    for head in range(heads):
        axes.text(stride * head + length / 2 - 0.5, -1, f"head {head}", fontsize=8, ha="center", va="bottom")
        _write_below(axes, names, stride * layers - gap, stride * head, size)
    for layer in range(layers):
        axes.text(stride * heads, stride * layer + length / 2 - 0.5, f"layer {layer}", fontsize=8, va="center")
        _write_beside(axes, names, stride * layer, size)
    _annotate(figure, image, title, 0.9)
    return figure


def _axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place measured from the upper left corner. The saved picture grows to hold the texts around them."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _show(axes: "Axes", weights: np.ndarray) -> "AxesImage":
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm

    blues = ListedColormap(colormaps["Blues"](np.linspace(0.07, 1, 256)))
    axes.axis("off")
    return axes.imshow(weights, cmap=blues, norm=PowerNorm(0.5, 0, 1))


# Labels are texts, because labels of ticks take several times as long to draw.


def _write_below(axes: "Axes", names: list[str], bottom: int, left: int, size: float) -> None:
    for i, name in enumerate(names, start=left):
        axes.text(i, bottom - 0.3, name, rotation=90, fontsize=size, ha="center", va="top")


def _write_beside(axes: "Axes", names: list[str], top: int, size: float) -> None:
    for i, name in enumerate(names, start=top):
        axes.text(-0.7, i, name, fontsize=size, ha="right", va="center")


def _annotate(figure: "Figure", image: "AxesImage", title: str, right: float) -> None:
    """Add the title above, and the scale of colours so many inches to the right."""
    width, height = figure.get_size_inches()
    figure.text(0, 1 + 0.4 / height, title, fontsize=11, va="bottom")
    bar = figure.colorbar(image, cax=_axes(figure, width + right, 0, 0.14, min(height, SIDE)))
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "0.01", "0.05", "0.1", "0.25", "0.5", "1"])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("attention of a row's token to a column's", fontsize=8)


def _visible_half(weights: np.ndarray) -> np.ndarray:
    """[..., T, T] with NaN, which is drawn white, above the diagonal."""
    length = weights.shape[-1]
    return np.where(np.tri(length, dtype=bool), weights, np.nan)


def _mosaic(weights: np.ndarray, gap: int) -> np.ndarray:
    """Maps [L, H, T, T] side by side, with `gap` white cells after each."""
    padded = np.pad(_visible_half(weights), ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    layers, heads, stride, _ = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(layers * stride, heads * stride)


def _font_size(cell: float) -> float:
    """The size in points of a label that is not higher than its cell."""
    return min(8, 0.8 * 72 * cell)


def _names(labels: list[str]) -> list[str]:
    """Labels with characters that the font lacks escaped, and long ones cut in the middle."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    names = []
    for name in labels:
        name = "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in name)
        names.append(name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}")
    return names
