"""Multiple choice by a trained model: `jaxllm evaluate RUN --choices FILE.jsonl`."""

import math
from collections.abc import Sequence
from typing import Any

from jaxllm.fast.loss import MOST_LOGITS

from ..evaluate import evaluation_rows
from ..nonfinite import check_computed
from ..progress import counted
from ..runs.load import TrainedRun
from ..tasks.choices import RULES, Choices, Question, accuracy, by_question, chance, completions
from ..tasks.likelihood import first_id, likelihoods


def score_choices(trained: TrainedRun, params: Any, questions: Sequence[Question], path: str) -> list[Choices]:
    """The likelihood of every choice of the questions, by the run at `path`.

    Raises InputError as `completions` and `likelihoods` do, and NonFiniteError for NaN and infinity.
    """
    config, encode = trained.model.config, trained.tokenizer.encode
    begin = () if trained.begin_token is None else (trained.begin_token,)
    first = first_id(trained.tokenizer, trained.chat)
    completed = completions(questions, lambda text: (*begin, *encode(text)), first, config.context_length)
    most_tokens = min(evaluation_rows(trained.config) * config.context_length, MOST_LOGITS // config.vocab_size)
    with counted("choices", len(completed)) as report:
        found = likelihoods(trained.model, params, most_tokens, report)(completed)
    check_computed([one.log_prob for one in found], path, trained.params)
    return by_question(questions, completed, found, config.context_length)


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
