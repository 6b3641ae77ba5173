"""The slips of piece 6: of which row belongs to which place, and of angles."""

from functools import partial
from typing import Any

import numpy as np

from ..piece import Slip


def varied_learned(x: Any, table: Any, *, rows: str = "first", join: str = "added", times_x: str = "one") -> Any:
    """`add_learned_positions` with the mistakes that the keywords choose. Rows past the end are taken as the last.

    Raises ValueError where shapes do not fit, as NumPy does.
    """
    x, table = np.asarray(x), np.asarray(table)
    length, last = x.shape[-2], len(table) - 1
    t = np.arange(length)
    chosen: dict[str, Any] = {
        "first": t, "from one": t + 1, "last": last - length + 1 + t, "reversed": length - 1 - t, "row 0": 0 * t,
        "row T": 0 * t + length,
    }  # fmt: skip
    if rows == "of the batch":
        ids = np.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 2))  # of one sequence: those of its places
    else:
        ids = chosen.get(rows, t)
    if rows == "as many as sequences":
        positions = table[: x.shape[0]] + 0 * x
    else:
        positions = table[np.minimum(np.broadcast_to(ids, x.shape[:-1]), last)]
    x = {"one": x, "sqrt": x * x.shape[-1] ** 0.5, "zero": 0 * x}[times_x]
    if join == "concatenated":
        return np.concatenate([x, positions], axis=-1)
    ways = {
        "added": x + positions,
        "twice": x + 2 * positions,
        "multiplied": x * positions,
        "mean": (x + positions) / 2,
    }
    return ways[join]


def varied_sinusoidal(
    length: int, d_model: int, *, layout: str = "interleaved", power: str = "2i/D", first: int = 0, cosine: str = "odd",
    base: float = 10000, inverse: bool = False, relative: bool = False,
) -> Any:  # fmt: skip
    """`sinusoidal_positions` with the mistakes that the keywords choose."""
    t = np.arange(first, length + first, dtype=np.float64) / (length if relative else 1)
    i = np.arange(d_model // 2, dtype=np.float64)
    powers = {"2i/D": 2 * i / d_model, "i/D": i / d_model, "4i/D": 4 * i / d_model, "0": 0 * i}
    powers["2i/(D-2)"] = 2 * i / max(d_model - 2, 1)
    even = odd = powers.get(power, powers["2i/D"])
    if power == "column/D":
        odd = (2 * i + 1) / d_model
    sign = 1 if inverse else -1
    sines, cosines = np.sin(np.outer(t, base ** (sign * even))), np.cos(np.outer(t, base ** (sign * odd)))
    pairs = {
        "odd": (sines, cosines),
        "even": (cosines, sines),
        "never": (sines, np.sin(np.outer(t, base ** (sign * odd)))),
    }
    left, right = pairs[cosine]
    if layout == "halves":
        return np.concatenate([left, right], axis=-1)
    return np.stack([left, right], axis=-1).reshape(length, d_model)


LEARNED_SLIPS = (
    Slip(
        "positions-from-one",
        "has positions that count from 1",
        "The first position is 0, the first row of the table. Counted from 1, the last position of a full context "
        "has no row.",
        "Which row does the first token get?",
        partial(varied_learned, rows="from one"),
    ),
    Slip(
        "positions-of-the-batch",
        "has positions that count the sequences of the batch, not the places in a sequence",
        "All tokens of one sequence then get the same vector, and their order is lost. Time is the axis before the "
        "last.",
        "Which axis of x is time?",
        partial(varied_learned, rows="of the batch"),
    ),
    Slip(
        "as-many-rows-as-sequences",
        "takes as many rows of the table as there are sequences in the batch",
        "That fits only if there are as many sequences as positions, or just one. The positions are those of time.",
        "Which axis of x is time?",
        partial(varied_learned, rows="as many as sequences"),
    ),
    Slip(
        "rows-from-the-end",
        "uses the last rows of the table, not the first",
        "A short sequence uses the beginning of the table. Its first token is at position 0 whatever the context.",
        "Which row does the first token get?",
        partial(varied_learned, rows="last"),
    ),
    Slip(
        "positions-reversed",
        "has the positions in the reverse order",
        "The first token gets the first row. Counted from the end, a token's position would change with each new one.",
        "Which row does the first token get?",
        partial(varied_learned, rows="reversed"),
    ),
    Slip(
        "first-row-for-all",
        "has the first row of the table at every position",
        "Then every position looks the same, and order is lost. Each position has a row of its own.",
        "Which row does the second token get?",
        partial(varied_learned, rows="row 0"),
    ),
    Slip(
        "row-of-the-length",
        "has row T of the table at every position",
        "The length of the sequence is one number, and the positions are many. Each position has a row of its own.",
        "How many rows does a sequence of three tokens need?",
        partial(varied_learned, rows="row T"),
    ),
    Slip(
        "added-twice",
        "has the positions added twice",
        "One addition is enough. Perhaps x was changed in place as well.",
        "How often is the row added to one token?",
        partial(varied_learned, join="twice"),
    ),
    Slip(
        "multiplied",
        "is multiplied by the positions",
        "A position shifts a token's vector, so that attention can read both. A product could erase it.",
        "What joins the token and the position?",
        partial(varied_learned, join="multiplied"),
    ),
    Slip(
        "mean-of-both",
        "equals the mean of tokens and positions",
        "The two vectors are added, without a factor. Their scale is learned.",
        "What happens after the addition?",
        partial(varied_learned, join="mean"),
    ),
    Slip(
        "concatenated",
        "has the positions beside the tokens, not added",
        "The result would be twice as wide, and no later piece takes that. Adding keeps the width D.",
        "Which shape should the result have?",
        partial(varied_learned, join="concatenated"),
    ),
    Slip(
        "tokens-lost",
        "equals the positions alone",
        "The tokens are what the text says. Positions are added to them.",
        "Where does x come in?",
        partial(varied_learned, times_x="zero"),
    ),
    Slip(
        "tokens-times-sqrt",
        "has tokens that are multiplied by sqrt(D)",
        "The first Transformer scaled its tokens so before it added positions, but GPT does not. x is taken as it is.",
        "What happens to x before the addition?",
        partial(varied_learned, times_x="sqrt"),
    ),
)

SINUSOIDAL_SLIPS = (
    Slip(
        "halves",
        "has all sines in the first half of the columns and all cosines in the second",
        "Some libraries order them so, and then the columns mean something else. Here sine and cosine alternate.",
        "Which columns hold the cosines?",
        partial(varied_sinusoidal, layout="halves"),
    ),
    Slip(
        "sine-and-cosine-exchanged",
        "has the cosines in the even columns and the sines in the odd ones",
        "Column 0 is a sine, so the first row begins with 0. Here it begins with 1.",
        "What is the sine of 0?",
        partial(varied_sinusoidal, cosine="even"),
    ),
    Slip(
        "sines-only",
        "has sines in all columns",
        "A sine alone takes most values twice in a turn. With the cosine beside it every angle is told apart.",
        "What should the odd columns hold?",
        partial(varied_sinusoidal, cosine="never"),
    ),
    Slip(
        "frequency-of-each-column",
        "has another frequency in each column, where a sine and its cosine should share one",
        "Columns 2i and 2i + 1 are a point on one circle. The exponent has the number of the pair, not of the column.",
        "Which frequency has column 1?",
        partial(varied_sinusoidal, power="column/D"),
    ),
    Slip(
        "exponent-i-over-d",
        "has the exponent i / D, where it should be 2i / D",
        "The slowest frequency would be 1/100, not nearly 1/10000. Half of the range of frequencies is unused.",
        "Put numbers into the exponent for the last pair of columns.",
        partial(varied_sinusoidal, power="i/D"),
    ),
    Slip(
        "exponent-doubled-twice",
        "has the exponent 4i / D, where it should be 2i / D",
        "The index is often already that of the even column, which is 2i. Doubled again, the frequencies fall too "
        "fast.",
        "Put numbers into the exponent for the last pair of columns.",
        partial(varied_sinusoidal, power="4i/D"),
    ),
    Slip(
        "exponent-over-d-less-two",
        "has the exponent 2i / (D - 2), where it should be 2i / D",
        "Tensor2Tensor spaces its frequencies so that the last is exactly 1/10000. The paper's formula divides by D.",
        "By what is the exponent divided?",
        partial(varied_sinusoidal, power="2i/(D-2)"),
    ),
    Slip(
        "one-frequency",
        "has the same frequency in all columns",
        "Fast columns tell neighbours apart, slow ones tell far places apart. The frequency must depend on the column.",
        "Where does the number of the column come in?",
        partial(varied_sinusoidal, power="0"),
    ),
    Slip(
        "frequencies-grow",
        "has angles that are multiplied by the power of 10000, not divided",
        "Such angles turn many times from one position to the next, and look like noise. Columns get slower to the "
        "right.",
        "Is the last column the fastest or the slowest?",
        partial(varied_sinusoidal, inverse=True),
    ),
    Slip(
        "base-1000",
        "has the base 1000 in the place of 10000",
        "The slow columns then turn too fast. The number has four zeros.",
        "Count the zeros.",
        partial(varied_sinusoidal, base=1000.0),
    ),
    Slip(
        "positions-from-one",
        "has positions that count from 1",
        "The first position is 0, so its sines are 0 and its cosines are 1. Here they are those of the second.",
        "What should the first row be?",
        partial(varied_sinusoidal, first=1),
    ),
    Slip(
        "positions-over-length",
        "has positions that are divided by the length",
        "The same place would get another vector in a longer text. Positions are whole numbers.",
        "Does the second row change if the table gets longer?",
        partial(varied_sinusoidal, relative=True),
    ),
)
