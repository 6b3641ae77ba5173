"""More slips of AdamW: of its averages, its denominator and its direction."""

from functools import partial

from ..piece import Slip
from .adamw_slips import varied

DIRECTION_SLIPS = (
    Slip(
        "first-moment-weights-exchanged",
        "has the weights beta1 and 1 - beta1 exchanged",
        "The old mean keeps the large weight, so that it changes slowly. Here it is nearly forgotten at each step.",
        "Which weight belongs to the new gradient?",
        partial(varied, first="turned"),
    ),
    Slip(
        "second-moment-weights-exchanged",
        "has the weights beta2 and 1 - beta2 exchanged",
        "The old mean keeps the large weight, so that it changes slowly. Here it is nearly forgotten at each step.",
        "Which weight belongs to the new square?",
        partial(varied, second="turned"),
    ),
    Slip(
        "second-moment-of-g",
        "has a second moment of gradients, not of their squares",
        "Then v may be negative, and its root is no number. It measures how large gradients are, whatever their sign.",
        "What is averaged in v?",
        partial(varied, second="g"),
    ),
    Slip(
        "second-moment-of-m",
        "has a second moment of m, not of the gradient",
        "The square of a mean is smaller than the mean of squares. v is of the gradient itself.",
        "What is averaged in v?",
        partial(varied, second="m^2"),
    ),
    Slip(
        "one-second-moment-for-all",
        "has the mean square of the whole array in every element of v",
        "Adam gives each number a step size of its own. One for the whole array loses that.",
        "Does v have a different number for each parameter?",
        partial(varied, second="mean square"),
    ),
    Slip(
        "epsilon-in-the-root",
        "has epsilon under the root",
        "The root makes a small epsilon much larger: 1e-8 becomes 1e-4. It is added after the root.",
        "Which comes first, the root or epsilon?",
        partial(varied, epsilon_at="in the root"),
    ),
    Slip(
        "epsilon-before-the-correction",
        "has epsilon added before the second moment is corrected",
        "Some libraries do this, and their epsilon means something else at each step. Here it is added to the "
        "corrected root.",
        "Is the root that epsilon is added to already corrected?",
        partial(varied, epsilon_at="before the correction"),
    ),
    Slip(
        "no-epsilon",
        "lacks epsilon",
        "Where a gradient has always been 0 this divides by 0. Epsilon is added to the root.",
        "Which argument is not used?",
        partial(varied, epsilon_at="nowhere"),
    ),
    Slip(
        "no-root",
        "divides by the second moment, not by its root",
        "A gradient over its square has the wrong unit: small gradients would give huge steps. The root makes it "
        "about 1.",
        "If all gradients double, should the step change?",
        partial(varied, epsilon_at="no root"),
    ),
    Slip(
        "no-division",
        "moves along m alone",
        "That is SGD with momentum. Adam divides by the size that the gradients of each parameter usually have.",
        "Where is v used?",
        partial(varied, direction="no division"),
    ),
    Slip(
        "old-first-moment-used",
        "moves along the m of the step before",
        "At the first step that is 0, and nothing moves. The gradient of this step is part of the direction.",
        "Is m updated before or after it is used?",
        partial(varied, direction="old m"),
    ),
    Slip(
        "gradient-without-memory",
        "moves along the gradient, not along m",
        "That is RMSProp. The first moment smooths the direction over several batches.",
        "Where is m used?",
        partial(varied, direction="g"),
    ),
    Slip(
        "uphill",
        "moves along the gradient, not against it",
        "The gradient points to where the loss grows. The step goes the other way.",
        "With which sign does the direction come in?",
        partial(varied, sign=1),
    ),
)
