"""Any function of JAX, or Linen module, beside a function of NumPy: values and gradients."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.compare.calls import by_position, cast, cotangent, in_float64, vjp_in_float64
from jaxllm.compare.finite_differences import ACCURACY, along_directions
from jaxllm.compare.measure import Comparison, compare_trees
from jaxllm.compare.report import Report
from jaxllm.compare.scales import scales_of_vanishing
from jaxllm.compare.tolerances import TOLERANCES, arithmetic
from jaxllm.compare.trees import is_float, named_leaves, to_numpy
from jaxllm.utils.errors import InputError


def assert_close_to_reference(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """The report of `compare_function` if value and gradients of `fn` agree with the reference.

    Raises AssertionError with the report's table if they do not, InputError or ValueError if the two cannot be
    compared.
    """
    report = compare_function(
        fn, reference_fn, args, kwargs=kwargs, reference_vjp=reference_vjp, dtype=dtype, tolerance=tolerance,
        gradient_tolerance=gradient_tolerance, seed=seed,
    )  # fmt: skip
    if not report.passed:
        raise AssertionError(f"fn differs from reference_fn:\n{report}")
    return report


def compare_function(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """The report of value and gradients of `fn` against a reference in NumPy.

    `fn` is a JAX function, or a Linen module, whose first argument is its parameters. `args` is the list of arguments:
    arrays, pytrees of arrays, and constants of any type; `kwargs` are arguments by name. Arrays of floats are cast to
    `dtype` for `fn`. `reference_fn` gets the same numbers in float64; if it is a function of JAX, it computes in
    float64. A result may be a pytree; a dataclass that is not registered with JAX counts as the dict of its fields.
    Results other than floats must be equal.

    Gradients are taken with respect to the arrays of floats; a Python number is a constant (`np.asarray(0.7)` is an
    array). They are gradients of the sum of the result times random numbers drawn from `seed`. They are compared with
    `reference_vjp(*args, **kwargs) -> (out, pullback)`, which has the form of `jax.vjp`: the pullback returns one
    gradient for each argument, those of `kwargs` last, and None where there is no derivative. Without `reference_vjp`
    they are compared with finite differences of `reference_fn` along a few random directions, whose relative accuracy
    is 1e-8 where the function is smooth.

    Errors are relative to the largest value of each tensor; the gradient of a parameter that vanishes but for rounding
    (a key's bias) is measured on the scale of its module. `tolerance` and `gradient_tolerance` are `TOLERANCES[dtype]`
    by default, and at least 1e-8 against differences. Raises InputError or ValueError if the two cannot be compared.
    """
    _check_arguments(args, kwargs, tolerance, gradient_tolerance)
    names = list(kwargs or {})
    labels = [*map(str, range(len(args))), *names]
    with arithmetic(dtype):
        ours = [jax.tree.map(lambda x: cast(x, dtype), a) for a in (*args, *(kwargs or {}).values())]
        got, pullback = _vjp(by_position(fn, names), ours)
        cotangents = jax.tree.map(partial(cotangent, rng=np.random.default_rng(seed)), got)
        gradients = pullback(cotangents)
    bound, gradient_bound = TOLERANCES[dtype]
    exact = in_float64(reference_fn, names)
    rows = _compare_values(got, exact(*to_numpy(ours)), bound if tolerance is None else tolerance, dtype)
    if not any(map(is_float, jax.tree.leaves(got))) or not all(math.isfinite(row.relative) for row in rows):
        return Report.of(dtype, rows)  # no derivative, or no finite one
    if reference_vjp is None:
        gradient_bound = max(gradient_bound, ACCURACY) if gradient_tolerance is None else gradient_tolerance
        for i, gradient in gradients.items():
            root = f"argument {labels[i]}"
            rows.append(along_directions(exact, ours, i, root, gradient, cotangents, gradient_bound, dtype, seed))
    else:
        gradient_bound = gradient_bound if gradient_tolerance is None else gradient_tolerance
        backward = vjp_in_float64(reference_vjp, names)
        wanted = _reference_gradients(backward, exact, ours, cotangents, labels, set(gradients))
        for i, gradient in gradients.items():
            root = f"argument {labels[i]}"
            scales = scales_of_vanishing(wanted[i], root)
            rows += compare_trees("gradient", gradient, wanted[i], gradient_bound, dtype, root, scales)
    return Report.of(dtype, rows)


def _check_arguments(args: Any, kwargs: Any, tolerance: float | None, gradient_tolerance: float | None) -> None:
    if not isinstance(args, list | tuple):
        raise InputError(f"args is one {type(args).__name__}, but it must be the list of arguments: write [x].")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs is a {type(kwargs).__name__}, but it must be a dict of arguments by name.")
    for name, given in (("tolerance", tolerance), ("gradient_tolerance", gradient_tolerance)):
        if given is not None and not given >= 0:
            raise InputError(f"{name} is {given}, but it must be 0 or more.")


def _vjp(function: Callable[..., Any], args: list[Any]) -> tuple[Any, Callable[[Any], dict[int, Any]]]:
    """`jax.vjp` with respect to the arrays of floats alone, wherever in the arguments they are.

    The pullback returns a dict: for the place of each argument with such arrays, a tree like it, None for constants.
    """
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(args)
    variable = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def of_variables(*arrays: Any) -> Any:
        given = dict(zip(variable, arrays, strict=True))
        out = function(*structure.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)]))
        return jax.tree.map(jnp.asarray, out)

    out, pullback = jax.vjp(of_variables, *[leaves[i] for i in variable])
    if not jax.tree.leaves(out) or any(jnp.issubdtype(y.dtype, jnp.complexfloating) for y in jax.tree.leaves(out)):
        raise InputError("fn must return arrays of real numbers, integers or bools, at least one.")

    def gradients(dy: Any) -> dict[int, Any]:
        given = dict(zip(variable, pullback(dy), strict=True))
        trees = structure.unflatten([given.get(i) for i in range(len(leaves))])
        return {i: tree for i, tree in enumerate(trees) if jax.tree.leaves(tree)}

    return out, gradients


def _compare_values(got: Any, want: Any, tolerance: float, dtype: str) -> list[Comparison]:
    """Comparisons of the leaves of the result: floats within tolerance, all others equal."""
    floats = {name for name, y in named_leaves(got, "result").items() if is_float(y)}
    rows = compare_trees("value", got, want, tolerance, dtype, "result")
    return [row if row.name in floats else replace(row, tolerance=0.0) for row in rows]


def _reference_gradients(
    reference_vjp: Callable[..., Any], reference_fn: Callable[..., Any], args: Any, cotangents: Any,
    labels: list[str], compared: set[int],
) -> Any:  # fmt: skip
    """The gradients by `reference_vjp`, one for each argument. Raises ValueError if it contradicts `reference_fn`."""
    out, pullback = reference_vjp(*to_numpy(args))
    for row in compare_trees("", out, reference_fn(*to_numpy(args)), TOLERANCES["float64"][0], "float64", "result"):
        if not row.passed:
            raise ValueError(
                f"reference_vjp returns another {row.name} than reference_fn, off by {row.relative:.1e} of its largest "
                "value; both must compute the same function."
            )
    gradients = pullback(to_numpy(cotangents))
    if not isinstance(gradients, list | tuple) or len(gradients) != len(args):
        raise ValueError(
            f"the pullback of reference_vjp must return a tuple of {len(args)} gradients, one for each argument, "
            f"those by name last, and None where there is no derivative, but it returned {_number(gradients)}."
        )
    for i, gradient in enumerate(gradients):
        if gradient is None and i in compared:
            raise ValueError(f"reference_vjp gives None for argument {labels[i]}, which holds an array of floats.")
        if i not in compared and jax.tree.leaves(gradient):
            raise ValueError(
                f"reference_vjp gives a gradient for argument {labels[i]}, which is not an array of floats; pass it as "
                "one, for example np.asarray(0.7), or return None."
            )
    return gradients


def _number(gradients: Any) -> str:
    return str(len(gradients)) if isinstance(gradients, list | tuple) else f"one {type(gradients).__name__}"
