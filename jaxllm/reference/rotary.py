"""Rotary positions (Su et al. 2021): each pair of features is rotated by an angle that grows with the position."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192,
) -> Array:  # fmt: skip
    """The angle per position [K / 2] of each pair: base^(-2i/K).

    With a factor, as in Llama 3: frequencies whose wavelength is over original_context / low_frequency are divided by
    the factor, those under original_context / high_frequency stay, and those between are interpolated.
    """
    frequencies = []
    for i in range(head_dim // 2):
        frequency = base ** (-2 * i / head_dim)
        wavelength = 2 * np.pi / frequency
        if factor != 1 and wavelength > original_context / high_frequency:
            turns = original_context / wavelength
            share = max((turns - low_frequency) / (high_frequency - low_frequency), 0)
            frequency = (1 - share) * frequency / factor + share * frequency
        frequencies.append(frequency)
    return float64(frequencies)


@vjp
def rotary_frequencies_vjp(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192,
) -> Vjp:  # fmt: skip
    """All arguments are numbers and have no derivative."""
    frequencies = rotary_frequencies(head_dim, base, factor, low_frequency, high_frequency, original_context)
    return frequencies, lambda dy: (None,) * 6


def _pairs(head_dim: int, interleaved: bool) -> list[tuple[int, int]]:
    """The features of each pair: neighbours, or one of each half."""
    half = head_dim // 2
    return [(2 * i, 2 * i + 1) if interleaved else (i, i + half) for i in range(half)]


def rotate(x: ArrayLike, positions: ArrayLike, frequencies: ArrayLike, interleaved: bool = False) -> Array:
    """Each pair (a, b) becomes (a cos - b sin, a sin + b cos) of the angle position times frequency.

    x [..., T, K], positions [..., T], frequencies [K / 2] -> [..., T, K].
    """
    x, positions, frequencies = float64(x), float64(positions), float64(frequencies)
    out = np.empty_like(x)
    for frequency, (i, j) in zip(frequencies, _pairs(x.shape[-1], interleaved), strict=True):
        cos, sin = np.cos(positions * frequency), np.sin(positions * frequency)
        out[..., i] = x[..., i] * cos - x[..., j] * sin
        out[..., j] = x[..., i] * sin + x[..., j] * cos
    return out


@vjp
def rotate_vjp(x: ArrayLike, positions: ArrayLike, frequencies: ArrayLike, interleaved: bool = False) -> Vjp:
    """The transpose of a rotation is the rotation by the negative angle: dx = rotate(dy, -positions).

    The derivative of a rotated pair (a, b) by the angle is (-b, a), and the angle is position times frequency, so the
    gradient of the frequency is the sum of position (db a - da b) over all tokens.
    """
    y, positions, frequencies = rotate(x, positions, frequencies, interleaved), float64(positions), float64(frequencies)

    def pullback(dy: Array) -> tuple[Array, None, Array, None]:
        pairs = _pairs(y.shape[-1], interleaved)
        d_frequencies = [
            (positions * (dy[..., j] * y[..., i] - dy[..., i] * y[..., j])).sum() for i, j in pairs
        ]  # fmt: skip
        return rotate(dy, -positions, frequencies, interleaved), None, float64(d_frequencies), None

    return y, pullback


def rotate_heads(x: ArrayLike, rotary: Any, positions: ArrayLike | None = None, fraction: float = 1.0) -> Array:
    """The first `fraction` of the features of queries or keys [..., H, T, K], rotated; the others as they are."""
    return rotate_heads_vjp(x, rotary, positions, fraction)[0]


@vjp
def rotate_heads_vjp(x: ArrayLike, rotary: Any, positions: ArrayLike | None = None, fraction: float = 1.0) -> Vjp:
    """dx is dy, rotated back where x was rotated."""
    x = float64(x)
    base, interleaved, *scaling = rotary
    n = int(x.shape[-1] * fraction)
    places = np.arange(x.shape[-2]) if positions is None else np.asarray(positions)[..., None, :]
    rotated, back = rotate_vjp(x[..., :n], places, rotary_frequencies(n, base, *scaling), interleaved)

    def pullback(dy: Array) -> tuple[Array, None, None, None]:
        return np.concatenate([back(dy[..., :n])[0], dy[..., n:]], axis=-1), None, None, None

    return np.concatenate([rotated, x[..., n:]], axis=-1), pullback
