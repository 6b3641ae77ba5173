"""A model with a user's functions beside the reference: twins by their names, backwards by differences, and no twin."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_tokens

from jaxllm import GPT, InputError
from jaxllm.compare import Comparison, Report, compare_model, random_parameters
from jaxllm.compare.twins import held, twin_loss
from jaxllm.gpt import Block
from jaxllm.loss import token_losses
from jaxllm.reference.loss import token_losses as token_losses_twin
from jaxllm.utils.ideas import Idea

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def capped(logits: Any) -> Any:
    return 2 * jnp.tanh(logits / 2)


def capped_twin(logits: Any) -> Any:
    return 2 * np.tanh(logits / 2)


def doubled(logits: Any) -> Any:
    return 2 * logits


def doubled_twin(logits: Any) -> Any:
    return 2 * logits


def doubled_twin_vjp(logits: Any) -> Any:
    return 2 * logits, lambda dy: (3 * dy,)


def cubed(x: Any) -> Any:
    return x**3


class Own(Block): ...


def Own_twin(config: Any, params: Any, x: Any, documents: Any = None) -> Any: ...


def of_hidden(hidden: Any, table: Any, targets: Any) -> Any:
    return token_losses(hidden @ table.T, targets)


def of_hidden_twin(hidden: Any, table: Any, targets: Any) -> Any:
    return token_losses_twin(hidden @ table.T, targets)


def compared(**functions: Any) -> Report:
    config = replace(TINY, n_layers=1, **functions)
    tokens, targets = random_tokens(config, 1), random_tokens(config, 1, seed=1)
    return Report.of("float64", compare_model(config, random_parameters(GPT(config)), tokens, targets, "float64")[0])


def test_a_backward_that_is_left_out_is_taken_by_differences() -> None:
    assert compared(logits=capped).passed


def test_a_wrong_backward_of_a_twin_is_found() -> None:
    report = compared(logits=doubled)
    wrong = [row for row in report.rows if row.failed]
    assert (
        not report.passed and wrong[0].name == "norm_final" and {row.stage for row in wrong} == {"backward", "gradient"}
    )


def test_what_depends_on_a_function_without_a_twin_is_held_to_nothing() -> None:
    report = compared(activation=cubed)
    alone = [row for row in report.rows if not row.compared]
    forward = [row.name for row in alone if row.stage == "forward"]
    assert forward == ["block_0/mlp", "block_0", "norm_final", "logits", "loss"]
    assert len(alone) - len(forward) == sum(row.stage != "forward" for row in report.rows)
    assert "no twin of" in alone[0].note and "cubed" in alone[0].note


def test_a_function_without_a_twin_inside_a_block_of_the_users_leaves_nothing_of_it() -> None:
    idea = Idea(cubed)
    rows = [Comparison("forward", name, (), *[0.0] * 4) for name in ("embeddings", "block_0", "norm_final", "loss")]
    config = replace(TINY, block=Own, activation=idea, norm=idea)
    assert [row.compared for row in held(rows, config, None)] == [True, False, False, False]


def test_a_twin_of_hidden_states_is_refused() -> None:
    with pytest.raises(InputError, match=r"the twin of .*of_hidden takes .* must be a function of \(logits, targets\)"):
        twin_loss(Idea(of_hidden))
