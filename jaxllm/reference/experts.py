"""A mixture of experts, and its backward: the router, the weights of the chosen experts, and their gated MLPs."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, float64, vjp
from jaxllm.reference.layers import GATED_VJPS, linear_map, linear_map_vjp, linear_vjp, softmax, softmax_vjp


def chosen_experts(logits: ArrayLike, n_per_token: int) -> Array:
    """The experts [..., k] with the largest logits [..., E], the largest first; of equals the first."""
    return np.argsort(-float64(logits), axis=-1, kind="stable")[..., :n_per_token]


@vjp
def chosen_experts_vjp(logits: ArrayLike, n_per_token: int) -> Vjp:
    """The number of an expert does not change with a small change of the logits."""
    return chosen_experts(logits, n_per_token), lambda dy: (np.zeros(np.shape(logits)), None)


def expert_weights(logits: ArrayLike, chosen: ArrayLike, normalise: bool = True) -> Array:
    """softmax(logits) [..., E] at the chosen experts [..., k], divided by their sum if `normalise`."""
    weights = np.take_along_axis(softmax(logits), np.asarray(chosen), axis=-1)
    return weights / weights.sum(axis=-1, keepdims=True) if normalise else weights


@vjp
def expert_weights_vjp(logits: ArrayLike, chosen: ArrayLike, normalise: bool = True) -> Vjp:
    """With w = p / s and s = sum p, dp = (dw - sum dw w) / s, which belongs to the places of the chosen."""
    probabilities, softmax_back = softmax_vjp(logits)
    chosen = np.asarray(chosen)
    p = np.take_along_axis(probabilities, chosen, axis=-1)
    total = p.sum(axis=-1, keepdims=True)

    def pullback(dy: Array) -> tuple[Array, None, None]:
        dp = (dy - (dy * p / total).sum(axis=-1, keepdims=True)) / total if normalise else dy
        of_each = chosen[..., None] == np.arange(probabilities.shape[-1])  # [..., k, E]
        (d_logits,) = softmax_back((dp[..., None] * of_each).sum(axis=-2))
        return d_logits, None, None

    return p / total if normalise else p, pullback


def experts(
    x: ArrayLike, chosen: ArrayLike, weights: ArrayLike, gate: ArrayLike, up: ArrayLike, down: ArrayLike,
    activation: str = "swiglu",
) -> Array:  # fmt: skip
    """Each expert makes activation(x gate, x up) down of the tokens that chose it, which is added with their weight.

    x [..., D], chosen and weights [..., k], gate and up [E, D, F], down [E, F, D] -> [..., D].
    """
    return experts_vjp(x, chosen, weights, gate, up, down, activation)[0]


@vjp
def experts_vjp(
    x: ArrayLike, chosen: ArrayLike, weights: ArrayLike, gate: ArrayLike, up: ArrayLike, down: ArrayLike,
    activation: str = "swiglu",
) -> Vjp:  # fmt: skip
    """Back through each expert for its tokens; the gradient of a weight is dy times what its expert made."""
    x, weights, gate, up, down = (float64(one) for one in (x, weights, gate, up, down))
    tokens, shares = x.reshape(-1, x.shape[-1]), weights.reshape(-1, weights.shape[-1])
    taken = [np.asarray(chosen).reshape(shares.shape) == e for e in range(len(gate))]  # of each expert [N, k]
    rows = [mine.any(axis=-1) for mine in taken]
    own = [(shares * mine).sum(axis=-1, keepdims=True) for mine in taken]
    parts = [
        _expert_vjp(tokens[its], its_gate, its_up, its_down, activation)
        for its, its_gate, its_up, its_down in zip(rows, gate, up, down, strict=True)
    ]
    y = np.zeros_like(tokens)
    for its, share, (made, _) in zip(rows, own, parts, strict=True):
        y[its] += share[its] * made

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dy, of_kernels = dy.reshape(tokens.shape), []
        dx, d_weights = np.zeros_like(tokens), np.zeros_like(shares)
        for mine, its, share, (made, back) in zip(taken, rows, own, parts, strict=True):
            d_tokens, *d_kernels = back(share[its] * dy[its])
            dx[its] += d_tokens
            d_weights[its] += mine[its] * (dy[its] * made).sum(axis=-1, keepdims=True)
            of_kernels.append(d_kernels)
        d_gate, d_up, d_down = (float64(one) for one in zip(*of_kernels, strict=True))
        return dx.reshape(x.shape), None, d_weights.reshape(weights.shape), d_gate, d_up, d_down, None

    return y.reshape(x.shape), pullback


def _expert_vjp(x: Array, gate: Array, up: Array, down: Array, activation: str) -> Vjp:
    """One expert for the tokens x [N, D]."""
    gated, gate_back = linear_vjp(x, gate)
    passed, up_back = linear_vjp(x, up)
    hidden, activation_back = GATED_VJPS[activation](gated, passed)
    y, down_back = linear_vjp(hidden, down)

    def pullback(dy: Array) -> tuple[Array, ...]:
        d_hidden, d_down = down_back(dy)
        d_gated, d_passed = activation_back(d_hidden)
        dx, d_gate = gate_back(d_gated)
        more, d_up = up_back(d_passed)
        return dx + more, d_gate, d_up, d_down

    return y, pullback


def mixture(
    params: Params, x: ArrayLike, n_per_token: int, normalise: bool = True, activation: str = "swiglu",
    seen: dict[str, Array] | None = None,
) -> Array:  # fmt: skip
    """Twin of the module `Experts`; `seen` is filled with the result of the router."""
    seen = {} if seen is None else seen
    logits = seen["router"] = linear_map(params["router"], x)
    chosen = chosen_experts(logits, n_per_token)
    gate, up, down = (params[name]["kernels"] for name in ("gate", "up", "down"))
    return experts(x, chosen, expert_weights(logits, chosen, normalise), gate, up, down, activation)


@vjp
def mixture_vjp(
    params: Params, x: ArrayLike, n_per_token: int, normalise: bool = True, activation: str = "swiglu",
    cotangents: dict[str, Array] | None = None,
) -> Vjp:  # fmt: skip
    """x is read by the experts and by the router, so its gradients are added.

    `cotangents` is filled with the gradient at the result of the router.
    """
    cotangents = {} if cotangents is None else cotangents
    logits, router_back = linear_map_vjp(params["router"], x)
    chosen = chosen_experts(logits, n_per_token)
    weights, weights_back = expert_weights_vjp(logits, chosen, normalise)
    kernels = (params[name]["kernels"] for name in ("gate", "up", "down"))
    y, experts_back = experts_vjp(x, chosen, weights, *kernels, activation)

    def pullback(dy: Array) -> tuple[Params | Array | None, ...]:
        dx, _, d_weights, gate, up, down, _ = experts_back(dy)
        cotangents["router"] = weights_back(d_weights)[0]
        d_router, more = router_back(cotangents["router"])
        d_params = {"router": d_router, "gate": {"kernels": gate}, "up": {"kernels": up}, "down": {"kernels": down}}
        return d_params, dx + more, None, None, None, None

    return y, pullback
