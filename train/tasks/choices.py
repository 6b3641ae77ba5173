"""Multiple choice by likelihood, as HellaSwag, ARC and MMLU are scored: the choice that a model finds the most likely.

A question is a line of JSON: `{"query": "The sky is", "choices": [" blue.", " a river."], "answer": 0}`. Each choice is
the text that would follow the query, with its space; the answer is the number of the right one, from 0.

Long choices are less likely than short ones. So there are four rules: the sum of the log-probabilities, and this sum
divided by the bytes, the characters or the tokens of the choice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data.documents import checked_text, json_lines_of
from jaxllm.utils.errors import InputError, shown

from .likelihood import Completion, Likelihood, encode_completion, n_cut

KEYS = ("query", "choices", "answer")


@dataclass(frozen=True)
class Question:
    """A query, the texts that may follow it, and the number of the right one."""

    where: str  # for messages
    query: str
    choices: tuple[str, ...]
    answer: int


class Scoring(NamedTuple):
    """What a log-probability is divided by, and the name of this accuracy in lm-evaluation-harness."""

    name: str
    divisor: Callable[[str, int], int]  # text, number of its tokens
    harness: str


RULES = (
    Scoring("sum", lambda text, tokens: 1, "acc"),
    Scoring("per byte", lambda text, tokens: len(text.encode()), "acc_bytes"),
    Scoring("per character", lambda text, tokens: len(text), "acc_norm"),
    Scoring("per token", lambda text, tokens: tokens, ""),
)


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a file of JSON lines; other keys are ignored.

    Raises InputError as `json_lines_of` does, for a file without questions, and for a line that is no question.
    """
    questions = [_question(content, where) for where, content in json_lines_of(path)]
    if not questions:
        raise InputError(f"{path} holds no question; give one in each line, an object with {', '.join(KEYS)}.")
    return questions


def _question(content: Any, where: str) -> Question:
    if not isinstance(content, dict) or (missing := next((key for key in KEYS if key not in content), None)):
        what = f"has no {missing!r}" if isinstance(content, dict) else f"is {shown(content)}"
        raise InputError(f"{where} {what}; a question is an object with {', '.join(KEYS)}.")
    query, choices, answer = (content[key] for key in KEYS)
    if not isinstance(query, str):
        raise InputError(f"{where}: query is {shown(query)}, but it must be a text.")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) for one in choices):
        raise InputError(f"{where}: choices is {shown(choices)}, but it must be a list of at least two texts.")
    if (blank := next((one for one in choices if not one.strip()), None)) is not None:
        raise InputError(f"{where}: a choice is {shown(blank)}, but it needs a character other than white space.")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(
            f"{where}: answer is {shown(answer)}, but it must be the number of a choice, 0 to {len(choices) - 1}."
        )
    for text in (query, *choices):
        checked_text(text, where)
    return Question(where, query, tuple(choices), answer)


def completions(
    questions: Sequence[Question], encode: Callable[[str], Sequence[int]], first: int | None, context_length: int
) -> list[Completion]:
    """Every choice after its query, question by question.

    An empty query is the id `first`, with which texts begin. Raises InputError for an empty query where that is None,
    for a choice longer than the model's context, and for one that no id is left for.
    """
    return [
        _completion(question, choice, encode, first, context_length)
        for question in questions
        for choice in question.choices
    ]


def _completion(
    question: Question, choice: str, encode: Callable[[str], Sequence[int]], first: int | None, context_length: int
) -> Completion:
    try:
        found = encode_completion(encode, question.query, choice)
    except InputError as error:
        raise InputError(f"{question.where}: {error}") from None
    if not found.context:
        if first is None:
            raise InputError(
                f"{question.where}: the query holds no token, and the tokenizer has none that begins a text; "
                "give the query at least one character or word."
            )
        found = found._replace(context=(first,))
    n = len(found.continuation)
    if not 0 < n <= context_length:
        raise InputError(
            f"{question.where}: the choice {shown(choice, 40)} has {n:,} tokens after the query, but it must have from "
            f"1 to {context_length:,}, the model's context; change it."
        )
    return found


@dataclass(frozen=True)
class Choices:
    """The log-probabilities of a question's choices, and the choice that each of the RULES takes."""

    question: Question
    log_probs: tuple[float, ...]
    n_tokens: tuple[int, ...]
    n_cut: int = 0  # ids at the left of the query that did not fit into the model's context

    def chosen(self, rule: Scoring) -> int:
        """The number of the choice with the largest value; the first of equal ones.

        White space at the beginning of a choice separates it from the query, so that it does not count to its length.
        """
        lengths = [rule.divisor(text.lstrip(), n) for text, n in zip(self.question.choices, self.n_tokens, strict=True)]
        return int(np.argmax(np.array(self.log_probs) / np.array(lengths)))

    def is_right(self, rule: Scoring) -> bool:
        """Whether the rule takes the answer."""
        return self.chosen(rule) == self.question.answer


def by_question(
    questions: Sequence[Question], completed: Sequence[Completion], found: Sequence[Likelihood], context_length: int
) -> list[Choices]:
    """The likelihoods of `completions` put together to questions."""
    out, start = [], 0
    for question in questions:
        here = slice(start, start := start + len(question.choices))
        log_probs = tuple(one.log_prob for one in found[here])
        n_tokens = tuple(len(one.continuation) for one in completed[here])
        out.append(Choices(question, log_probs, n_tokens, max(n_cut(one, context_length) for one in completed[here])))
    return out


class Accuracy(NamedTuple):
    """A share of right answers, and its standard error; NaN for one question."""

    mean: float
    error: float


def accuracy(scored: Sequence[Choices], rule: Scoring) -> Accuracy:
    """How often the rule takes the answer. The error is that of a mean of independent questions."""
    right = np.array([one.is_right(rule) for one in scored], float)
    n = len(right)
    return Accuracy(float(right.mean()), float(right.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan)


def chance(questions: Sequence[Question]) -> float:
    """The accuracy of choices at random."""
    return float(np.mean([1 / len(question.choices) for question in questions]))
