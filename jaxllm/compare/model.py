"""The GPT beside its reference: every intermediate, the loss, and the gradients at both and at the parameters."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm import reference
from jaxllm.compare.finite_differences import along_directions
from jaxllm.compare.measure import Comparison, compare_trees, measure
from jaxllm.compare.scales import gradient_scales, loss_scale
from jaxllm.compare.tolerances import MODEL_TOLERANCES, arithmetic
from jaxllm.compare.trees import to_numpy
from jaxllm.compare.twins import ACCURACY, Twin, by_differences, held, reference_config, twin_loss
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, head_table
from jaxllm.looking import look
from jaxllm.loss import cross_entropy, takes_hidden
from jaxllm.utils.errors import InputError

# Of gradients below a ReLU whose input has another sign than in the reference: the slopes are 0 and 1 there.
KINK_TOLERANCE = 1.0


def compare_model(
    config: GPTConfig, params: Any, inputs: Any, targets: Any, dtype: str = "float32", loss: Any = None
) -> tuple[list[Comparison], Any]:
    """Comparisons of the GPT with its reference on inputs and targets [B, T], without dropout; and JAX's gradients.

    The comparisons have three stages:

    - `forward`: every intermediate in the order of computation, then the mean loss;
    - `backward`: the gradient of the loss at the intermediates, from the top down. Attention weights are left out,
      because the model need not hold them, and `residual_1`, whose gradient is that of the attention's result;
    - `gradient`: the gradient of each parameter.

    Both get the same parameters. Tolerances are `MODEL_TOLERANCES[dtype]`, relative to the largest value of each tensor
    or, where its terms cancel, to the size of the terms (`jaxllm.compare.scales`). Where rounding changes the sign of a
    ReLU's input, a note says so, and gradients from there on down are held to `KINK_TOLERANCE` only.

    A user's functions are held to their twins (`jaxllm.compare.twins`), and so is `loss`, an Idea in place of the
    cross-entropy. What depends on a function without a twin is held to nothing. A user's block has no backward in the
    reference: the gradients of such a model are compared with differences of its loss. Raises InputError for a layer
    norm of two features, whose gradient is nothing but rounding.
    """
    if config.d_model == 2 and config.norm == "layer_norm":
        raise InputError("d_model is 2, but the layer norm of two features is always +-1: compare a wider model.")
    with arithmetic(dtype):
        params = jax.tree.map(lambda p: jnp.asarray(p, "float64" if dtype == "float64" else "float32"), params)
        model = GPT(config, None if dtype == "float64" else dtype)
        run = jax.jit(
            lambda *arrays: _run_model(model, loss, *arrays)
        )  # a new function, so that it is traced each time
        got_loss, intermediates, cotangents, gradients = jax.device_get(run(params, inputs, targets))
    tolerance, gradient_tolerance = MODEL_TOLERANCES[dtype]
    exact, twins, token_losses = to_numpy(params), reference_config(config), twin_loss(loss)
    logits, wanted = reference.gpt.forward_with_intermediates(twins, exact, inputs)
    rows = [measure("forward", name, intermediates[name], want, tolerance, dtype) for name, want in wanted.items()]
    wanted_loss = token_losses.function(logits, targets).mean()
    scale = max(float(wanted_loss), loss_scale(logits, targets))
    rows.append(measure("forward", "loss", got_loss, wanted_loss, tolerance, dtype, scale))
    if config.block is not None or by_differences(config, loss):
        gradient_tolerance = max(gradient_tolerance, ACCURACY)
    if config.block is not None:
        rows += _along_directions(twins, token_losses, exact, inputs, targets, gradients, gradient_tolerance, dtype)
        return held(rows, config, loss), gradients
    wanted_cotangents, wanted_gradients = _reference_gradients(twins, token_losses, exact, inputs, targets)
    scales = gradient_scales(config, exact, wanted, wanted_cotangents, wanted_gradients)
    kinks = _flipped_relus(config, intermediates, wanted)
    for name, want in wanted_cotangents.items():
        if name in cotangents:
            gradient_tolerance = KINK_TOLERANCE if name in kinks else gradient_tolerance
            row = measure("backward", name, cotangents[name], want, gradient_tolerance, dtype, scales[name])
            rows.append(replace(row, note=kinks.get(name, row.note)))
    rows += compare_trees("gradient", gradients, wanted_gradients, gradient_tolerance, dtype, scales=scales)
    return held(rows, config, loss), gradients


def _along_directions(
    config: Any,
    token_losses: Twin,
    params: Any,
    inputs: Any,
    targets: Any,
    gradients: Any,
    tolerance: float,
    dtype: str,
) -> list[Comparison]:
    """The derivatives of the mean loss along random directions of each part of the parameters, by differences."""
    names = list(params)

    def loss(*parts: Any) -> Any:
        logits = reference.gpt.forward(config, dict(zip(names, parts, strict=True)), inputs)
        return np.asarray(token_losses.function(logits, targets).mean())

    arguments = [params[name] for name in names]
    return [
        along_directions(loss, arguments, i, name, to_numpy(gradients[name]), np.ones(()), tolerance, dtype, 0)
        for i, name in enumerate(names)
    ]


def _reference_gradients(
    config: Any, token_losses: Twin, params: Any, inputs: Any, targets: Any
) -> tuple[dict[str, Any], Any]:
    """The gradients of the mean loss at the intermediates, by name, and at the parameters."""
    of_sum: dict[str, Any] = {}
    _, gradients = reference.step.accumulate(
        config, params, inputs, targets, cotangents=of_sum, token_loss=token_losses
    )
    return {name: dy / np.size(targets) for name, dy in of_sum.items()}, gradients


def _flipped_relus(config: GPTConfig, intermediates: Any, wanted: Any) -> dict[str, str]:
    """A note for each MLP in which a ReLU's input is positive in one of the model and the reference alone."""
    notes = {}
    for name, want in wanted.items():
        if config.activation == "relu" and name.endswith("mlp/up"):
            flipped = int(((np.asarray(intermediates[name]) > 0) != (want > 0)).sum())
            if flipped:
                notes[name] = f"rounding put {flipped} of {want.size} ReLUs on the other side of zero"
    return notes


def _run_model(model: GPT, own_loss: Any, params: Any, inputs: Array, targets: Array) -> tuple[Array, Any, Any, Any]:
    """The loss, the intermediates, and the loss's gradients at the intermediates and at the parameters.

    The gradient at an intermediate is that at a zero added to it.
    """

    def loss(params: Any, shifts: Any) -> tuple[Array, Any]:
        seen = look(model, params, inputs, patch={name: partial(jnp.add, shift) for name, shift in shifts.items()})
        return _mean_loss(model, own_loss, params, seen.logits, seen.intermediates, targets), seen.intermediates

    shapes = jax.eval_shape(lambda: look(model, params, inputs).intermediates)
    left_out = ["/weights", "/residual_1"]
    if own_loss is not None and takes_hidden(own_loss):
        left_out.append("logits")
    shapes = shapes if model.config.block is None else {}  # the reference has no backward of a user's block
    shifts = {name: jnp.zeros(y.shape, y.dtype) for name, y in shapes.items() if not name.endswith(tuple(left_out))}
    (value, intermediates), (gradients, cotangents) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        params, shifts
    )
    return value, intermediates, cotangents, gradients


def _mean_loss(model: GPT, own: Any, params: Any, logits: Array, intermediates: Any, targets: Array) -> Array:
    """The mean cross-entropy, or that of a user's token losses."""
    if own is None:
        return cross_entropy(logits, targets)
    if takes_hidden(own):
        hidden = intermediates["norm_final"] / model.config.width_ratio
        return jnp.mean(own(hidden, head_table(model.config, params), targets))
    return jnp.mean(own(logits, targets))
