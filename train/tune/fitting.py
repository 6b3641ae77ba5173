"""Examples that are longer than a row: refused, cut or dropped, and counted."""

from typing import Literal, NamedTuple

import numpy as np

from jaxllm.utils.errors import InputError

from .rendered import Rendered

TooLong = Literal["refuse", "cut", "drop"]
Group = tuple[Rendered, ...]  # one example: its text, or of prefer the chosen and the rejected one


class Fitted(NamedTuple):
    """The examples that fit, in their order, and how many were changed or left out."""

    groups: list[Group]
    cut: int
    dropped: int


def length(group: Group) -> int:
    """How many positions of a row the longest text of an example takes."""
    return max(len(one.inputs) for one in group)


def fit(groups: list[Group], window: int, too_long: TooLong, begin: int = 0) -> Fitted:
    """The examples whose texts take at most `window` positions.

    "cut" shortens an example as `cut` says, and drops it where no whole answer is left. "refuse" raises InputError for
    the first one that is longer.
    """
    longer = [group for group in groups if length(group) > window]
    if longer and too_long == "refuse":
        raise InputError(
            f"{longer[0][0].where} has {length(longer[0]):,} tokens, more than the {window:,} of a row (of "
            f"{len(groups):,} examples {len(longer):,} are longer); give a larger train.window, or set tune.too_long "
            'to "cut" or "drop".'
        )
    if too_long == "drop":
        return Fitted([group for group in groups if length(group) <= window], 0, len(longer))
    kept = [cut(group, window, begin) if length(group) > window else group for group in groups]
    left = [group for group in kept if group is not None]
    dropped = len(kept) - len(left)
    return Fitted(left, len(longer) - dropped, dropped)


def cut(group: Group, window: int, begin: int = 0) -> Group | None:
    """An example without its first tokens, so that it fits; None if no answer is left whole.

    The end stays, because the last answer and its end of turn are there. The first `begin` ids stay too. From both
    answers of a preference as many tokens are taken, so the question is the same. An answer that has lost its
    beginning, or all of its question, is not learned. Of a text with a label the beginning stays, and the label is
    learned at the last token that is left.
    """
    if group[0].label is not None:
        return tuple(one._replace(ids=one.ids[:window], learned=np.arange(window) == window - 1) for one in group)
    removed = length(group) - window
    shorter = tuple(_without(one, begin, removed) for one in group)
    return shorter if all(one.learned.any() for one in shorter) else None


def _without(one: Rendered, begin: int, removed: int) -> Rendered:
    learned = one.learned[begin + removed :].copy()
    learned[: len(learned) if learned.all() else int(np.argmin(learned))] = False
    return one._replace(
        ids=np.concatenate([one.ids[:begin], one.ids[begin + removed :]]),
        learned=np.concatenate([one.learned[:begin], learned]),
    )
