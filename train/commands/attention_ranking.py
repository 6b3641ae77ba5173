"""The ranking of `jaxllm attention --from WORD --to WORD`: in which heads one word attends to another."""

from collections.abc import Sequence

import numpy as np

from jaxllm.utils.errors import InputError, shown

from ..pieces import cut
from .attention_words import TokenSpan

LONGEST = 40  # columns of a word's tokens; of more the beginning is shown


def ranking(
    weights: np.ndarray, labels: Sequence[str], source: tuple[str, TokenSpan], target: tuple[str, TokenSpan], top: int
) -> list[str]:  # fmt: skip
    """The lines to print for weights [L, H, T, T]: the `top` heads, the largest weights first, and what a sink is.

    Source and target are words with their tokens. Raises InputError where no head looks from one to the other because
    it comes later.
    """
    (word, at), (other, there) = source, target
    attended = word_weights(weights, at, there)
    if there.last > at.last and not attended.any():
        raise InputError(
            f"--to {shown(other)} comes after --from {shown(word)} in the prompt, and no head of this model looks "
            "ahead; exchange them."
        )
    first, mean = first_token_weights(weights, at)
    rests = (first > 0.5) & (mean > 0.5)
    lines = [
        f"from  {_described(labels, word, at)}",
        f"to    {_described(labels, other, there)}",
        "rank  layer  head  weight  on the first token  mean there",
    ]
    order = np.argsort(-attended, axis=None, kind="stable")[:top]
    for rank, head in enumerate(zip(*np.unravel_index(order, attended.shape), strict=True), start=1):
        row = f"{rank:>4}{head[0]:>7}{head[1]:>6}{attended[head]:>8.3f}{first[head]:>20.3f}{mean[head]:>12.3f}"
        lines.append(row + "  only rests there" * bool(rests[head]))
    return [*lines, *_about_sinks(int(rests.sum()), rests.size, labels[0], word, other if there.first == 0 else None)]


def word_weights(weights: np.ndarray, source: TokenSpan, target: TokenSpan) -> np.ndarray:
    """How much each head attends from one word to another [L, H], by weights [L, H, T, T].

    It is the sum over the tokens of the target, seen from the last token of the source, which has read the whole word.
    """
    return weights[:, :, source.last, target.first : target.last + 1].sum(-1)


def first_token_weights(weights: np.ndarray, source: TokenSpan) -> tuple[np.ndarray, np.ndarray]:
    """The weight of each head on the first token, by weights [L, H, T, T]: from a word, and the mean over later tokens.

    Both are [L, H]. The word is seen from its last token.
    """
    later = weights[:, :, 1:, 0]
    return weights[:, :, source.last, 0], later.mean(-1) if later.shape[-1] else weights[:, :, 0, 0]


def _described(labels: Sequence[str], word: str, span: TokenSpan) -> str:
    """A word and its tokens, counted from 1."""
    place = f"tokens {span.first + 1} to {span.last + 1}" if span.first < span.last else f"token {span.first + 1}"
    tokens = " ".join(f"[{label}]" for label in labels[span.first : span.last + 1])
    return f"{_quoted(word)}, {place} of {len(labels)}: {cut(tokens, LONGEST)}"


def _quoted(word: str) -> str:
    return cut(shown(word.strip()), 18)


def _about_sinks(n: int, of: int, first: str, word: str, other: str | None) -> list[str]:
    """How many heads only rest on the first token, and what that means; `other` is the target if that is the token."""
    lines = [
        f"{n} of {of} heads only rest on the first token, {cut(f'[{first}]', LONGEST)}:",
        f"more than half of their weight is there, from {_quoted(word)} and in the mean over later tokens.",
    ]
    if n:
        lines += [
            "An attention sink is a token, mostly the first, that takes the weight a head has no other use for,",
            "because the weights of a token must sum to 1 (Xiao et al. 2023).",
        ]
    if other is not None:
        lines.append(f"note: {_quoted(other)} is the first token, where heads rest whatever it is; put words before it")
    return lines
