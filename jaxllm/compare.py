"""Two computations side by side: any function against any NumPy function, and the GPT against its reference.

maxtext and litgpt keep such comparisons inside their tests; here it is a function that a user calls on code of
their own, values and gradients, and the command `jaxllm compare` calls on a config or a trained run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxllm import reference
from jaxllm.config import GPTConfig
from jaxllm.deviation import Report, Row, largest, measure
from jaxllm.errors import InputError
from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.loss import token_losses

# Of a function or layer (value, gradient), relative to the largest value of each tensor.
TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-5, 1e-5), "bfloat16": (3e-2, 3e-2)}
# Of a whole model, where errors add up from layer to layer.
MODEL_TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-4, 1e-4), "bfloat16": (1e-1, 1e-1)}
DIRECTIONS = 8  # along which a reference without a backward is differentiated numerically
NUMERICAL = 1e-8  # relative error of those derivatives


@contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    """JAX with float64 allowed where `dtype` is float64, and with float32 products of float32 (no TF32 on a GPU)."""
    if dtype not in TOLERANCES:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(TOLERANCES)}.")
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def assert_close_to_reference(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """Raises AssertionError, with the table, unless value and gradients of `fn` agree with the NumPy reference.

    `fn` is a JAX function, or a Linen module whose first argument then is its parameters. `args` are arrays, nested
    dicts of arrays, or anything else that both take as it is. Arrays of floats are cast to `dtype` for `fn`, and
    `reference_fn` gets the very same numbers in float64. Gradients are those of the sum of the result times random
    numbers: against `reference_vjp(*args) -> (out, pullback)`, shaped like `jax.vjp` with None where there is no
    derivative, or else against the differences of `reference_fn` along a few random directions.

    An error is relative to the largest value of its tensor (of a parameter's gradient: of all parameters of its
    module, because a single one may be zero but for rounding, as that of a key's bias). The defaults of `tolerance`
    and `gradient_tolerance` are `TOLERANCES[dtype]`. Returns the report where all is well.
    """
    report = compare_function(
        fn, reference_fn, args, reference_vjp=reference_vjp, dtype=dtype, tolerance=tolerance,
        gradient_tolerance=gradient_tolerance, seed=seed,
    )  # fmt: skip
    if not report.passed:
        raise AssertionError(f"not the reference's numbers:\n{report}")
    return report


def compare_function(
    fn: Callable[..., Any] | nn.Module,
    reference_fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """The report of `assert_close_to_reference`, whatever it says."""
    value_tolerance, slope_tolerance = TOLERANCES.get(dtype, (0.0, 0.0))
    value_tolerance = value_tolerance if tolerance is None else tolerance
    slope_tolerance = slope_tolerance if gradient_tolerance is None else gradient_tolerance
    with arithmetic(dtype):
        ours = [jax.tree.map(lambda x: _cast(x, dtype), a) for a in args]
        got, pullback = _vjp(_as_function(fn), ours)
        cotangents = jax.tree.map(partial(_cotangent, rng=np.random.default_rng(seed)), got)
        gradients = pullback(cotangents)
    exact, pulled = jax.tree.map(_exact, ours), jax.tree.map(_exact, cotangents)
    rows = _compare_trees("value", got, reference_fn(*exact), value_tolerance, dtype)
    if not _is_differentiable(got) or any(row.note for row in rows):  # other shapes: no gradients to compare
        return Report.of(dtype, rows)
    if reference_vjp is None:
        for i, gradient in gradients.items():
            along = _along_directions(reference_fn, exact, i, gradient, pulled, np.random.default_rng(seed + 1))
            name = f"argument {i}, along {DIRECTIONS} directions"
            rows.append(measure("gradient", name, *along, max(slope_tolerance, NUMERICAL), dtype))
        return Report.of(dtype, rows)
    wanted = reference_vjp(*exact)[1](pulled)
    if len(wanted) != len(args):
        raise ValueError(f"reference_vjp returned {len(wanted)} gradients for {len(args)} arguments (None: none).")
    for i, gradient in gradients.items():
        rows += _compare_trees("gradient", gradient, wanted[i], slope_tolerance, dtype, f"argument {i}")
    return Report.of(dtype, rows)


def _vjp(function: Callable[..., Any], args: list[Any]) -> tuple[Any, Callable[[Any], dict[int, Any]]]:
    """Like `jax.vjp`, but the pullback gives the gradients of those arguments that have one, by their number."""
    varied = [i for i, a in enumerate(args) if _is_differentiable(a)]

    def of_varied(*arguments: Any) -> Any:
        given = dict(zip(varied, arguments, strict=True))
        return function(*[given.get(i, a) for i, a in enumerate(args)])

    out, pullback = jax.vjp(of_varied, *[args[i] for i in varied])
    return out, lambda dy: dict(zip(varied, pullback(dy), strict=True))


def _as_function(fn: Callable[..., Any] | nn.Module) -> Callable[..., Any]:
    if isinstance(fn, nn.Module):
        return lambda params, *args: fn.apply({"params": params}, *args)
    return fn


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray | jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def _is_differentiable(tree: Any) -> bool:
    """Whether all leaves are arrays of floats."""
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(map(_is_float, leaves))


def _cast(x: Any, dtype: str) -> Any:
    if _is_float(x):
        return jnp.asarray(x, dtype)
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def _exact(x: Any) -> Any:
    """The same numbers for NumPy."""
    if not isinstance(x, jax.Array):
        return x
    return np.asarray(x, np.float64) if _is_float(x) else np.asarray(x)


def _cotangent(y: Array, rng: np.random.Generator) -> Any:
    if not _is_float(y):
        return np.zeros(np.shape(y), jax.dtypes.float0)
    return jnp.asarray(rng.normal(size=y.shape), y.dtype)


def _compare_trees(stage: str, got: Any, want: Any, tolerance: float, dtype: str, root: str = "") -> list[Row]:
    """A row for each leaf; a parameter is measured on the scale of all parameters of its module."""
    if not isinstance(got, dict):
        leaves, wants = jax.tree.leaves(got), jax.tree.leaves(want)
        if len(leaves) != len(wants):
            raise ValueError(f"{stage} {root}: {len(leaves)} arrays, but the reference has {len(wants)}.")
        names = [root or "result"] if len(leaves) == 1 else [f"{root or 'result'}[{i}]" for i in range(len(leaves))]
        return [measure(stage, *row, tolerance, dtype) for row in zip(names, leaves, wants, strict=True)]
    return compare_parameters(stage, got, want, tolerance, dtype, f"{root}/" if root else "")


def compare_parameters(stage: str, got: Any, want: Any, tolerance: float, dtype: str, root: str = "") -> list[Row]:
    """A row for each leaf of two nested dicts, measured on the scale of all leaves of its innermost dict."""
    ours, theirs = flatten_dict(got), flatten_dict(want)
    if ours.keys() != theirs.keys():
        odd = "/".join(sorted(ours.keys() ^ theirs.keys())[0])
        raise ValueError(f"{stage}: {root}{odd} is in one of the two only.")
    scales: dict[tuple[str, ...], float] = {}
    for path, leaf in theirs.items():
        scales[path[:-1]] = max(scales.get(path[:-1], 0.0), largest(leaf))
    return [
        measure(stage, root + "/".join(path), ours[path], leaf, tolerance, dtype, scales[path[:-1]])
        for path, leaf in theirs.items()
    ]


def _along_directions(
    function: Callable[..., Any], args: list[Any], i: int, gradient: Any, cotangents: Any, rng: np.random.Generator
) -> tuple[Any, Any]:
    """The derivative along random directions of argument `i`: by `gradient`, and by differences of `function`.

    (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose error is of the order of h^4.
    """
    h, got, want = 1e-3, [], []
    for _ in range(DIRECTIONS):
        v = jax.tree.map(lambda x: rng.normal(size=x.shape), args[i])

        def at(t: float, v: Any = v) -> float:
            moved = jax.tree.map(lambda x, d: x + t * d, args[i], v)
            values = jax.tree.map(lambda y: np.where(np.isinf(y), 0, y), function(*args[:i], moved, *args[i + 1 :]))
            return _dot(values, cotangents)

        got.append(_dot(jax.tree.map(_exact, gradient), v))
        want.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    return got, want


def _dot(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.sum(x * y) for x, y in pairs))


def random_parameters(model: GPT, seed: int = 0) -> Any:
    """Every parameter random, unlike at initialisation: a bias of 0 or a scale of 1 would hide a fault in its use.

    Matrices are N(0, 1/fan-in), tables N(0, 1), scales 1 + N(0, 0.1^2), biases N(0, 0.1^2), float32: activations keep
    about unit size through any number of layers.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> Array:
        z = rng.standard_normal(shape, np.float32)
        match path[-1]:
            case "kernel":
                z = z / shape[0] ** 0.5
            case "scale":
                z = 1 + 0.1 * z
            case "bias":
                z = 0.1 * z
        return jnp.asarray(z)

    return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flatten_dict(shapes).items()})


def compare_model(
    config: GPTConfig, params: Any, inputs: Any, targets: Any, dtype: str = "float32", tolerance: float | None = None
) -> tuple[list[Row], Any]:
    """The GPT against its reference on inputs and targets [B, T], without dropout; rows, and JAX's gradients.

    Stages: `forward`, every intermediate in the order of computation, then the mean loss; `backward`, the gradient of
    the loss at the intermediates, from the top down (attention weights are left out, because the model need not hold
    them, and `residual_1`, whose gradient is that of the attention's result); `gradient`, that of each parameter.
    Tolerances are `MODEL_TOLERANCES[dtype]`, or `tolerance` for all. The reference gets the very same parameters.
    """
    forward_tolerance, tolerance = (tolerance,) * 2 if tolerance else MODEL_TOLERANCES[dtype]
    with arithmetic(dtype):
        params = jax.tree.map(lambda p: jnp.asarray(p, "float64" if dtype == "float64" else "float32"), params)
        model = GPT(config, None if dtype == "float64" else dtype)
        got_loss, seen, felt, gradients = jax.device_get(_run_model(model, params, inputs, targets))
    exact = jax.tree.map(_exact, params)
    logits, want_seen = reference.gpt.forward_with_intermediates(config, exact, inputs)
    rows = [measure("forward", name, seen[name], want, forward_tolerance, dtype) for name, want in want_seen.items()]
    want_loss = reference.loss.cross_entropy(logits, targets)
    rows.append(measure("forward", "loss", got_loss, want_loss, forward_tolerance, dtype))
    want_felt: dict[str, Any] = {}
    _, want_gradients = reference.step.accumulate(config, exact, inputs, targets, felt=want_felt)
    rows += [
        measure("backward", name, felt[name], want / np.size(targets), tolerance, dtype)
        for name, want in want_felt.items()
        if name in felt
    ]
    return rows + compare_parameters("gradient", gradients, want_gradients, tolerance, dtype), gradients


@partial(jax.jit, static_argnums=0)
def _run_model(model: GPT, params: Any, inputs: Array, targets: Array) -> tuple[Array, Any, Any, Any]:
    """Loss, intermediates, the loss's gradients at the intermediates, and at the parameters.

    A gradient in the middle is that at a zero added there, as Linen's `perturb` does, but from outside the modules.
    """

    def loss(params: Any, shifts: Any) -> tuple[Array, Any]:
        def shifted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y, name = call(*args, **kwargs), "/".join(context.module.path) or "logits"
            return y + shifts[name] if context.method_name == "__call__" and name in shifts else y

        with nn.intercept_methods(shifted):
            logits, seen = apply_with_intermediates(model, params, inputs)
        return token_losses(logits, targets).mean(), seen

    seen = jax.eval_shape(lambda: apply_with_intermediates(model, params, inputs)[1])
    sown = ("/weights", "/residual_1")
    shifts = {name: jnp.zeros(y.shape, y.dtype) for name, y in seen.items() if not name.endswith(sown)}
    (value, seen), (gradients, felt) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, shifts)
    return value, seen, felt, gradients
