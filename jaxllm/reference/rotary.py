"""Rotary positions (Su et al. 2021): each pair of features is rotated by an angle that grows with the position."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192, scaling: str = "llama3", truncate: bool = True,
) -> Array:  # fmt: skip
    """The angle per position [K / 2] of each pair: base^(-2i/K).

    With a factor, as in Llama 3: frequencies whose wavelength is over original_context / low_frequency are divided by
    the factor, those under original_context / high_frequency stay, and those between are interpolated. "linear" divides
    all. "yarn" interpolates as `_yarn_share` says.
    """
    frequencies = []
    for i in range(head_dim // 2):
        frequency = base ** (-2 * i / head_dim)
        wavelength = 2 * np.pi / frequency
        if factor != 1 and scaling == "linear":
            frequency = frequency / factor
        elif factor != 1 and scaling == "yarn":
            share = _yarn_share(i, head_dim, base, low_frequency, high_frequency, original_context, truncate)
            frequency = (1 - share) * frequency / factor + share * frequency
        elif factor != 1 and wavelength > original_context / high_frequency:
            turns = original_context / wavelength
            share = max((turns - low_frequency) / (high_frequency - low_frequency), 0)
            frequency = (1 - share) * frequency / factor + share * frequency
        frequencies.append(frequency)
    return float64(frequencies)


def _yarn_share(
    i: int, head_dim: int, base: float, low_frequency: float, high_frequency: float, original_context: int,
    truncate: bool,
) -> float:  # fmt: skip
    """How much of its frequency pair i keeps in YaRN (Peng et al. 2023).

    A pair j turns original_context base^(-2j/K) / 2 pi times, so the j of a number of turns has the closed form below.
    Pairs up to the j of `high_frequency` keep all, those from the j of `low_frequency` on nothing.
    """

    def pair(turns: float) -> float:
        return head_dim / 2 * float(np.log(original_context / (2 * np.pi * turns)) / np.log(base))

    keeps_all, keeps_nothing = pair(high_frequency), pair(low_frequency)
    if truncate:
        keeps_all, keeps_nothing = float(np.floor(keeps_all)), float(np.ceil(keeps_nothing))
    keeps_all, keeps_nothing = max(keeps_all, 0), min(keeps_nothing, head_dim - 1)
    if keeps_all == keeps_nothing:
        return float(i <= keeps_all)
    return 1 - min(max((i - keeps_all) / (keeps_nothing - keeps_all), 0), 1)


@vjp
def rotary_frequencies_vjp(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192, scaling: str = "llama3", truncate: bool = True,
) -> Vjp:  # fmt: skip
    """All arguments are numbers and have no derivative."""
    frequencies = rotary_frequencies(
        head_dim, base, factor, low_frequency, high_frequency, original_context, scaling, truncate
    )
    return frequencies, lambda dy: (None,) * 8


def _pairs(head_dim: int, interleaved: bool) -> list[tuple[int, int]]:
    """The features of each pair: neighbours, or one of each half."""
    half = head_dim // 2
    return [(2 * i, 2 * i + 1) if interleaved else (i, i + half) for i in range(half)]


def rotate(
    x: ArrayLike, positions: ArrayLike, frequencies: ArrayLike, interleaved: bool = False, scale: float = 1.0
) -> Array:
    """Each pair (a, b) becomes (a cos - b sin, a sin + b cos) of the angle position times frequency, times the scale.

    x [..., T, K], positions [..., T], frequencies [K / 2] -> [..., T, K].
    """
    x, positions, frequencies = float64(x), float64(positions), float64(frequencies)
    out = np.empty_like(x)
    for frequency, (i, j) in zip(frequencies, _pairs(x.shape[-1], interleaved), strict=True):
        cos, sin = np.cos(positions * frequency), np.sin(positions * frequency)
        out[..., i] = x[..., i] * cos - x[..., j] * sin
        out[..., j] = x[..., i] * sin + x[..., j] * cos
    return scale * out


@vjp
def rotate_vjp(
    x: ArrayLike, positions: ArrayLike, frequencies: ArrayLike, interleaved: bool = False, scale: float = 1.0
) -> Vjp:
    """The transpose of a rotation is the rotation by the negative angle: dx = rotate(dy, -positions).

    The derivative of a rotated pair (a, b) by the angle is (-b, a), and the angle is position times frequency, so the
    gradient of the frequency is the sum of position (db a - da b) over all tokens.
    """
    positions, frequencies = float64(positions), float64(frequencies)
    y = rotate(x, positions, frequencies, interleaved, scale)

    def pullback(dy: Array) -> tuple[Array, None, Array, None, None]:
        pairs = _pairs(y.shape[-1], interleaved)
        d_frequencies = [
            (positions * (dy[..., j] * y[..., i] - dy[..., i] * y[..., j])).sum() for i, j in pairs
        ]  # fmt: skip
        return rotate(dy, -positions, frequencies, interleaved, scale), None, float64(d_frequencies), None, None

    return y, pullback


def rotate_heads(x: ArrayLike, rotary: Any, positions: ArrayLike | None = None, fraction: float = 1.0) -> Array:
    """The first `fraction` of the features of queries or keys [..., H, T, K], rotated; the others as they are."""
    return rotate_heads_vjp(x, rotary, positions, fraction)[0]


@vjp
def rotate_heads_vjp(x: ArrayLike, rotary: Any, positions: ArrayLike | None = None, fraction: float = 1.0) -> Vjp:
    """dx is dy, rotated back where x was rotated."""
    x = float64(x)
    base, interleaved, *scaling, scale = rotary
    n = int(x.shape[-1] * fraction)
    places = np.arange(x.shape[-2]) if positions is None else np.asarray(positions)[..., None, :]
    rotated, back = rotate_vjp(x[..., :n], places, rotary_frequencies(n, base, *scaling), interleaved, scale)

    def pullback(dy: Array) -> tuple[Array, None, None, None]:
        return np.concatenate([back(dy[..., :n])[0], dy[..., n:]], axis=-1), None, None, None

    return np.concatenate([rotated, x[..., n:]], axis=-1), pullback
