"""Two computations side by side: any function against any NumPy function, and the GPT against its reference.

maxtext and litgpt keep such comparisons inside their tests; here it is a function that a user calls on code of
their own, values and gradients, and the command `jaxllm compare` calls on a config or a trained run.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxllm import reference
from jaxllm.compare.calls import by_position, cast, cotangent, in_float64, vjp_in_float64
from jaxllm.compare.finite_differences import NUMERICAL, along_directions, is_float, to_numpy
from jaxllm.compare.report import Report, Row, compare_trees, measure, named_leaves, scales_of_vanishing
from jaxllm.compare.scales import gradient_scales, loss_scale
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.loss import cross_entropy
from jaxllm.utils.errors import InputError

# Of a function or layer (value, gradient), relative to the largest value of each tensor.
TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-5, 1e-5), "bfloat16": (3e-2, 3e-2)}
# Of a whole model, where errors add up from layer to layer.
MODEL_TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-4, 1e-4), "bfloat16": (1e-1, 1.5e-1)}
KINK_TOLERANCE = 1.0  # of gradients below a ReLU that rounding has put on the other side of zero: either slope is right


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
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """Raises AssertionError, with the table, unless value and gradients of `fn` agree with the NumPy reference.

    `fn` is a JAX function, or a Linen module whose first argument then is its parameters. `args` is the list of
    arguments: arrays, pytrees of arrays, and anything else that both take as it is; `kwargs` those by name. Arrays of
    floats are cast to `dtype` for `fn`, and `reference_fn` gets the very same numbers in float64, in which it computes
    if it is a function of JAX. They are what gradients are taken of; a Python number is a constant (`np.asarray(0.7)`
    is an array). A result may be a pytree; a dataclass that JAX does not know counts as the dict of its fields. Results
    that are no floats must be equal. Gradients are those of the sum of the result times random numbers: against
    `reference_vjp(*args, **kwargs) -> (out, pullback)`, shaped like `jax.vjp` with None where there is no derivative
    and the gradients of `kwargs` last, or else against differences of `reference_fn` along a few random directions,
    good to 1e-8 where it is smooth.

    Errors are relative to the largest value of each tensor; a parameter's gradient that vanishes but for rounding
    (that of a key's bias) is measured on the scale of its module. `tolerance` and `gradient_tolerance` are
    `TOLERANCES[dtype]` unless given, and against differences at least 1e-8. Returns the report where all is well.
    Raises InputError or ValueError where the two cannot be compared.
    """
    report = compare_function(
        fn, reference_fn, args, kwargs=kwargs, reference_vjp=reference_vjp, dtype=dtype, tolerance=tolerance,
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
    kwargs: Mapping[str, Any] | None = None,
    reference_vjp: Callable[..., Any] | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
    gradient_tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """The report of `assert_close_to_reference`, whatever it says."""
    if not isinstance(args, list | tuple):
        raise InputError(f"args is one {type(args).__name__}, but it must be the list of arguments: write [x].")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs is a {type(kwargs).__name__}, but it must be a dict of arguments by name.")
    for name, given in (("tolerance", tolerance), ("gradient_tolerance", gradient_tolerance)):
        if given is not None and not given >= 0:
            raise InputError(f"{name} is {given}, but it must be 0 or more.")
    names = list(kwargs or {})
    labels = [*map(str, range(len(args))), *names]
    with arithmetic(dtype):
        ours = [jax.tree.map(lambda x: cast(x, dtype), a) for a in (*args, *(kwargs or {}).values())]
        got, pullback = _vjp(by_position(fn, names), ours)
        cotangents = jax.tree.map(partial(cotangent, rng=np.random.default_rng(seed)), got)
        gradients = pullback(cotangents)
    bound, gradient_bound = TOLERANCES[dtype]
    bound = bound if tolerance is None else tolerance
    exact = in_float64(reference_fn, names)
    rows = _compare_values(got, exact(*to_numpy(ours)), bound, dtype)
    if not any(map(is_float, jax.tree.leaves(got))) or not all(math.isfinite(row.relative) for row in rows):
        return Report.of(dtype, rows)  # nothing to differentiate, or no sense in it
    if reference_vjp is None:
        gradient_bound = max(gradient_bound, NUMERICAL) if gradient_tolerance is None else gradient_tolerance
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


def _vjp(function: Callable[..., Any], args: list[Any]) -> tuple[Any, Callable[[Any], dict[int, Any]]]:
    """Like `jax.vjp`, but of the arrays of floats only, wherever in the arguments they are.

    The pullback gives, for each argument that holds any, a tree like it with None for all that is constant.
    """
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(args)
    varied = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def of_varied(*arrays: Any) -> Any:
        given = dict(zip(varied, arrays, strict=True))
        out = function(*structure.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)]))
        return jax.tree.map(jnp.asarray, out)

    out, pullback = jax.vjp(of_varied, *[leaves[i] for i in varied])
    if not jax.tree.leaves(out) or any(jnp.issubdtype(y.dtype, jnp.complexfloating) for y in jax.tree.leaves(out)):
        raise InputError("fn must return arrays of real numbers, integers or bools, at least one.")

    def gradients(dy: Any) -> dict[int, Any]:
        given = dict(zip(varied, pullback(dy), strict=True))
        trees = structure.unflatten([given.get(i) for i in range(len(leaves))])
        return {i: tree for i, tree in enumerate(trees) if jax.tree.leaves(tree)}

    return out, gradients


def _compare_values(got: Any, want: Any, tolerance: float, dtype: str) -> list[Row]:
    """Floats within tolerance, everything else equal."""
    floats = {name for name, y in named_leaves(got, "result").items() if is_float(y)}
    rows = compare_trees("value", got, want, tolerance, dtype, "result")
    return [row if row.name in floats else replace(row, tolerance=0.0) for row in rows]


def _reference_gradients(
    reference_vjp: Callable[..., Any], reference_fn: Callable[..., Any], args: Any, cotangents: Any,
    labels: list[str], compared: set[int],
) -> Any:  # fmt: skip
    out, pullback = reference_vjp(*to_numpy(args))
    for row in compare_trees("", out, reference_fn(*to_numpy(args)), TOLERANCES["float64"][0], "float64", "result"):
        if not row.passed:
            raise ValueError(
                f"reference_vjp returns another {row.name} than reference_fn, off by {row.relative:.1e} of its largest "
                "value; the backward is of another function."
            )
    gradients = pullback(to_numpy(cotangents))
    if not isinstance(gradients, list | tuple) or len(gradients) != len(args):
        raise ValueError(
            f"the pullback of reference_vjp must return a tuple of {len(args)} gradients, one for each argument, "
            f"those by name last, and None where there is none, but it returned {_how_many(gradients)}."
        )
    for i, gradient in enumerate(gradients):
        if gradient is None and i in compared:
            raise ValueError(f"reference_vjp gives None for argument {labels[i]}, which holds an array of floats.")
        if i not in compared and jax.tree.leaves(gradient):
            raise ValueError(
                f"reference_vjp gives a gradient for argument {labels[i]}, which is no array of floats; pass it as "
                "one, for example np.asarray(0.7), or return None."
            )
    return gradients


def _how_many(gradients: Any) -> str:
    return str(len(gradients)) if isinstance(gradients, list | tuple) else f"one {type(gradients).__name__}"


def random_parameters(model: GPT, seed: int = 0) -> Any:
    """Every parameter random, unlike at initialisation: a bias of 0 or a scale of 1 would hide a fault in its use.

    Matrices are N(0, 1/fan-in), tables N(0, 1/D), scales 1 + N(0, 0.1^2), biases N(0, 0.1^2), float32: activations keep
    about unit size through any number of layers, and so do logits, by a head or by the table tied to it.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> Array:
        z = rng.standard_normal(shape, np.float32)
        match path[-1]:
            case "kernel":
                z = z / shape[0] ** 0.5
            case "table":
                z = z / shape[1] ** 0.5
            case "scale":
                z = 1 + 0.1 * z
            case "bias":
                z = 0.1 * z
        return jnp.asarray(z)

    return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flatten_dict(shapes).items()})


def compare_model(
    config: GPTConfig, params: Any, inputs: Any, targets: Any, dtype: str = "float32"
) -> tuple[list[Row], Any]:
    """The GPT against its reference on inputs and targets [B, T], without dropout; rows, and JAX's gradients.

    Stages: `forward`, every intermediate in the order of computation, then the mean loss; `backward`, the gradient of
    the loss at the intermediates, from the top down (attention weights are left out, because the model need not hold
    them, and `residual_1`, whose gradient is that of the attention's result); `gradient`, that of each parameter.
    Tolerances are `MODEL_TOLERANCES[dtype]`, relative to the largest value of each tensor or, where it cancels, of its
    terms (`jaxllm.compare.scales`). The reference gets the same parameters. Where rounding puts a ReLU on the other
    side of zero, a note says so and gradients from there on down are held to `KINK_TOLERANCE` only. Raises
    InputError for a layer norm of two features, which passes nothing back but rounding.
    """
    if config.d_model == 2 and config.norm == "layer_norm":
        raise InputError("d_model is 2, but the layer norm of two features is always +-1: compare a wider model.")
    with arithmetic(dtype):
        params = jax.tree.map(lambda p: jnp.asarray(p, "float64" if dtype == "float64" else "float32"), params)
        model = GPT(config, None if dtype == "float64" else dtype)
        run = jax.jit(lambda *arrays: _run_model(model, *arrays))  # anew each time: nothing remembered from before
        got_loss, seen, felt, gradients = jax.device_get(run(params, inputs, targets))
    tolerance, gradient_tolerance = MODEL_TOLERANCES[dtype]
    exact = to_numpy(params)
    logits, want_seen = reference.gpt.forward_with_intermediates(config, exact, inputs)
    rows = [measure("forward", name, seen[name], want, tolerance, dtype) for name, want in want_seen.items()]
    want_loss = reference.loss.cross_entropy(logits, targets)
    scale = max(float(want_loss), loss_scale(logits, targets))
    rows.append(measure("forward", "loss", got_loss, want_loss, tolerance, dtype, scale))
    want_felt: dict[str, Any] = {}
    _, want_gradients = reference.step.accumulate(config, exact, inputs, targets, felt=want_felt)
    want_felt = {name: want / np.size(targets) for name, want in want_felt.items()}
    scales = gradient_scales(config, exact, want_seen, want_felt, want_gradients)
    kinks = _turned_relus(config, seen, want_seen)
    for name, want in want_felt.items():
        if name in felt:
            gradient_tolerance = KINK_TOLERANCE if name in kinks else gradient_tolerance
            row = measure("backward", name, felt[name], want, gradient_tolerance, dtype, scales[name])
            rows.append(replace(row, note=kinks.get(name, row.note)))
    rows += compare_trees("gradient", gradients, want_gradients, gradient_tolerance, dtype, scales=scales)
    return rows, gradients


def _turned_relus(config: GPTConfig, seen: Any, want_seen: Any) -> dict[str, str]:
    """A note for each MLP in which the model's numbers and the reference's lie on two sides of ReLU's kink."""
    notes = {}
    for name, want in want_seen.items():
        if config.activation == "relu" and name.endswith("mlp/up"):
            turned = int(((np.asarray(seen[name]) > 0) != (want > 0)).sum())
            if turned:
                notes[name] = f"rounding put {turned} of {want.size} ReLUs on the other side of zero"
    return notes


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
        return cross_entropy(logits, targets), seen

    seen = jax.eval_shape(lambda: apply_with_intermediates(model, params, inputs)[1])
    sown = ("/weights", "/residual_1")
    shifts = {name: jnp.zeros(y.shape, y.dtype) for name, y in seen.items() if not name.endswith(sown)}
    (value, seen), (gradients, felt) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, shifts)
    return value, seen, felt, gradients
