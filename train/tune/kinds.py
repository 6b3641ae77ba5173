"""What each `tune.kind` minimises."""

from ..config import RunConfig
from ..objective import Objective, next_token
from .objectives import objective


def objective_of(config: RunConfig) -> Objective:
    """The objective of a run's step."""
    if config.tune.kind == "pretrain":
        return next_token(config.train)
    return objective(config.tune.kind, config.tune.beta)
