"""Piece 17: the mean of -log p(target), in nats."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference

from ..piece import Arguments, Function, Piece, Slip


def cross_entropy(logits: Any, targets: Any) -> Any:
    """The twin, as a scalar."""
    return reference.loss.cross_entropy(logits, targets)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"logits": np.log([[1.0, 3.0]]), "targets": np.array([0])}
    yield {"logits": np.log([[1.0, 3.0], [5.0, 2.0]]), "targets": np.array([1, 0])}
    yield {"logits": np.log([[1.0, 2.0, 5.0], [4.0, 1.0, 1.0]]), "targets": np.array([2, 1])}
    yield {"logits": np.array([[1000.0, 999]]), "targets": np.array([1])}
    yield {"logits": np.array([[0.0, 1000]]), "targets": np.array([0])}
    yield {"logits": np.array([[1000.0, 999], [1, 2]]), "targets": np.array([0, 1])}
    yield {"logits": np.array([[-1000.0, -1001, -1002]]), "targets": np.array([1])}
    for shape in ((4, 7), (2, 3, 5), (3, 2, 4, 6)):
        yield {"logits": 2 * rng.normal(size=shape), "targets": rng.integers(shape[-1], size=shape[:-1])}


def varied(
    logits: Any, targets: Any, *, axis: int | None = -1, largest: str = "of each", log: str = "e",
    normaliser: str = "log sum exp", score: str = "log p", of: int = 0, reduce: str = "mean", sign: int = -1,
    twice: bool = False,
) -> Any:  # fmt: skip
    """`cross_entropy` with the mistakes that the keywords choose."""
    z, targets = np.asarray(logits), np.asarray(targets)
    width = z.shape[-1]
    with np.errstate(all="ignore"):
        if twice:
            z = reference.layers.softmax(z)
        z = {"of each": z - z.max(axis=axis, keepdims=True), "of all": z - z.max()}.get(largest, z)
        total = np.exp(z).sum(axis=axis, keepdims=True)
        if largest == "as math does" and (np.isinf(total).any() or not total.all()):
            raise OverflowError("math range error") if np.isinf(total).any() else ValueError("math domain error")
        sums = {"log sum exp": np.log(total), "log sum": np.log(z.sum(axis=axis, keepdims=True)), "none": 0.0}
        sums["log2 sum exp"] = np.log2(total)
        log_p = z - sums[normaliser] if score != "log of p" else np.log(np.exp(z) / total)
        scores = {"p": np.exp(log_p), "1 - p": 1 - np.exp(log_p)}.get(score, log_p)
        observed = (np.roll(targets, -1, axis=-1) if of == 2 else (targets - of) % width)[..., None]
        chosen = np.take_along_axis(scores, observed, axis=-1)[..., 0]
        if score == "binary":
            others = np.log1p(-np.exp(np.where(np.arange(width) == observed, -np.inf, log_p)))
            chosen = chosen + others.sum(axis=-1)
        if score == "largest":
            chosen = scores.max(axis=-1)
        return _reduced(sign * chosen / {"e": 1.0, "2": np.log(2), "10": np.log(10)}[log], reduce, width)


def _reduced(losses: Any, reduce: str, width: int) -> Any:
    """The losses of the tokens [...] as one number, or not."""
    ways = {
        "mean": lambda: losses.mean(),
        "sum": lambda: losses.sum(),
        "over V too": lambda: losses.mean() / width,
        "sum over time": lambda: losses.sum(axis=-1).mean(),
        "none": lambda: losses,
        "exp of mean": lambda: np.exp(losses.mean()),
        "log of mean": lambda: -np.log(np.exp(-losses).mean()),
        "last": lambda: losses[..., -1].mean(),
    }
    return np.asarray(ways[reduce]())


SLIPS = (
    Slip(
        "overflow",
        "overflows for large logits, where exp(1000) is infinite",
        "The exponential of a logit above 709 has no float64. A shift of all logits by the same number does not "
        "change the result.",
        "Which number could you subtract from all logits so that none is above 0?",
        partial(varied, largest="none"),
    ),
    Slip(
        "overflow-of-the-quotient",
        "divides infinity by infinity for large logits",
        "The exponential of a logit above 709 has no float64, and the quotient of two of them is no number. A shift "
        "of all logits by the same number does not change the result.",
        "Which number could you subtract from all logits so that none is above 0?",
        partial(varied, largest="none", score="log of p"),
    ),
    Slip(
        "overflow-error",
        "overflows, with an error, for large logits",
        "The exponential of a logit above 709 has no float64, and Python's own raises an error. A shift of all "
        "logits by the same number does not change the result.",
        "Which number could you subtract from all logits so that none is above 0?",
        partial(varied, largest="as math does"),
    ),
    Slip(
        "largest-of-the-batch",
        "subtracts the largest logit of all positions, not of each",
        "Where a position's own logits are far below that, all its exponentials are 0. Each position has a largest "
        "logit of its own.",
        "Over which axis is the maximum?",
        partial(varied, largest="of all"),
    ),
    Slip(
        "logarithm-of-zero",
        "takes the logarithm of a probability that was rounded to 0",
        "A logit 1000 below the largest has a probability too small for float64, but its logarithm is about -1000. "
        "Never form the probability before its logarithm.",
        "Write the logarithm of the quotient as a difference, and look at each part.",
        partial(varied, score="log of p"),
    ),
    Slip(
        "softmax-over-positions",
        "has a softmax over the positions, not over the vocabulary",
        "The probabilities of all tokens at one position sum to 1. Here those of one token at all positions do.",
        "Over which axis does the sum go?",
        partial(varied, axis=-2),
    ),
    Slip(
        "softmax-over-everything",
        "has a softmax over all numbers at once, not over the vocabulary at each position",
        "The probabilities of all tokens at one position sum to 1. Here those of the whole batch do.",
        "Over which axis does the sum go?",
        partial(varied, axis=None),
    ),
    Slip(
        "no-exponential",
        "has a sum of logits where it should have a sum of exponentials",
        "Logits may be negative and are no probabilities. The exponential makes them positive.",
        "What is summed under the logarithm?",
        partial(varied, normaliser="log sum", largest="none"),
    ),
    Slip(
        "not-normalised",
        "equals the mean of the targets' logits with the sign changed",
        "Without the sum over the vocabulary the probabilities do not add to 1. The model could win by raising all "
        "logits.",
        "Where do the logits of the other tokens come in?",
        partial(varied, normaliser="none", largest="none"),
    ),
    Slip(
        "softmax-twice",
        "takes the softmax of a softmax",
        "Probabilities lie between 0 and 1, so a second softmax makes them nearly equal. The loss then cannot come "
        "near 0.",
        "Does your loss expect logits or probabilities, and which does it get?",
        partial(varied, twice=True),
    ),
    Slip(
        "no-logarithm",
        "equals the mean probability of the targets with its sign changed",
        "The logarithm makes a confident mistake expensive. Without it the gradient of such a mistake vanishes.",
        "Which function of the probability is the loss?",
        partial(varied, score="p"),
    ),
    Slip(
        "one-minus-p",
        "equals 1 less the mean probability of the targets",
        "That is an error rate, not a cross-entropy. The loss is a logarithm.",
        "Which function of the probability is the loss?",
        partial(varied, score="1 - p", sign=1),
    ),
    Slip(
        "binary",
        "adds a loss for every token that is not the target",
        "That is the loss of V separate yes-or-no questions. One token of V is a single question, and only the "
        "target's probability counts.",
        "How many logarithms belong to one position?",
        partial(varied, score="binary"),
    ),
    Slip(
        "most-likely-token",
        "takes the largest probability, not that of the target",
        "The targets have not been used. A model that is sure of the wrong token would have no loss.",
        "Which of the V probabilities counts?",
        partial(varied, score="largest"),
    ),
    Slip(
        "targets-from-one",
        "takes the token before the target",
        "Ids count from 0. The target is the index of its own logit.",
        "Which logit belongs to target 0?",
        partial(varied, of=1),
    ),
    Slip(
        "targets-shifted-again",
        "takes the target of the next position",
        "The targets are already one id later than the inputs. A second shift asks for the token after the next.",
        "Who shifts the targets?",
        partial(varied, of=2),
    ),
    Slip(
        "sign",
        "has the wrong sign",
        "Logarithms of probabilities are negative, and a loss is not. Training would make the model worse.",
        "Can a loss be below 0 here?",
        partial(varied, sign=1),
    ),
    Slip(
        "bits",
        "is in bits, not in nats",
        "The logarithm has base 2. With base e a guess among V equal tokens costs ln V.",
        "Which base has the logarithm?",
        partial(varied, log="2"),
    ),
    Slip(
        "bits-in-the-sum",
        "has a logarithm of base 2 of the sum, beside logits that are in nats",
        "The exponentials have base e, and only their own logarithm undoes them. Two bases in one formula fit nothing.",
        "Which base has the logarithm?",
        partial(varied, normaliser="log2 sum exp"),
    ),
    Slip(
        "base-10",
        "has a logarithm of base 10",
        "With base e a guess among V equal tokens costs ln V. The gradient has no further factor then.",
        "Which base has the logarithm?",
        partial(varied, log="10"),
    ),
    Slip(
        "sum",
        "is a sum over the tokens, not a mean",
        "A sum grows with the batch, and the learning rate would have to follow. The mean can be compared between "
        "batches.",
        "Does the loss change if the batch is written twice?",
        partial(varied, reduce="sum"),
    ),
    Slip(
        "sum-over-time",
        "is a sum over the last axis of the targets and a mean over the others",
        "Long sequences would have larger losses. All tokens count the same, so the mean goes over all of them.",
        "Over which axes is the mean?",
        partial(varied, reduce="sum over time"),
    ),
    Slip(
        "mean-over-the-vocabulary",
        "is divided by V as well",
        "One target in V counts, so the mean over a table with one entry in each row is V times too small. The mean "
        "goes over tokens.",
        "By which number is the sum divided?",
        partial(varied, reduce="over V too"),
    ),
    Slip(
        "not-reduced",
        "has a loss for each token, not their mean",
        "Training needs one number. It is the mean of these.",
        "Which shape should the result have?",
        partial(varied, reduce="none"),
    ),
    Slip(
        "last-position-only",
        "is the loss of the last position alone",
        "A window is as many examples as it has tokens. The mean goes over all positions.",
        "How many targets has a sequence of four tokens?",
        partial(varied, reduce="last"),
    ),
    Slip(
        "perplexity",
        "is the perplexity, the exponential of the loss",
        "Perplexity is what people read, and the loss is what is trained. Its gradient has another scale.",
        "What happens after the mean?",
        partial(varied, reduce="exp of mean"),
    ),
    Slip(
        "logarithm-of-the-mean",
        "takes the logarithm of the mean probability",
        "A mean of probabilities forgives a confident mistake. First the logarithms, then their mean.",
        "Which comes first, the mean or the logarithm?",
        partial(varied, reduce="log of mean"),
    ),
)

PIECE = Piece(
    "cross_entropy",
    "Cross-entropy",
    "The loss is the surprise at the true next token: -log of the probability that the model gave it.",
    (Function("cross_entropy", cross_entropy, _cases, SLIPS, vjp=reference.loss.cross_entropy_vjp),),
)
