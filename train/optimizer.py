"""The optimizer and its learning-rate schedule: what a config's [optimizer] section selects by name.

Every optimizer makes the update -lr (direction + weight_decay p), with the decay for matrices only, so that the fields
of the section mean the same for each. `width_ratio` is the model's m (`GPTConfig.width_ratio`): the directions of the
blocks' matrices are divided by m, or Muon's by sqrt(m), as if their learning rate were. The decay is not, so that
lr weight_decay means the same at every width (Dey et al. 2025, table 1).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxllm.utils.ideas import Idea, named

from .config import OptimizerConfig

MUON_RMS = 0.2  # the root mean square of Muon's direction, which is about that of AdamW's
# Tables and the head, and with vectors all that is no matrix of a block: AdamW's where Muon is chosen.
NOT_OF_BLOCKS = ("token_embedding", "ngram_embedding", "position_embedding", "head", "classifier")


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: the schedule named `config.schedule`, for a run of `steps` steps."""
    return named(config.schedule, SCHEDULES, "optimizer.schedule")(config, steps)


def make_optimizer(config: OptimizerConfig, steps: int, width_ratio: float = 1) -> optax.GradientTransformation:
    """Clip by the global norm, then the optimizer named `config.name` at the scheduled learning rate."""
    return optimizer_with(config, learning_rate_schedule(config, steps), width_ratio)


def optimizer_with(
    config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:
    """As `make_optimizer`, at the learning rates of another schedule.

    A user's function with an attribute `clips` that is true is given the gradients as they are.
    """
    rule = named(config.name, OPTIMIZERS, "optimizer.name")
    width = () if width_ratio == 1 else (width_ratio,)  # which RunConfig allows only for optimizers that take it
    if getattr(getattr(rule, "function", None), "clips", False):
        return rule(config, schedule, *width)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule(config, schedule, *width))


def cosine(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: the warm-up, then half a cosine down to the minimum, as in nanoGPT's train.py.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps

    def falling(now: Array) -> Array:
        done = jnp.clip((now - warmup) / (steps - warmup), 0, 1)
        return lowest + (highest - lowest) * (1 + jnp.cos(jnp.pi * done)) / 2

    return _after_warm_up(config, falling)


def linear(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: the warm-up, then a straight line down to the minimum."""
    return _after_warm_up(config, lambda now: _straight_down(config, config.warmup_steps, steps, now))


def wsd(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: warm-up, stable, decay (Hu et al. 2024, section 4.2).

    The decay is a straight line down to the minimum over the last `config.decay_share` of the steps; Hägele et al.
    2024, section 4, compare shapes and lengths.
    """
    begin = steps * (1 - config.decay_share)
    return _after_warm_up(config, lambda now: _straight_down(config, begin, steps, now))


def constant(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: the warm-up, then always `config.learning_rate`."""
    return _after_warm_up(config, lambda now: jnp.full_like(now, config.learning_rate))


def _after_warm_up(config: OptimizerConfig, rate: Callable[[Array], Array]) -> optax.Schedule:
    """Returns step -> learning rate: a linear warm-up from lr / (warmup + 1), then `rate(step)`.

    Written out because `optax.warmup_cosine_decay_schedule` subtracts the peak from the warm-up, which loses digits
    in float32.
    """

    def schedule(step: ArrayLike) -> Array:
        now = jnp.asarray(step, float)
        rising = config.learning_rate * (now + 1) / (config.warmup_steps + 1)
        return jnp.where(now < config.warmup_steps, rising, rate(now))

    return schedule


def _straight_down(config: OptimizerConfig, begin: float, end: int, now: Array) -> Array:
    """The rate on a line from `learning_rate` at step `begin` to `min_learning_rate` at step `end`, flat outside."""
    done = jnp.clip((now - begin) / (end - begin), 0, 1)
    return config.learning_rate + (config.min_learning_rate - config.learning_rate) * done


# By `optimizer.schedule`, whose values OptimizerConfig lists.
SCHEDULES: dict[str, Callable[[OptimizerConfig, int], optax.Schedule]] = {
    "cosine": cosine, "wsd": wsd, "linear": linear, "constant": constant,
}  # fmt: skip


def adamw(
    config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with weight decay on matrices only."""
    return _decayed(optax.scale_by_adam(config.beta1, config.beta2), config, schedule, width_ratio)


def muon(
    config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:  # fmt: skip
    """Muon (Jordan et al. 2024) for the matrices of the blocks and of their experts, AdamW for all other parameters.

    The direction of a matrix is its momentum made orthogonal, times 0.2 sqrt(longer side), so that its elements are as
    large as AdamW's and one learning rate serves both (Liu et al. 2025, equation 4). Its spectral norm grows as the
    root of the width, where AdamW's grows as the width (Yang, Simon and Bernstein 2023, condition 1: it must not grow).
    """
    direction = optax.chain(
        _scale_by_muon(config.momentum),
        optax.stateless_with_tree_map(lambda u, _: MUON_RMS * math.sqrt(max(u.shape[-2:])) * u),
    )
    of_blocks = _decayed(direction, config, schedule, width_ratio)
    return optax.partition({"muon": of_blocks, "adamw": adamw(config, schedule)}, _muon_or_adamw)


def _scale_by_muon(beta: float) -> optax.GradientTransformation:
    """`optax.contrib.scale_by_muon` of matrices, to rounding, with its state. All of one shape are made orthogonal
    together, which compiles to fewer operations. The momentum stays as it is stored: stacking would copy it."""
    init = optax.contrib.scale_by_muon(beta=beta).init

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = optax.safe_increment(state.count)
        momentum = optax.tree.update_moment(grads, state.mu, beta, 1)
        ahead = jax.tree.map(  # Nesterov's
            lambda m, g: beta * m + (1 - beta) * g,
            optax.tree.bias_correction(momentum, beta, optax.safe_increment(count)),
            optax.tree.bias_correction(grads, beta, count),
        )
        return _orthogonal(ahead), state._replace(count=count, mu=momentum)

    return optax.GradientTransformation(init, update)


def _orthogonal(matrices: Any) -> Any:
    """Each matrix made orthogonal by Newton and Schulz's steps: Muon's direction without momentum.

    A leaf of three dimensions is a stack of matrices, such as those of all experts.
    """
    leaves, structure = jax.tree.flatten(matrices)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, leaf in enumerate(leaves):
        alike.setdefault(leaf.shape[-2:], []).append(i)
    stacks = [jnp.concatenate([leaves[i].reshape(-1, *shape) for i in places]) for shape, places in alike.items()]
    of_stacks = optax.contrib.scale_by_muon(
        beta=0.0, nesterov=False, weight_dimension_numbers=[optax.contrib.MuonDimensionNumbers(1, 2)] * len(stacks)
    )
    directions, _ = of_stacks.update(stacks, of_stacks.init(stacks))
    for places, direction in zip(alike.values(), directions, strict=True):
        ends = np.cumsum([math.prod(leaves[i].shape[:-2]) for i in places])
        for i, part in zip(places, jnp.split(direction, ends[:-1]), strict=True):
            leaves[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, leaves)


def lion(
    config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:  # fmt: skip
    """Lion (Chen et al. 2023, algorithm 2): the sign of a mean of momentum and gradient."""
    return _decayed(optax.scale_by_lion(config.beta1, config.beta2), config, schedule, width_ratio)


def adafactor(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor without a first moment (Shazeer and Stern 2018, algorithms 4 and 5).

    The second moment of a matrix is kept as the means of its rows and columns. The learning rate is relative to the
    root mean square of a parameter. `optax.adafactor` would not multiply the weight decay by the learning rate.
    """
    direction = optax.chain(
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=1,
            decay_rate_fn=lambda count, exponent: 1 - jnp.asarray(count + 1, float) ** -exponent,
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    return _decayed(direction, config, schedule)


def sgd(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Gradient descent with momentum and decoupled weight decay (Loshchilov and Hutter 2019, algorithm 1)."""
    return _decayed(optax.trace(config.momentum) if config.momentum else optax.identity(), config, schedule)


def schedule_free_adamw(
    config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:  # fmt: skip
    """Schedule-free AdamW (Defazio et al. 2024, algorithm 1), whose averaged weights `eval.weights` takes.

    `optax.contrib.schedule_free` counts from 1 and would weigh a step by the next one's learning rate.
    """
    second_moment = optax.scale_by_rms(config.beta2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
    return optax.contrib.schedule_free(
        _decayed(second_moment, config, schedule, width_ratio), lambda count: schedule(count - 1), b1=config.beta1
    )


def _decayed(
    direction: optax.GradientTransformation, config: OptimizerConfig, schedule: optax.Schedule, width_ratio: float = 1
) -> optax.GradientTransformation:
    """The update -lr (direction + weight_decay p), with the decay for matrices only."""
    if width_ratio != 1:
        direction = _for_width(direction, width_scale(config, width_ratio))
    return optax.chain(
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
        optax.scale_by_learning_rate(schedule),
    )


def width_scale(config: OptimizerConfig, width_ratio: float) -> float:
    """The factor of the directions of the blocks' matrices: 1/m, of Muon 1/sqrt(m)."""
    return 1 / (math.sqrt(width_ratio) if config.name == "muon" else width_ratio)


def _for_width(direction: optax.GradientTransformation, scale: float) -> optax.GradientTransformation:
    """The same directions and state, but those of the blocks' matrices are multiplied by `scale`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        directions, state = direction.update(updates, state, params)
        return jax.tree.map(
            lambda of_block, d: d * scale if of_block else d, _is_of_blocks(directions), directions
        ), state

    return optax.GradientTransformation(direction.init, update)


class Rule(NamedTuple):
    """What updates a parameter."""

    optimizer: str
    weight_decay: float
    scale: float  # of the direction, which the width of the model decides


def rules(config: OptimizerConfig, params: Any, width_ratio: float = 1) -> Any:
    """For each parameter its `Rule`; None for each where a user's function decides."""
    if isinstance(config.name, Idea):
        return jax.tree.map(lambda _: None, params)
    names = _muon_or_adamw(params) if config.name == "muon" else jax.tree.map(lambda _: config.name, params)
    scale = width_scale(config, width_ratio)

    def rule(name: str, decayed: bool, of_block: bool) -> Rule:
        return Rule(name, config.weight_decay if decayed else 0.0, scale if of_block else 1.0)

    return jax.tree.map(rule, names, _is_matrix(params), _is_of_blocks(params))


def _is_matrix(params: Any) -> Any:
    """For each parameter whether it has two dimensions or more."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def _is_of_blocks(params: Any) -> Any:
    """For each parameter whether it is a matrix of the blocks, or one for each expert: no vector, table or head."""

    def decide(path: Any, p: Any) -> bool:
        part = jax.tree_util.keystr(path, simple=True, separator="/").partition("/")[0]
        return p.ndim >= 2 and part not in NOT_OF_BLOCKS

    return jax.tree_util.tree_map_with_path(decide, params)


def _muon_or_adamw(params: Any) -> Any:
    """For each parameter the name of the optimizer that `muon` gives it."""
    return jax.tree.map(lambda of_block: "muon" if of_block else "adamw", _is_of_blocks(params))


# By `optimizer.name`, whose values OptimizerConfig lists.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw, "muon": muon, "lion": lion, "adafactor": adafactor, "sgd": sgd,
    "schedule_free_adamw": schedule_free_adamw,
}  # fmt: skip
