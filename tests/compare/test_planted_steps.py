"""Faults planted in a loss, in gradients and in a step of an optimizer, by formulas of their own and by PyTorch's."""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from foreign_pieces import GPT_2, piece, rounded

from jaxllm.compare.foreign.diagnosis import departure, diagnose
from jaxllm.compare.foreign.piece import ForeignPiece

pytestmark = pytest.mark.newest

LOSS, GRADIENT, STEP = (piece(kind, GPT_2) for kind in ("loss", "gradient", "optimizer"))
LOGITS, TARGETS, TOKENS = LOSS.x, LOSS.extra["targets"], LOSS.extra["tokens"]
RATE, DECAY, EPSILON = STEP.extra["learning_rate"], STEP.extra["weight_decay"], STEP.extra["epsilon"]


def log_probs(logits: Any = LOGITS) -> Any:
    """Log-probabilities by the direct formula."""
    return np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))


def chosen(table: Any, targets: Any) -> Any:
    """-table[..., target]."""
    return -np.array([[row[v] for row, v in zip(rows, of, strict=True)] for rows, of in zip(table, targets, strict=True)])  # fmt: skip


LOSSES = {
    "sum": chosen(log_probs(), TARGETS).sum(),
    "logarithm": chosen(log_probs(), TARGETS).mean() / np.log(2),
    "perplexity": np.exp(chosen(log_probs(), TARGETS).mean()),
    "targets-shifted": chosen(log_probs()[:, :-1], TARGETS[:, 1:]).mean(),
    "targets-not-shifted": chosen(log_probs(), TOKENS).mean(),
    "positions": chosen(log_probs(), TARGETS)[:, :-1].mean(),
    "ignored-target": chosen(log_probs(), TARGETS)[TARGETS != 0].mean(),
    "softmax-twice": chosen(log_probs(np.exp(log_probs())), TARGETS).mean(),
    "softmax-axis": chosen(log_probs(LOGITS.swapaxes(1, 2)).swapaxes(1, 2), TARGETS).mean(),
    "label-smoothing": 0.9 * chosen(log_probs(), TARGETS).mean() - 0.1 * log_probs().mean(),
    "z-loss": chosen(log_probs(), TARGETS).mean() + 1e-4 * (np.log(np.exp(LOGITS).sum(-1)) ** 2).mean(),
}


@pytest.mark.parametrize("slip", LOSSES)
def test_a_loss(slip: str) -> None:
    for got in (LOSSES[slip], np.float32(LOSSES[slip])):
        said = diagnose(replace(LOSS, got=np.asarray(got)), 1e-6)
        assert said is not None and said.slip == slip


def norm(tree: Any) -> float:
    """The norm of all arrays as one vector."""
    return float(np.sqrt(sum((x**2).sum() for x in tree.values())))


def scaled(tree: Any, factor: float) -> Any:
    """All arrays times a factor."""
    return {name: factor * x for name, x in tree.items()}


PART = GRADIENT.extra["parts"]["token_embedding/table"]["head"]
GRADIENTS = {
    "factor": (scaled(GRADIENT.x, 36.0), "is ours times 36 (the number of tokens) to"),
    "clipped": (scaled(GRADIENT.x, 1.0 / norm(GRADIENT.x)), "equals ours clipped to a norm of 1"),
    "detached": ({**GRADIENT.x, "norm_final/scale": np.zeros(5)}, "equals ours, but is zero of norm_final/scale"),
    "tied-gradient": (
        {**GRADIENT.x, "token_embedding/table": PART},
        "equals ours where the gradient of token_embedding/table is that of the head, without that of the embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("slip", GRADIENTS)
def test_gradients(slip: str) -> None:
    got, sentence = GRADIENTS[slip]
    said = diagnose(replace(GRADIENT, got=rounded(got)), 1e-6)
    assert said is not None and said.slip == slip and said.sentence.startswith(sentence)


def stepped(
    clip: float = 0.5, decay: float = DECAY, coupled: bool = False, inside: bool = False, of_all: bool = False,
    uncorrected: bool = False, rate: float = RATE, epsilon: float = EPSILON,
) -> Any:  # fmt: skip
    """The parameters after the first step of AdamW, with changes."""
    after, shrink = {}, min(1.0, clip / norm(STEP.x))
    for name, p in STEP.params.items():
        part = decay if of_all or name in STEP.extra["decayed"] else 0.0
        g = STEP.x[name] * shrink + (part * p if coupled else 0)
        m, v = (0.1 * g, 0.05 * g**2) if uncorrected else (g, g**2)
        direction = m / (np.sqrt(v + epsilon) if inside else np.sqrt(v) + epsilon)
        after[name] = p - rate * direction - (0 if coupled else rate * part * p)
    return after


STEPS = {
    "decay-coupled": stepped(coupled=True), "decayed": stepped(of_all=True),
    "no-bias-correction": stepped(uncorrected=True), "learning-rate": stepped(rate=3e-3),
    "epsilon": stepped(epsilon=1e-3), "epsilon-in-the-root": stepped(inside=True),
    "weight-decay": stepped(decay=0.01),
}  # fmt: skip


@pytest.mark.parametrize("slip", STEPS)
def test_a_step(slip: str) -> None:
    assert departure(replace(STEP, got=stepped())) < 1e-15
    said = diagnose(replace(STEP, got=STEPS[slip]), 1e-9)
    assert said is not None and said.slip == slip


def test_a_decay_that_the_learning_rate_does_not_multiply() -> None:
    said = diagnose(replace(STEP, got=stepped(decay=DECAY / RATE)), 1e-9)
    assert said is not None and "10 (ours / the learning rate, which does not multiply it there) to" in said.sentence


@pytest.mark.parametrize(("theirs", "rule", "slip"), [
    ("AdamW", "adamw", None), ("Adam", "adam", None), ("SGD", "sgd", None), ("Adam", "adamw", "decay-coupled"),
    ("AdamW", "adam", "decay-coupled"), ("SGD", "adamw", "no-moments"),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_step_of_pytorch(theirs: str, rule: str, slip: str | None, dtype: str) -> None:
    """Of all parameters, not clipped. On the first step SGD is AdamW with the gradient itself as direction."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the extra `peers`")
    torch = importlib.import_module("torch")
    params = {name: torch.nn.Parameter(torch.tensor(p, dtype=getattr(torch, dtype))) for name, p in STEP.params.items()}
    before = {name: p.detach().double().numpy().copy() for name, p in params.items()}
    for name, p in params.items():
        p.grad = torch.tensor(STEP.x[name], dtype=p.dtype)
    gradients = {name: p.grad.double().numpy().copy() for name, p in params.items()}
    getattr(torch.optim, theirs)(params.values(), lr=1e-2, weight_decay=0.1).step()
    got = {name: p.detach().double().numpy() for name, p in params.items()}
    extra = {"rule": rule, "learning_rate": 1e-2, "weight_decay": 0.1}
    step = ForeignPiece("optimizer", "step", GPT_2, before, gradients, got, extra)
    tolerance = {"float64": 1e-12, "float32": 5e-7}[dtype]
    same = theirs.lower() == rule
    assert (departure(step) < tolerance) == same
    said = diagnose(step, tolerance)
    assert (said and said.slip) == slip


@pytest.mark.parametrize(("slip", "options"), [("sum", {"reduction": "sum"}), ("label-smoothing", {"label_smoothing": 0.1}), ("ignored-target", {"ignore_index": 0}), (None, {})])  # fmt: skip
def test_a_loss_of_pytorch(slip: str | None, options: dict[str, Any]) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the extra `peers`")
    torch = importlib.import_module("torch")
    logits, targets = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(TARGETS)
    got = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), **options)
    said = diagnose(replace(LOSS, got=got.double().numpy()), 1e-6)
    assert (said and said.slip) == slip
