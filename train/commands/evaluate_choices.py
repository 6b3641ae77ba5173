"""Multiple choice by a trained model: `jaxllm evaluate RUN --choices FILE.jsonl`."""

import math
from collections.abc import Sequence
from typing import Any

from ..progress import counted
from ..tasks.choices import RULES, Choices, Question, accuracy, by_question, chance, completions
from ..tasks.model import TaskModel


def score_choices(model: TaskModel, questions: Sequence[Question]) -> list[Choices]:
    """The likelihood of every choice of the questions. Raises InputError as `completions` does."""
    completed = completions(questions, model.encode, model.first_id, model.context_length)
    with counted("choices", len(completed)) as report:
        found = model.likelihoods(completed, report)
    return by_question(questions, completed, found, model.context_length)


def choices_table(scored: Sequence[Choices], context_length: int) -> str:
    """The figures that `jaxllm evaluate --choices` prints."""
    numbers = {len(one.question.choices) for one in scored}
    each = f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"
    lines = [
        f"questions        {len(scored):,}",
        f"choices          {each}",
        f"chance           {chance([one.question for one in scored]):.4f}",
    ]
    if n_cut := sum(one.n_cut > 0 for one in scored):
        lines.append(f"queries cut      {n_cut:,}, at the left, to fit into the context of {context_length:,} tokens")
    lines += ["", "log-probability  accuracy  standard error  lm-evaluation-harness"]
    for rule in RULES:
        mean, error = accuracy(scored, rule)
        shown_error = "-" if math.isnan(error) else f"{error:.4f}"
        lines.append(f"{rule.name:15}  {mean:8.4f}  {shown_error:>14}  {rule.harness or '-'}")
    return "\n".join(lines)


def choices_figures(scored: Sequence[Choices]) -> dict[str, Any]:
    """The accuracies, and each question's log-probabilities and choices, for a JSON file."""
    accuracies = {rule.name: accuracy(scored, rule) for rule in RULES}
    return {
        "questions": len(scored),
        "chance": chance([one.question for one in scored]),
        "accuracy": {name: one.mean for name, one in accuracies.items()},
        "standard_error": {name: None if math.isnan(one.error) else one.error for name, one in accuracies.items()},
        "by_question": [
            {
                "query": one.question.query,
                "answer": one.question.answer,
                "log_probs": one.log_probs,
                "tokens": one.n_tokens,
                "tokens_cut": one.n_cut,
                "chosen": {rule.name: one.chosen(rule) for rule in RULES},
            }
            for one in scored
        ],
    }
