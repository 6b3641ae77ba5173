"""Looking inside a model, and changing what it computes there.

    clean = jaxllm.look(model, params, tokens, targets)  # logits, intermediates, and gradients at them
    jaxllm.look(model, params, other_tokens, patch={"block_2": clean.intermediates["block_2"]})
    jaxllm.look(model, params, tokens, patch={"block_2": lambda x: x + direction})

The second is activation patching (Vig et al. 2020, section 3; Meng et al. 2022, section 2), the third steering (Turner
et al. 2023).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import unwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import module as linen
from jaxtyping import Int

from jaxllm.array import Array
from jaxllm.gpt import GPT, apply_with_intermediates, interceptors
from jaxllm.loss import cross_entropy
from jaxllm.utils.errors import InputError, nearest, shown

Change = Callable[[Any], Any]


class Look(NamedTuple):
    """What `look` returns."""

    logits: Array  # [B, T, V]
    intermediates: dict[str, Array]
    gradients: dict[str, Array] | None  # of the mean loss at each intermediate; None without targets


def look(
    model: GPT, params: Any, tokens: Int[Array, "B T"], targets: Int[Array, "B T"] | None = None,
    patch: Mapping[str, Any] | None = None, rngs: Any = None,
) -> Look:  # fmt: skip
    """The logits of tokens, every intermediate, and with targets the gradient of the mean loss at each of them.

    Names, shapes and dtypes are those of `jaxllm.gpt.apply_with_intermediates`. `patch` maps a name to an array that
    replaces what the model computed there, or to a function that returns it for the value computed. What follows is
    computed from the replacement, and the intermediate of that name is the replacement. Results are differentiable in
    `params` and in all that a patch is made of. `jit`, `vmap` and, within `jaxllm.fast.off()`, `jvp` work as for
    `model.apply`. `rngs` are those of `apply`: a key for "dropout" makes dropout active.

    Interceptors that are active stay so: a patch replaces what they return. With targets, or with a patch of its
    weights, attention is computed from the weights, as in `jaxllm.attention.scaled_dot_product_attention`; otherwise as
    `model.apply` computes it. The difference is rounding.

    Raises InputError for a name that no intermediate has, for a patch of another shape or dtype, for a model with
    `nn.jit(Block)`, whose blocks share one trace, and for tokens as `model.apply` does.
    """

    def seen(changes: Mapping[str, Change]) -> tuple[Array, dict[str, Array]]:
        with _intercepting_last(partial(_change, changes)):
            return apply_with_intermediates(model, params, tokens, rngs)

    shapes = jax.eval_shape(lambda: seen({})[1]) if patch or targets is not None else {}
    changes = {name: _checked_change(name, new, shapes) for name, new in (patch or {}).items()}
    if targets is None:
        return Look(*seen(changes), None)

    def loss(shifts: dict[str, Array]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        """The gradient at a zero added to an intermediate is the gradient at the intermediate."""
        logits, intermediates = seen({name: partial(_shifted, changes.get(name), shifts[name]) for name in shifts})
        return cross_entropy(logits, targets), (logits, intermediates)

    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    gradients, (logits, intermediates) = jax.grad(loss, has_aux=True)(zeros)
    return Look(logits, intermediates, gradients)


def _shifted(change: Change | None, shift: Array, x: Array) -> Array:
    return (x if change is None else change(x)) + shift


def _checked_change(name: str, new: Any, shapes: Mapping[str, Any]) -> Change:
    """What a patch gives for a name, as a function of what the model computed. Raises InputError."""
    if name not in shapes:
        raise InputError(f"patch names {shown(name)}, but no intermediate has that name; {nearest(str(name), shapes)}")

    def change(x: Array) -> Array:
        y = new(x) if callable(new) else new
        try:
            y = jnp.asarray(y)
        except (TypeError, ValueError):
            raise InputError(
                f"the patch of {name} is a {type(y).__name__}, but it must be an array {_described(x)}, or a function "
                "that returns one."
            ) from None
        if _described(y) != _described(x):
            raise InputError(
                f"the patch of {name} is {_described(y)}, but the model computes {_described(x)} there; give an array "
                "of that shape and dtype, or a function that returns one."
            )
        return y

    return change


def _described(x: Array) -> str:
    return f"{x.dtype} {list(x.shape)}"


def _change(changes: Mapping[str, Change], call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """An interceptor that changes the results of the modules that are named, not those of their `super().__call__`."""
    y, name = call(*args, **kwargs), "/".join(context.module.path) or "logits"
    whole = unwrap(context.orig_method.func) is unwrap(type(context.module).__call__)
    if not whole or name not in changes:
        return y
    return (changes[name](y[0]), *y[1:]) if isinstance(y, tuple) else changes[name](y)  # x, without a block's carry


@contextmanager
def _intercepting_last(interceptor: Any) -> Iterator[None]:
    """`nn.intercept_methods` around the interceptors that are active, where flax's own would be inside them."""
    inside = interceptors()[::-1]
    for _ in inside:
        linen._global_interceptor_stack.pop()
    try:
        with ExitStack() as stack:
            for one in (interceptor, *inside):
                stack.enter_context(nn.intercept_methods(one))
            yield
    finally:
        for one in inside:
            linen._global_interceptor_stack.push(one)
