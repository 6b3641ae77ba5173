"""The slips of AdamW in piece 18: of the moments, their correction, the direction and the decay."""

from functools import partial
from typing import Any

import numpy as np

from ..piece import Slip


def varied(
    parameter: Any, gradient: Any, m: Any, v: Any, step: int, learning_rate: float, beta1: float, beta2: float,
    epsilon: float, weight_decay: float, *, decay: str = "decoupled", correct: str = "both", t: int = 0,
    epsilon_at: str = "behind the root", exchanged: bool = False, m_beta: int = 1, v_beta: int = 2,
    m_correction: int = 1, v_correction: int = 2, first: str = "mean", second: str = "g^2",
    direction: str = "new m", sign: int = -1, returns: str = "moments",
) -> tuple[Any, Any, Any]:  # fmt: skip
    """`adamw_update` with the mistakes that the keywords choose."""
    p, g, old_m, old_v = (np.asarray(x) for x in (parameter, gradient, m, v))
    betas = (0.0, beta2, beta1) if exchanged else (0.0, beta1, beta2)
    b1, b2 = betas[m_beta], betas[v_beta]
    if decay in ("in the gradient", "twice"):
        g = g + weight_decay * p
    m = {"mean": b1 * old_m + (1 - b1) * g, "sum": b1 * old_m + g, "turned": (1 - b1) * old_m + b1 * g}[first]
    squares = {"g": g, "m^2": m**2, "mean square": (g**2).mean()}.get(second, g**2)
    v = b2 * old_v + (1 - b2) * squares
    v = {"sum": b2 * old_v + g**2, "turned": (1 - b2) * old_v + b2 * g**2}.get(second, v)
    factor1 = 1 - betas[m_correction] ** (step + t) if correct in ("both", "m") else 1.0
    factor2 = 1 - betas[v_correction] ** (step + t) if correct in ("both", "v") else 1.0
    with np.errstate(all="ignore"):
        m_hat, v_hat = m / factor1, v / factor2
        root = {
            "behind the root": np.sqrt(v_hat) + epsilon,
            "in the root": np.sqrt(v_hat + epsilon),
            "before the correction": (np.sqrt(v) + epsilon) / np.sqrt(factor2),
            "nowhere": np.sqrt(v_hat),
            "no root": v_hat + epsilon,
        }[epsilon_at]
        numerator = {"new m": m_hat, "old m": old_m / factor1, "g": g, "no division": m_hat}[direction]
        along = numerator if direction == "no division" else numerator / root
    moved = _decayed(p, along, learning_rate, weight_decay, decay, sign)
    return {"moments": (moved, m, v), "corrected": (moved, m_hat, v_hat), "old": (moved, old_m, old_v)}[returns]


def _decayed(p: Any, along: Any, learning_rate: float, weight_decay: float, decay: str, sign: int) -> Any:
    """The parameter after the step along a direction, with the decay at its place or at a wrong one."""
    stepped = p + sign * learning_rate * along
    ways = {
        "decoupled": stepped - learning_rate * weight_decay * p,
        "twice": stepped - learning_rate * weight_decay * p,
        "raised": stepped + learning_rate * weight_decay * p,
        "not times the rate": stepped - weight_decay * p,
        "of the new": stepped * (1 - learning_rate * weight_decay),
        "of the sign": stepped - learning_rate * weight_decay * np.sign(p),
    }
    return ways.get(decay, stepped)


DECAY_AND_MOMENT_SLIPS = (
    Slip(
        "no-bias-correction",
        "lacks the correction of both moments",
        "Both moments start at 0, so their first values are too small, the second far more than the first. The first "
        "steps have the wrong length.",
        "At step 1, which fraction of the gradient is in m?",
        partial(varied, correct="none"),
    ),
    Slip(
        "second-moment-not-corrected",
        "lacks the correction of the second moment",
        "The second moment starts at 0 and is too small at first. Steps are then too long.",
        "Which of the two moments do you correct?",
        partial(varied, correct="m"),
    ),
    Slip(
        "first-moment-not-corrected",
        "lacks the correction of the first moment",
        "The first moment starts at 0 and is too small at first. Steps are then too short.",
        "Which of the two moments do you correct?",
        partial(varied, correct="v"),
    ),
    Slip(
        "step-one-early",
        "corrects as if steps counted from 0",
        "At the first step the correction is then a division by 0. Step 1 is the first, and it has one gradient in it.",
        "What is the exponent at the first step?",
        partial(varied, t=-1),
    ),
    Slip(
        "step-one-late",
        "corrects with the exponent step + 1",
        "The step is already counted from 1. At step 1 the corrected m must equal the gradient.",
        "What is the exponent at the first step?",
        partial(varied, t=1),
    ),
    Slip(
        "corrected-moments-returned",
        "returns the corrected moments",
        "The next step would correct them again. The correction is for this step's direction alone.",
        "Which m does the next step need?",
        partial(varied, returns="corrected"),
    ),
    Slip(
        "old-moments-returned",
        "returns the moments as they came in",
        "Then nothing is remembered from step to step. The new moments are part of the result.",
        "Which m does the next step need?",
        partial(varied, returns="old"),
    ),
    Slip(
        "decay-in-the-gradient",
        "adds the decay to the gradient",
        "That is Adam with an L2 penalty, whose decay is divided by the root of v like a gradient. In AdamW the "
        "decay is decoupled from the moments.",
        "Do the moments see the decay?",
        partial(varied, decay="in the gradient"),
    ),
    Slip(
        "decay-in-both-places",
        "has the decay in the gradient and in the step",
        "One decay is enough, and it belongs to the step. In the gradient it passes through the moments as well.",
        "How often is the parameter multiplied by the decay?",
        partial(varied, decay="twice"),
    ),
    Slip(
        "decay-with-the-wrong-sign",
        "has the decay added with the wrong sign",
        "Parameters then grow at every step. Decay pulls them towards 0.",
        "With gradient 0, does the parameter become smaller or larger?",
        partial(varied, decay="raised"),
    ),
    Slip(
        "decay-without-learning-rate",
        "has a decay that is not multiplied by the learning rate",
        "With the usual 0.1 a tenth of every parameter would vanish at each step. The decay follows the learning rate.",
        "With gradient 0, by how much does the parameter shrink?",
        partial(varied, decay="not times the rate"),
    ),
    Slip(
        "decay-of-the-new-parameter",
        "takes the decay of the parameter after the step",
        "The decay is a part of the same step, and is taken of the parameter as it came in. The difference is small, "
        "but it is there.",
        "Which parameter is multiplied by the decay?",
        partial(varied, decay="of the new"),
    ),
    Slip(
        "decay-forgotten",
        "lacks the decay",
        "Without it this is Adam. Decay keeps the weights of a long training small.",
        "Which argument is not used?",
        partial(varied, decay="none"),
    ),
    Slip(
        "decay-of-the-sign",
        "has a decay of the same size for every parameter",
        "That is an L1 penalty, which pushes small numbers to 0. The decay is in proportion to the parameter.",
        "Does a large parameter shrink more than a small one?",
        partial(varied, decay="of the sign"),
    ),
    Slip(
        "betas-exchanged",
        "has beta1 and beta2 exchanged",
        "beta1 is the memory of the gradient, beta2 that of its square, which is longer. Exchanged, the direction is "
        "late.",
        "Which beta belongs to m?",
        partial(varied, exchanged=True),
    ),
    Slip(
        "betas-exchanged-in-the-means",
        "has the betas exchanged in both moments, but not in their corrections",
        "beta1 is the memory of the gradient, beta2 that of its square. The corrections then no longer fit the "
        "moments.",
        "Which beta belongs to m?",
        partial(varied, m_beta=2, v_beta=1),
    ),
    Slip(
        "beta1-in-the-second-moment",
        "uses beta1 in the second moment",
        "The square needs the longer memory, or the scale of the step jumps with each batch. beta2 belongs to v.",
        "Compare the line of v with that of m.",
        partial(varied, v_beta=1),
    ),
    Slip(
        "beta1-in-the-second-correction",
        "corrects the second moment with beta1",
        "The correction undoes the start at 0, so it needs the same beta as the moment. beta2 belongs to v.",
        "Compare the two corrections.",
        partial(varied, v_correction=1),
    ),
    Slip(
        "beta2-in-the-first-moment",
        "uses beta2 in the first moment",
        "The direction then follows the gradients too slowly. beta1 belongs to m.",
        "Compare the line of m with that of v.",
        partial(varied, m_beta=2),
    ),
    Slip(
        "beta2-in-the-first-correction",
        "corrects the first moment with beta2",
        "The correction undoes the start at 0, so it needs the same beta as the moment. beta1 belongs to m.",
        "Compare the two corrections.",
        partial(varied, m_correction=2),
    ),
    Slip(
        "first-moment-sums",
        "adds up gradients in m without the factor 1 - beta1",
        "That is the momentum of SGD, ten times as large with 0.9. m is a mean, so its two weights add to 1.",
        "Do the weights of old and new add to 1?",
        partial(varied, first="sum"),
    ),
    Slip(
        "second-moment-sums",
        "adds up squares in v without the factor 1 - beta2",
        "v is a mean, so its two weights add to 1. A sum is many times as large.",
        "Do the weights of old and new add to 1?",
        partial(varied, second="sum"),
    ),
)
