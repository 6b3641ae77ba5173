"""Any function of JAX, or Linen module, beside a function of NumPy or recorded numbers: values and gradients."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.compare.calls import by_position, cast, cotangent, in_float64, opened, registered, vjp_in_float64
from jaxllm.compare.few_digits import EXPLAINS, few_digits, off_the_grid, with_cause
from jaxllm.compare.finite_differences import ACCURACY, along_directions
from jaxllm.compare.measure import MOST, Comparison, compare_trees, held_to_nothing
from jaxllm.compare.report import Report
from jaxllm.compare.scales import scales_of_vanishing
from jaxllm.compare.tolerances import TOLERANCES, arithmetic
from jaxllm.compare.trees import is_float, named_leaves, to_numpy
from jaxllm.utils.errors import InputError, listed


def assert_close_to_reference(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Any,
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    gradients: bool = True,
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
        fn, reference_fn, args, kwargs=kwargs, reference_vjp=reference_vjp, gradients=gradients, dtype=dtype,
        tolerance=tolerance, gradient_tolerance=gradient_tolerance, seed=seed,
    )  # fmt: skip
    if not report.passed:
        raise AssertionError(f"fn differs from reference_fn:\n{report}")
    return report


def compare_function(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Any,
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    gradients: bool = True,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """The report of value and gradients of `fn` against a reference in NumPy, or of values against recorded numbers.

    `fn` is a JAX function, or a Linen module, whose first argument is its parameters. `args` is the list of arguments:
    arrays, pytrees of arrays, dataclasses, and constants of any type; `kwargs` are arguments by name. Arrays of floats
    are cast to `dtype` for `fn`. `reference_fn` gets the same numbers in float64; if it is a function of JAX, it
    computes in float64. A result may be a pytree; a dataclass that is not registered with JAX counts as the dict of its
    fields. Results other than floats must be equal.

    In place of a function, `reference_fn` may be what another program has computed: an array, or a pytree of arrays
    with the names of the results (`jaxllm.compare.recorded` reads one). Values alone are compared then, and results
    that were not recorded are held to nothing.

    Gradients are taken with respect to the arrays of floats; a Python number is a constant (`np.asarray(0.7)` is an
    array). They are gradients of the sum of the result times random numbers drawn from `seed`. They are compared with
    `reference_vjp(*args, **kwargs) -> (out, pullback)`, which has the form of `jax.vjp`: the pullback returns one
    gradient for each argument, those of `kwargs` last, and None where there is no derivative. Without `reference_vjp`
    they are compared with finite differences of `reference_fn` along a few random directions, whose relative accuracy
    is 1e-8 where the function is smooth. With `gradients=False` none is computed, so `fn` need not have any.

    Errors are relative to the largest value of each tensor; the gradient of a parameter that vanishes but for rounding
    (a key's bias) is measured on the scale of its module. `tolerance` and `gradient_tolerance` are `TOLERANCES[dtype]`
    by default, and at least 1e-8 against differences. A note says where a reference in float32 or less explains an
    error. Raises InputError or ValueError if the two cannot be compared.
    """
    _check_arguments(args, kwargs, tolerance, gradient_tolerance)
    recorded = not callable(reference_fn)
    if reference_vjp is not None and (recorded or not gradients):
        why = "reference_fn is recorded numbers, which have no gradient" if recorded else "gradients is False"
        raise InputError(f"reference_vjp is given, but {why}; leave reference_vjp out.")
    names, given = list(kwargs or {}), [*args, *(kwargs or {}).values()]
    with arithmetic(dtype):
        ours = [jax.tree.map(partial(cast, dtype=dtype), opened(a)) for a in given]
        got, pullback = _values(by_position(fn, names, given), ours, gradients and not recorded)
        cotangents = jax.tree.map(partial(cotangent, rng=np.random.default_rng(seed)), got)
        derivatives = pullback(cotangents)
    bound, gradient_bound = TOLERANCES[dtype]
    bound = bound if tolerance is None else tolerance
    if recorded:
        return Report.of(dtype, _compare_recorded(got, reference_fn, bound, dtype))
    exact = in_float64(reference_fn, names, given)
    rows = _compare_values(got, exact(*to_numpy(ours)), bound, dtype)
    rows = with_cause(rows, lambda: exact(*off_the_grid(to_numpy(ours), seed)))
    if not any(map(is_float, jax.tree.leaves(got))) or not all(math.isfinite(row.relative) for row in rows):
        return Report.of(dtype, rows)  # no derivative, or no finite one
    labels = [f"argument {label}" for label in (*map(str, range(len(args))), *names)]
    backward = reference_vjp and vjp_in_float64(reference_vjp, names, given)
    if gradient_tolerance is None:
        gradient_tolerance = gradient_bound if backward else max(gradient_bound, ACCURACY)
    rows += _compare_gradients(exact, backward, ours, derivatives, cotangents, labels, gradient_tolerance, dtype, seed)
    return Report.of(dtype, rows)


def _compare_gradients(
    exact: Callable[..., Any], backward: Callable[..., Any] | None, ours: list[Any], derivatives: dict[int, Any],
    cotangents: Any, labels: list[str], tolerance: float, dtype: str, seed: int,
) -> list[Comparison]:  # fmt: skip
    """Comparisons of the derivatives, by the place of their argument, with `backward` or else with differences."""
    if backward is None:
        return [
            along_directions(exact, ours, i, labels[i], derivative, cotangents, tolerance, dtype, seed)
            for i, derivative in derivatives.items()
        ]
    wanted = _reference_gradients(backward, exact, ours, cotangents, labels, set(derivatives))
    rows = []
    for i, derivative in derivatives.items():
        scales = scales_of_vanishing(wanted[i], labels[i])
        rows += compare_trees("gradient", derivative, wanted[i], tolerance, dtype, labels[i], scales)

    def off_grid() -> Any:
        return backward(*off_the_grid(to_numpy(ours), seed))[1](off_the_grid(to_numpy(cotangents), seed))

    return with_cause(rows, off_grid, "reference_vjp is")


def _check_arguments(args: Any, kwargs: Any, tolerance: float | None, gradient_tolerance: float | None) -> None:
    if not isinstance(args, list | tuple):
        raise InputError(f"args is one {type(args).__name__}, but it must be the list of arguments: write [x].")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs is a {type(kwargs).__name__}, but it must be a dict of arguments by name.")
    for name, given in (("tolerance", tolerance), ("gradient_tolerance", gradient_tolerance)):
        if given is not None and not given >= 0:
            raise InputError(f"{name} is {given}, but it must be 0 or more.")


def _values(
    function: Callable[..., Any], args: list[Any], differentiate: bool
) -> tuple[Any, Callable[[Any], dict[int, Any]]]:
    """The result, and its pullback; one without gradients unless `differentiate`.

    Raises InputError for a result that cannot be compared.
    """
    if differentiate:
        out, pullback = _vjp(function, args)
    else:
        out, pullback = jax.tree.map(jnp.asarray, function(*args)), lambda dy: {}
    if not jax.tree.leaves(out) or any(jnp.issubdtype(y.dtype, jnp.complexfloating) for y in jax.tree.leaves(out)):
        raise InputError("fn must return arrays of real numbers, integers or bools, at least one.")
    return out, pullback


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

    def gradients(dy: Any) -> dict[int, Any]:
        given = dict(zip(variable, pullback(dy), strict=True))
        trees = structure.unflatten([given.get(i) for i in range(len(leaves))])
        return {i: tree for i, tree in enumerate(trees) if jax.tree.leaves(tree)}

    return out, gradients


def _compare_recorded(got: Any, recorded: Any, tolerance: float, dtype: str) -> list[Comparison]:
    """Comparisons with recorded numbers; results that were not recorded are held to nothing.

    Raises InputError for numbers that are recorded under names that no result has.
    """
    if isinstance(recorded, str | Path):
        raise InputError(f"reference_fn is {str(recorded)!r}; read a file of numbers by jaxllm.compare.recorded.")
    wanted = jax.tree.map(np.asarray, registered(recorded))
    ours, theirs = named_leaves(got, "result"), named_leaves(wanted, "result")
    if unknown := [name for name in theirs if name not in ours]:
        raise InputError(
            f"the recorded numbers are named {listed(unknown)}, but fn returns {listed(ours, MOST)}; give them those "
            "names."
        )
    if not theirs:
        raise InputError(f"nothing is recorded, but fn returns {listed(ours)}; give an array or a dict of arrays.")
    rows = _compare_values({name: ours[name] for name in theirs}, theirs, tolerance, dtype, root="")
    rows = with_cause(rows, lambda: wanted, "the recorded numbers are", "record them in float64")
    return rows + held_to_nothing("value", {name: y for name, y in ours.items() if name not in theirs}, "not recorded")


def _compare_values(got: Any, want: Any, tolerance: float, dtype: str, root: str = "result") -> list[Comparison]:
    """Comparisons of the leaves of the result: floats within tolerance, all others equal."""
    floats = {name for name, y in named_leaves(got, root).items() if is_float(y)}
    rows = compare_trees("value", got, want, tolerance, dtype, root)
    return [row if row.name in floats else replace(row, tolerance=0.0) for row in rows]


def _reference_gradients(
    reference_vjp: Callable[..., Any], reference_fn: Callable[..., Any], args: Any, cotangents: Any,
    labels: list[str], compared: set[int],
) -> Any:  # fmt: skip
    """The gradients by `reference_vjp`, one for each argument. Raises ValueError if it contradicts `reference_fn`."""
    out, pullback = reference_vjp(*to_numpy(args))
    for row in compare_trees("", out, reference_fn(*to_numpy(args)), TOLERANCES["float64"][0], "float64", "result"):
        if not row.passed:
            narrow = few_digits(out) if row.relative <= max(EXPLAINS.values()) else None
            raise ValueError(
                f"reference_vjp returns another {row.name} than reference_fn, off by {row.relative:.1e} of its largest "
                "value; both must compute the same function"
                + (f", and the result of reference_vjp is in {narrow}: let it compute in float64." if narrow else ".")
            )
    gradients = pullback(to_numpy(cotangents))
    if not isinstance(gradients, list | tuple) or len(gradients) != len(args):
        raise ValueError(
            f"the pullback of reference_vjp must return a tuple of {len(args)} gradients, one for each argument, "
            f"those by name last, and None where there is no derivative, but it returned {_number(gradients)}."
        )
    for i, gradient in enumerate(gradients):
        if gradient is None and i in compared:
            raise ValueError(f"reference_vjp gives None for {labels[i]}, which holds an array of floats.")
        if i not in compared and jax.tree.leaves(gradient):
            raise ValueError(
                f"reference_vjp gives a gradient for {labels[i]}, which is not an array of floats; pass it as "
                "one, for example np.asarray(0.7), or return None."
            )
    return gradients


def _number(gradients: Any) -> str:
    return str(len(gradients)) if isinstance(gradients, list | tuple) else f"one {type(gradients).__name__}"
