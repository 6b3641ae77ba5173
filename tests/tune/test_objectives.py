"""What learning from examples minimises: beside sums by hand, beside PyTorch, and in microbatches as in one batch."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from models import TINY, random_gpt, random_tokens

from jaxllm import GPT, reference
from jaxllm.loss import answer_log_probs, dpo_losses
from train.config import TrainConfig
from train.objective import Objective
from train.state import TrainState
from train.step import step_function
from train.tune.batches import Answers, Preferences
from train.tune.objectives import log_probs, objective

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = replace(TINY, n_classes=3, n_layers=1)
SMALL = replace(TINY, n_layers=1)
KINDS = ("instruct", "classify", "prefer")
# Rows learn three, one, no and six tokens.
IDS = np.array([
    [-1, -1, -1, 4, 9, 2, -1, -1], [-1, 7, -1, -1, -1, -1, -1, -1], [-1] * 8, [-1, -1, 3, 3, 5, 0, 16, 1],
], np.int32)  # fmt: skip
LABELS = np.full((4, 8), -1, np.int32)
LABELS[[0, 1, 3], [5, 3, 7]] = 2, 0, 1
PAIRS = np.stack([IDS, np.roll(IDS, 1, axis=1)], axis=1)


def batch(kind: str, dtype: str = "float32") -> tuple[Any, Any, Any, Any]:
    """A model, its parameters, inputs and targets of four examples, of which one is a filled row."""
    model, params = random_gpt(CLASSES if kind == "classify" else SMALL, dtype)
    if kind != "prefer":
        return model, params, random_tokens(SMALL, 4), Answers(IDS if kind == "instruct" else LABELS)
    rng = np.random.default_rng(3)
    given = rng.normal(-10, 3, size=(4, 2)).astype(np.float32)
    return model, params, rng.integers(17, size=(4, 2, 8)).astype(np.int32), Preferences(PAIRS, given)


def of(one: Objective, model: GPT, params: Any, inputs: Any, targets: Any) -> Any:
    """The loss and the further sums, jitted."""
    return jax.jit(lambda params, inputs, targets: one.loss(model, params, inputs, targets, {}))(
        params, inputs, targets
    )


def test_answers_count_alone() -> None:
    """The mean of the reference's losses at the learned tokens, and 0 for a batch without one."""
    model, params, inputs, targets = batch("instruct")
    one = objective("instruct")
    loss, sums = of(one, model, params, inputs, targets)
    losses = reference.loss.token_losses(reference.gpt.forward(model.config, params, inputs), IDS)
    assert one.n_losses(targets) == 10 and sums == {} == one.zeros()
    assert float(loss) == pytest.approx(losses[IDS >= 0].sum(), rel=1e-5)
    nothing = Answers(np.full_like(IDS, -1))
    assert float(of(one, model, params, inputs, nothing)[0]) / int(one.n_losses(nothing)) == 0


def test_packed_answers_are_those_of_each_example_alone() -> None:
    """Loss and gradient, in float64; two examples of three and five tokens in a row."""
    inputs, ids = random_tokens(SMALL, 1), np.array([[-1, 4, 2, -1, -1, 6, 6, 1]], np.int32)
    packed = Answers(ids, np.array([[0, 0, 0, 1, 1, 1, 1, 1]]), np.array([[0, 1, 2, 0, 1, 2, 3, 4]]))
    one = objective("instruct")
    with jax.enable_x64(True):
        model, params = random_gpt(SMALL, "float64")

        def together(params: Any) -> Any:
            return one.loss(model, params, inputs, packed, {})[0]

        def alone(params: Any) -> Any:
            parts = ((inputs[:, where], Answers(ids[:, where])) for where in (slice(3), slice(3, 8)))
            return sum(one.loss(model, params, *part, {})[0] for part in parts)

        got, want = (jax.jit(jax.value_and_grad(f))(params) for f in (together, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, want)


def test_a_label_is_of_the_last_token() -> None:
    """The reference's loss there, and how many labels are the likeliest."""
    model, params, inputs, targets = batch("classify")
    one = objective("classify")
    loss, sums = of(one, model, params, inputs, targets)
    logits = reference.gpt.forward(model.config, params, inputs)[[0, 1, 3], [5, 3, 7]]
    labels = np.array([2, 0, 1])
    assert one.n_losses(targets) == 3 and sums.keys() == one.zeros().keys() == {"train_accuracy"}
    assert float(loss) == pytest.approx(reference.loss.token_losses(logits, labels).sum(), rel=1e-5)
    assert float(sums["train_accuracy"]) == (logits.argmax(-1) == labels).sum()
    right = LABELS.copy()
    right[[0, 1, 3], [5, 3, 7]] = logits.argmax(-1)
    assert float(of(one, model, params, inputs, Answers(right))[1]["train_accuracy"]) == 3


def test_preferences_are_the_reference() -> None:
    """DPO's loss, margins and accuracy from the twins; the filled row counts nothing."""
    model, params, inputs, targets = batch("prefer")
    one = objective("prefer", 0.3)
    loss, sums = of(one, model, params, inputs, targets)
    assert one.n_losses(targets) == 3 and sums.keys() == one.zeros().keys() == {"train_accuracy", "train_margin"}
    logits = reference.gpt.forward(model.config, params, inputs.reshape(8, 8)).reshape(4, 2, 8, 17)
    of_answers = -reference.loss.answer_losses(logits, PAIRS).sum(-1)
    given = (*of_answers.T, *targets.reference.T, 0.3)
    pairs = [0, 1, 3]
    margins = reference.loss.dpo_margins(*given)[pairs]
    assert float(loss) == pytest.approx(reference.loss.dpo_losses(*given)[pairs].sum(), rel=1e-5)
    assert float(sums["train_margin"]) == pytest.approx(margins.sum(), rel=1e-4)
    assert float(sums["train_accuracy"]) == (margins > 0).sum() and 0 < (margins > 0).sum() < 3


def test_a_model_that_is_its_own_reference_has_no_margin() -> None:
    """The loss of each pair is log 2, whatever beta is."""
    model, params, inputs, targets = batch("prefer")
    targets = targets._replace(reference=log_probs(model, params, inputs, targets.ids))
    loss, sums = of(objective("prefer", 5.0), model, params, inputs, targets)
    assert float(loss) == pytest.approx(3 * math.log(2), rel=1e-5) and abs(float(sums["train_margin"])) < 1e-3


@pytest.mark.newest
def test_dpo_agrees_with_pytorch() -> None:
    """Loss and the gradient of each log-probability and logit, float64: the formula in PyTorch's own functions."""
    torch = pytest.importorskip("torch", reason="needs the extra `peers`")
    rng = np.random.default_rng(0)
    table, x = rng.normal(size=(17, 6)), rng.normal(size=(4, 2, 8, 6))
    given, beta = rng.normal(-8, 3, size=(4, 2)), 0.2
    theirs = [torch.tensor(a, requires_grad=True) for a in (table, x)]
    ids = torch.tensor(PAIRS.astype(np.int64))
    logits = theirs[1] @ theirs[0].T
    of_tokens = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 17), ids.reshape(-1), ignore_index=-1, reduction="none"
    )
    answers = -of_tokens.reshape(4, 2, 8).sum(-1)
    ratios = answers - torch.tensor(given)
    want = -torch.nn.functional.logsigmoid(beta * (ratios[:, 0] - ratios[:, 1])).sum()
    want.backward()

    def ours(table: Any, x: Any) -> Any:
        return dpo_losses(*answer_log_probs(table, x, PAIRS).T, *given.T, beta).sum()

    with jax.enable_x64(True):
        got, gradients = jax.value_and_grad(ours, (0, 1))(jnp.asarray(table), jnp.asarray(x))
    assert float(got) == pytest.approx(want.item(), rel=1e-12)
    for ours_, tensor in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(ours_, tensor.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_microbatches_are_one_batch(kind: Any) -> None:
    """Of four, one, no and six learned tokens: the step and what it reports, float64."""
    with jax.enable_x64(True):
        model, params, inputs, targets = batch(kind, "float64")
        state = TrainState(jnp.zeros((), jnp.int32), params, optax.sgd(0.1).init(params))
        taken = []
        for n in (1, 4):
            config = TrainConfig(steps=2, batch_size=4, grad_accumulation=n)
            step = step_function(model, optax.sgd(0.1), config, lambda _: jnp.asarray(0.1), objective(kind, 0.3))
            taken.append(jax.jit(step)(state, inputs, targets))
    (one, its), (parts, theirs) = taken
    names = set(objective(kind).further) | {"train_loss", "grad_norm"}
    for name in names:
        np.testing.assert_allclose(its[name], theirs[name], rtol=1e-6, err_msg=name)  # sums of metrics are float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one.params, parts.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), one.params, params)
    assert any(jax.tree.leaves(moved))


@pytest.mark.newest
@pytest.mark.parametrize("kind", KINDS)
def test_interceptors_change_what_is_minimised(kind: Any) -> None:
    """The loss is that of the logits that they return."""
    _, params, inputs, targets = batch(kind)
    model = GPT(CLASSES if kind == "classify" else SMALL)

    def halved(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        return result / 2 if isinstance(context.module, GPT) else result

    plain = objective(kind).loss(model, params, inputs, targets, {})[0]
    with nn.intercept_methods(halved):
        changed = objective(kind).loss(model, params, inputs, targets, {})[0]
    assert abs(float(changed) - float(plain)) > 1e-3 * abs(float(plain))
