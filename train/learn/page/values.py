"""Every number of `jaxllm learn show`: what a GPT computes for one text, the gradients, and AdamW's first update.

The model computes them in its own dtype, the twin in float64. Names are those of `apply_with_intermediates` and the
paths of the parameters. Added are the steps that a GPT does in one go: scores, scaled, masked, merged and gelu.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm import GPT, GPTConfig, attention, layers, reference
from jaxllm.compare.trees import to_numpy
from jaxllm.compare.twins import reference_config, twin_of
from jaxllm.gpt import parameter_shapes, summed_loss
from jaxllm.looking import look
from jaxllm.loss import token_losses
from jaxllm.reference.arrays import Array, tree_map
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea, named

from ...config import OptimizerConfig
from ...optimizer import make_optimizer

Named = dict[str, Array]


class Trace(NamedTuple):
    """Numbers by name, without an axis for the batch."""

    values: Named
    gradients: Named  # of the mean loss
    updates: Named  # that AdamW adds to the parameters


def plain_config(config: GPTConfig) -> GPTConfig:
    """The config of GPT-2's pieces with the parameters of a model whose block is the user's; any other as it is.

    Raises InputError for a block with other parameters.
    """
    if config.block is None:
        return config
    plain = replace(config, block=None, norm="layer_norm")
    if parameter_shapes(plain) != parameter_shapes(config):
        raise InputError(
            f"model.block is {config.block}, whose parameters are not those of GPT-2's block, and `learn show` has "
            "formulas for no others; show a run without it."
        )
    return plain


def check_shown(config: GPTConfig) -> None:
    """Raises InputError for a model whose parts the page has no formulas for."""
    usual = {
        "n_kv_heads": (None, config.n_heads), "ngrams": (1,), "qk_norm": (False,), "scale_embeddings": (False,),
        "mup_base_width": (None, config.d_model), "separator": (None,), "score": (None,), "logits": (None,),
        "n_classes": (0,), "norm_place": ("before",), "parallel_residual": (False,), "layer_pattern": (None,),
        "attention_scale": (None,), "score_softcap": (None,), "logits_softcap": (None,),
        "qkv_bias": (None, config.use_bias), "n_experts": (0,),
    }  # fmt: skip
    for field, values in usual.items():
        if getattr(config, field) not in values:
            raise InputError(
                f"model.{field} is {getattr(config, field)}, but `learn show` has formulas for GPT-2's pieces only; "
                "show a run without it."
            )
    if config.gated or config.rotary is not None:
        field, value = ("activation", config.activation) if config.gated else ("position", config.position)
        raise InputError(
            f"model.{field} is {value}, but `learn show` has formulas for GPT-2's pieces only; show a run without it."
        )


def adamw_of(config: OptimizerConfig) -> OptimizerConfig:
    """AdamW with the numbers of a config, at its largest learning rate."""
    return replace(config, name="adamw", schedule="constant", warmup_steps=0)


def model_trace(model: GPT, params: Any, inputs: list[int], targets: list[int], rule: OptimizerConfig) -> Trace:
    """What the model computes with JAX."""
    tokens, wanted = (jnp.asarray([ids], jnp.int32) for ids in (inputs, targets))
    optimizer = make_optimizer(adamw_of(rule), 1)

    @jax.jit
    def trace(params: Any) -> Trace:
        seen = look(model, params, tokens, wanted)
        gradients = jax.grad(lambda params: summed_loss(model, params, tokens, wanted) / len(targets))(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        values = {name: x[0] for name, x in seen.intermediates.items()} | _flat(params)
        of_values = {name: x[0] for name, x in (seen.gradients or {}).items()} | _flat(gradients)
        for i in range(model.config.n_layers):
            _jax_attention(model.config, values, of_values, f"block_{i}/attention")
            _jax_mlp(model.config, values, of_values, f"block_{i}/mlp")
        for name, x in norms(model.config).items():
            _statistics(model.config, values, of_values, name, x)
        values["probabilities"] = layers.softmax(values["logits"])
        values["losses"] = token_losses(values["logits"], wanted[0])
        _simple_attention(layers.softmax, values)
        return Trace(values, of_values, _flat(updates))

    return Trace(*(to_numpy(part) for part in trace(params)))


def _jax_attention(config: GPTConfig, values: dict[str, Any], gradients: dict[str, Any], at: str) -> None:
    """Add scores, scaled and masked [H, T, T] and merged [T, D] of the attention named `at`."""
    q, k, v = (attention.split_heads(values[f"{at}/{name}"], config.n_heads) for name in ("query", "key", "value"))
    mask = attention.causal_mask(q.shape[-2], config.sliding_window, config.visible)
    scores = q @ jnp.swapaxes(k, -1, -2)
    scaled, to_scores = jax.vjp(lambda x: x * config.head_dim**-0.5, scores)
    masked, to_scaled = jax.vjp(lambda x: jnp.where(mask, x, -jnp.inf), scaled)
    weights, to_masked = jax.vjp(layers.softmax, masked)
    merged = attention.merge_heads(weights @ v)
    _, to_merged = jax.vjp(lambda x: x @ values[f"{at}/output/kernel"], merged)
    values |= {f"{at}/scores": scores, f"{at}/scaled": scaled, f"{at}/masked": masked, f"{at}/merged": merged}
    (gradients[f"{at}/masked"],) = to_masked(gradients[f"{at}/weights"])
    (gradients[f"{at}/scaled"],) = to_scaled(gradients[f"{at}/masked"])
    (gradients[f"{at}/scores"],) = to_scores(gradients[f"{at}/scaled"])
    (gradients[f"{at}/merged"],) = to_merged(gradients[at])


def _jax_mlp(config: GPTConfig, values: dict[str, Any], gradients: dict[str, Any], at: str) -> None:
    """Add the activations [T, F] of the MLP named `at`, which are called gelu whatever they are."""
    activation = named(config.activation, layers.ACTIVATIONS, "model.activation")
    values[f"{at}/gelu"] = activation(values[f"{at}/up"])
    _, back = jax.vjp(lambda x: x @ values[f"{at}/down/kernel"], values[f"{at}/gelu"])
    (gradients[f"{at}/gelu"],) = back(gradients[at])


def twin_trace(config: GPTConfig, params: Any, inputs: list[int], targets: list[int], rule: OptimizerConfig) -> Trace:
    """What the NumPy reference computes in float64, from the same parameters."""
    exact, twins, of_sum = to_numpy(params), reference_config(config), dict[str, Array]()
    exact = tree_map(lambda p: np.asarray(p, np.float64), exact)
    _, values = reference.gpt.forward_with_intermediates(twins, exact, [inputs])
    _, gradients = reference.step.accumulate(twins, exact, [inputs], [targets], cotangents=of_sum)
    updates, _ = reference.optimizer.update(adamw_of(rule), 1, 0, gradients, reference.optimizer.start(exact), exact)
    values = {name: x[0] for name, x in values.items()} | _flat(exact)
    of_values = {name: x[0] / len(targets) for name, x in of_sum.items()} | _flat(gradients)
    for i in range(config.n_layers):
        _twin_attention(config, values, of_values, f"block_{i}/attention")
        _twin_mlp(config, values, of_values, f"block_{i}/mlp")
    for name, x in norms(config).items():
        _statistics(config, values, of_values, name, x)
    values["probabilities"] = reference.layers.softmax(values["logits"])
    values["losses"] = reference.loss.token_losses(values["logits"], targets)
    _simple_attention(reference.layers.softmax, values)
    return Trace(values, of_values, _flat(updates))


def _twin_attention(config: GPTConfig, values: Named, gradients: Named, at: str) -> None:
    """As `_jax_attention`: with w = softmax(m) the gradient is dm = w (dw - sum dw w), and dw = dy v^T."""
    parts = (values[f"{at}/{name}"] for name in ("query", "key", "value"))
    q, k, v = (reference.attention.split_heads(x, config.n_heads) for x in parts)
    visible = None if config.visible is None else twin_of(config.visible, "visible")
    mask = reference.attention.causal_mask(q.shape[-2], config.sliding_window, visible)
    scores = q @ np.swapaxes(k, -1, -2)
    scaled = scores / config.head_dim**0.5
    masked = np.where(mask, scaled, -np.inf)
    weights, to_masked = reference.layers.softmax_vjp(masked)
    values |= {f"{at}/scores": scores, f"{at}/scaled": scaled, f"{at}/masked": masked}
    values[f"{at}/merged"] = reference.attention.merge_heads(weights @ v)
    gradients[f"{at}/merged"] = gradients[at] @ values[f"{at}/output/kernel"].T
    d_heads = reference.attention.split_heads(gradients[f"{at}/merged"], config.n_heads)
    gradients[f"{at}/weights"] = d_heads @ np.swapaxes(v, -1, -2)
    (gradients[f"{at}/masked"],) = to_masked(gradients[f"{at}/weights"])
    gradients[f"{at}/scaled"] = np.where(mask, gradients[f"{at}/masked"], 0.0)
    gradients[f"{at}/scores"] = gradients[f"{at}/scaled"] / config.head_dim**0.5


def _twin_mlp(config: GPTConfig, values: Named, gradients: Named, at: str) -> None:
    """As `_jax_mlp`."""
    own = config.activation
    function = twin_of(own, "activation").function if isinstance(own, Idea) else reference.layers.ACTIVATIONS[own]
    values[f"{at}/gelu"] = function(values[f"{at}/up"])
    gradients[f"{at}/gelu"] = gradients[at] @ values[f"{at}/down/kernel"].T


def completed(trace: Trace, rule: OptimizerConfig, inputs: list[int], targets: list[int]) -> Trace:
    """With what follows from the numbers of a model: ids, mean loss, clipping, and the chances of the next token."""
    norms = np.array([np.sqrt((np.asarray(trace.gradients[name]) ** 2).sum()) for name in trace.updates])
    norm = np.sqrt((norms**2).sum())
    scaled = trace.values["logits"][-1] / 0.8
    odds = np.exp(scaled - scaled.max())
    more: Named = {
        "pairs": np.array([inputs, targets], float).T, "loss": np.asarray(trace.values["losses"].mean()),
        "step/norms": norms, "step/norm": norm,
        "step/clip": np.asarray(min(1.0, rule.clip_norm / max(norm, 1e-30))),
        "sampling/scaled": scaled, "sampling": odds / odds.sum(),
    }  # fmt: skip
    return trace._replace(values=trace.values | more)


def norms(config: GPTConfig) -> dict[str, str]:
    """The name of each norm, and of what it normalises. None for a norm of the user's."""
    if isinstance(config.norm, Idea):
        return {}
    stream = "position_embedding" if config.adds_positions else "token_embedding"
    found: dict[str, str] = {}
    for i in range(config.n_layers):
        found |= {f"block_{i}/norm_1": stream, f"block_{i}/norm_2": f"block_{i}/residual_1"}
        stream = f"block_{i}"
    return found | {"norm_final": stream}


def _statistics(config: GPTConfig, values: dict[str, Any], gradients: dict[str, Any], name: str, of: str) -> None:
    """Add what a norm computes of each row: mean and s [T, 2]; and for the backward the means of dz and dz z [T, 2].

    An RMSNorm has no mean, here 0.
    """
    x, centre = values[of], config.norm == "layer_norm"
    mean = x.mean(-1, keepdims=True) * centre
    s = (((x - mean) ** 2).mean(-1, keepdims=True) + config.norm_epsilon) ** 0.5
    dz = gradients[name] * values[f"{name}/scale"]
    numpy = np if isinstance(x, np.ndarray) else jnp
    means = [dz.mean(-1, keepdims=True) * centre, (dz * (x - mean) / s).mean(-1, keepdims=True)]
    values[f"{name}/statistics"] = numpy.concatenate([mean, s], axis=-1)
    values[f"{name}/means"] = numpy.concatenate(means, axis=-1)


def _simple_attention(softmax: Any, values: dict[str, Any]) -> None:
    """Add the scores and weights [T, T] and the result [T, D] of simple attention over the token embeddings."""
    x = values["token_embedding"]
    values["simple/scores"] = x @ x.T
    values["simple/weights"] = softmax(values["simple/scores"])
    values["simple"] = values["simple/weights"] @ x


def _flat(tree: Any) -> dict[str, Any]:
    """The leaves by their paths."""
    return dict(flatten_dict(tree, sep="/"))
