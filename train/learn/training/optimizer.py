"""A learner's `clip_gradients` and `adamw_update` as an optimizer of a config, an Optax transformation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxllm.utils.errors import InputError

from ...config import OptimizerConfig
from .callbacks import NumpyArrays, Watch

EPSILON = 1e-8  # of Adam, as in ours
Named = dict[str, Any]  # arrays by the paths of parameters, such as "block_0/mlp/up/kernel"
Numbers = dict[str, float]  # the settings of AdamW by the names of the arguments, and "limit" of the gradient's norm


class CourseMoments(NamedTuple):
    """The state: how many updates there were, and the means of gradients and of their squares."""

    updates: Array
    mu: Named
    nu: Named


def optimizer_of(update: Callable[..., tuple[Named, Named, Named]]) -> Callable[..., optax.GradientTransformation]:
    """The optimizer `f(config, schedule)` of an update of all parameters at once. It clips by itself."""

    def adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
        numbers = {"beta1": config.beta1, "beta2": config.beta2, "epsilon": EPSILON, "limit": config.clip_norm}

        def init(params: Any) -> CourseMoments:
            zeros = jax.tree.map(jnp.zeros_like, flatten_dict(params, sep="/"))
            return CourseMoments(jnp.zeros((), jnp.int32), zeros, zeros)

        def step(gradients: Any, state: CourseMoments, params: Any = None) -> tuple[Any, CourseMoments]:
            old, count, rate = flatten_dict(params, sep="/"), state.updates + 1, schedule(state.updates)
            decay = {name: config.weight_decay if p.ndim >= 2 else 0.0 for name, p in old.items()}
            given = (old, flatten_dict(gradients, sep="/"), state.mu, state.nu)
            new, mu, nu = update(*given, count, rate, decay, numbers)
            changes = {name: (new[name] - p).astype(p.dtype) for name, p in old.items()}
            return unflatten_dict(changes, sep="/"), CourseMoments(count, mu, nu)

        return optax.GradientTransformation(init, step)

    adamw.clips = True  # type: ignore[attr-defined]
    return adamw


@dataclass(frozen=True)
class TracedUpdate:
    """The update by functions in JAX, or in any language on arrays of its own."""

    clip_gradients: Callable[..., Any]
    adamw_update: Callable[..., Any]

    def __call__(
        self, params: Named, gradients: Named, mu: Named, nu: Named, step: Any, rate: Any, decay: Named,
        numbers: Numbers,
    ) -> tuple[Named, Named, Named]:  # fmt: skip
        """New parameters and moments, in the dtypes of the old ones."""
        numbers = dict(numbers)
        clipped = self.clip_gradients(gradients, numbers.pop("limit"))
        new: tuple[Named, Named, Named] = {}, {}, {}
        for name, p in params.items():
            results = self.adamw_update(
                p, clipped[name], mu[name], nu[name], step=step, learning_rate=rate, weight_decay=decay[name], **numbers
            )
            for tree, result in zip(new, results, strict=True):
                tree[name] = result
        return new


class CalledUpdate:
    """The same by functions in NumPy or PyTorch, which XLA calls back once a step."""

    def __init__(
        self, clip_gradients: Callable[..., Any], adamw_update: Callable[..., Any], arrays: NumpyArrays, watch: Watch
    ) -> None:
        self._update, self._arrays, self._watch = TracedUpdate(clip_gradients, adamw_update), arrays, watch

    def __call__(
        self, params: Named, gradients: Named, mu: Named, nu: Named, step: Any, rate: Any, decay: Named,
        numbers: Numbers,
    ) -> tuple[Named, Named, Named]:  # fmt: skip
        """New parameters and moments, in the dtypes of the old ones."""
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, mu, nu))

        def called(trees: Any, step: Any, rate: Any) -> Any:
            try:
                p, g, m, v = jax.tree.map(lambda x: self._arrays.array(np.asarray(x)), trees)
                found = self._update(p, g, m, v, int(step), float(rate), decay, numbers)
                return jax.tree.map(self._result, found, like)
            except Exception as error:
                self._watch.failed("training_step", error)
                return jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), like)

        found: Any = jax.pure_callback(called, like, (params, gradients, mu, nu), step, rate)
        return tuple(found)

    def _result(self, found: Any, like: Any) -> Any:
        found = self._arrays.plain(found)
        if found.shape != like.shape:
            raise InputError(f"adamw_update returned shape {found.shape}, but it must return {like.shape}.")
        return found.astype(like.dtype)
