"""The reference by itself, without JAX: every hand-written derivative against differences of its function."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twins import functions

from jaxllm import reference
from jaxllm.reference import attention, embeddings, gpt, layers, loss, optimizer, sampling, step
from jaxllm.reference.arrays import leaves, tree_map
from jaxllm.reference.layers import linear_map_vjp

MODULES = (attention, embeddings, gpt, layers, loss, sampling)
WITHOUT_BACKWARD = {  # helpers, and the model with its intermediates, whose backward is forward_vjp
    "named", "forward_with_intermediates",
}  # fmt: skip
H = 2e-4  # of the differences


class Draw:
    """Sizes of 1 to 4 and arrays of any memory layout, from hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def size(self, most: int = 4, least: int = 1) -> int:
        return self.data.draw(st.integers(least, most))

    def sizes(self, most: int = 2) -> tuple[int, ...]:
        """Leading axes, perhaps none, perhaps of size 1."""
        return tuple(self.size(3) for _ in range(self.data.draw(st.integers(0, most))))

    def array(self, *shape: int) -> np.ndarray:
        """Normal numbers: contiguous, transposed in memory, every second of a larger array, or backwards."""
        layout = self.data.draw(st.sampled_from(["C", "F", "strided", "reversed"]))
        if layout == "strided":
            return self.rng.normal(size=(*shape[:-1], 2 * shape[-1]))[..., ::2]
        if layout == "reversed":
            return self.rng.normal(size=shape)[..., ::-1]
        return np.asarray(self.rng.normal(size=shape), order=layout)

    def spread(self, *shape: int) -> np.ndarray:
        """Rows of numbers that lie apart, so that no norm divides by almost nothing and no order changes."""
        order = self.rng.permuted(np.broadcast_to(np.arange(shape[-1], dtype=float), shape), axis=-1)
        return order - shape[-1] / 2 + 0.2 + 0.1 * self.array(*shape)

    def linear(self, n: int, m: int) -> dict[str, np.ndarray]:
        bias = {"bias": self.array(m)} if self.data.draw(st.booleans()) else {}
        return {"kernel": self.array(n, m) / n**0.5, **bias}

    def norm(self, n: int) -> dict[str, np.ndarray]:
        return {"scale": self.array(n)} | ({"bias": self.array(n)} if self.data.draw(st.booleans()) else {})

    def mask(self, *shape: int) -> np.ndarray | None:
        return self.rng.random(shape) < 0.6 if self.data.draw(st.booleans()) else None

    def maps(self, d: int, **features: int) -> dict[str, Any]:
        return {name: self.linear(d, f) for name, f in features.items()}


def linear(d: Draw) -> list[Any]:
    n, m = d.size(), d.size()
    return [d.array(*d.sizes(), n), d.array(n, m), *([d.array(m)] if d.data.draw(st.booleans()) else [])]


def norm(d: Draw) -> list[Any]:
    n = d.size(5)
    return [d.spread(*d.sizes(), n), d.array(n), *([d.array(n)] if d.data.draw(st.booleans()) else [])]


def queries(d: Draw) -> list[Any]:
    lead, t, s, k = d.sizes(), d.size(), d.size(), d.size()
    return [d.array(*lead, t, k), d.array(*lead, s, k), d.mask(t, s)]


def attention_arguments(d: Draw) -> list[Any]:
    q, k, mask = queries(d)
    v = d.array(*k.shape[:-1], d.size())
    weights = (*q.shape[:-1], k.shape[-2])
    return [q, k, v, mask, *([2.0 * (d.rng.random(weights) < 0.5)] if d.data.draw(st.booleans()) else [])]


def heads(d: Draw) -> tuple[dict[str, Any], int, int, int]:
    """Parameters of multi-head attention, width, heads and key heads."""
    groups, per_group, k, width = d.size(2), d.size(2), d.size(3), d.size(6, 4)
    n = groups * per_group
    params = d.maps(width, query=n * k, key=groups * k, value=groups * k) | {"output": d.linear(n * k, width)}
    return params, width, n, groups


def multi_head_attention(d: Draw) -> list[Any]:
    params, width, n, groups = heads(d)
    x = d.array(*d.sizes(1), d.size(), width)
    if d.data.draw(st.booleans()):
        return [params, x, n, groups]
    return [params, x, n, groups, d.array(*x.shape[:-2], d.size(), width), False]


def self_attention(d: Draw) -> list[Any]:
    n, m, f, t, s = d.size(), d.size(), d.size(), d.size(), d.size()
    lead = d.sizes(1)
    params = {"query": d.linear(n, f), "key": d.linear(m, f), "value": d.linear(m, f)}
    return [params, d.array(*lead, t, n), d.array(*lead, s, m), d.mask(t, s)]


def causal_attention(d: Draw) -> list[Any]:
    n, f = d.size(), d.size()
    return [d.maps(n, query=f, key=f, value=f), d.array(*d.sizes(1), d.size(), n)]


def mlp(d: Draw) -> list[Any]:
    n, m = d.size(), d.size()
    activation = d.data.draw(st.sampled_from(["gelu_tanh", "gelu"]))
    return [{"up": d.linear(n, m), "down": d.linear(m, n)}, d.array(*d.sizes(), n), activation]


def embedding(d: Draw) -> list[Any]:
    v = d.size()
    return [d.array(v, d.size()), d.rng.integers(v, size=d.sizes())]


def logits(d: Draw) -> list[Any]:
    v = d.size(5)
    shape = d.sizes()
    return [d.array(*shape, v), d.rng.integers(v, size=shape)]


def weighted(d: Draw) -> list[Any]:
    given = logits(d)
    return [*given, np.asarray(0.1 + d.rng.random(given[1].shape))] if d.data.draw(st.booleans()) else given


def block_of(d: Draw) -> tuple[Any, dict[str, Any], int]:
    params, width, n, groups = heads(d)
    hidden = d.size()
    up, down = d.linear(width, hidden), d.linear(hidden, width)
    config = SimpleNamespace(
        norm=d.data.draw(st.sampled_from(["layer_norm", "rms_norm"])), activation="gelu", n_heads=n, kv_heads=groups
    )
    block = {"norm_1": d.norm(width), "attention": params, "norm_2": d.norm(width), "mlp": {"up": up, "down": down}}
    return config, block, width


def block(d: Draw) -> list[Any]:
    config, params, width = block_of(d)
    return [config, params, d.spread(*d.sizes(1), d.size(), width)]


def model(d: Draw) -> list[Any]:
    config, params, width = block_of(d)
    v, t = d.size(6, 2), d.size()
    config.tie_embeddings, config.n_layers = d.data.draw(st.booleans()), 1
    config.position = d.data.draw(st.sampled_from(["learned", "sinusoidal"])) if width % 2 == 0 else "learned"
    params = {"block_0": params, "norm_final": d.norm(width), "token_embedding": {"table": d.spread(v, width)}}
    if config.position == "learned":
        params["position_embedding"] = {"table": d.array(t + 1, width)}
    if not config.tie_embeddings:
        params["head"] = {"kernel": d.array(width, v)}
    return [config, params, d.rng.integers(v, size=(d.size(2), t))]


ARGUMENTS: dict[str, Callable[[Draw], list[Any]]] = {
    "layers.linear": linear,
    "layers.linear_map": lambda d: [d.linear(3, 2), d.array(*d.sizes(), 3)],
    "layers.layer_norm": norm,
    "layers.rms_norm": norm,
    "layers.norm": lambda d: [d.norm(4), d.spread(*d.sizes(), 4), d.data.draw(st.sampled_from(["layer_norm", "rms_norm"]))],
    "layers.gelu_tanh": lambda d: [d.array(*d.sizes(), 3)],
    "layers.gelu": lambda d: [d.array(*d.sizes(), 3)],
    "layers.relu": lambda d: [d.spread(*d.sizes(), 5)],
    "layers.softmax": lambda d: [d.array(*d.sizes(), d.size())],
    "layers.dropout": lambda d: [d.array(2, 1, 3), d.array(2, d.size(), 3)],
    "layers.mlp": mlp,
    "embeddings.token_embedding": embedding,
    "embeddings.token_logits": lambda d: [d.array(d.size(), 3), d.array(*d.sizes(), 3)],
    "embeddings.learned_positions": lambda d: [d.array(4, d.size()), d.size()],
    "embeddings.sinusoidal_positions": lambda d: [d.size(), 2 * d.size()],
    "embeddings.position_embedding": lambda d: [{"table": d.array(5, 4)}, d.array(*d.sizes(1), d.size(), 4)],
    "attention.simple_attention": lambda d: [d.array(*d.sizes(1), d.size(), d.size())],
    "attention.causal_mask": lambda d: [d.size()],
    "attention.attention_weights": queries,
    "attention.scaled_dot_product_attention": attention_arguments,
    "attention.split_heads": lambda d: [d.array(*d.sizes(1), d.size(), 6), d.data.draw(st.sampled_from([1, 2, 3, 6]))],
    "attention.merge_heads": lambda d: [d.array(*d.sizes(1), d.size(), d.size(), d.size())],
    "attention.repeat_heads": lambda d: [d.array(*d.sizes(1), 2, d.size(), d.size()), 2 * d.size()],
    "attention.self_attention": self_attention,
    "attention.causal_attention": causal_attention,
    "attention.multi_head_attention": multi_head_attention,
    "gpt.block": block,
    "gpt.forward": model,
    "loss.token_losses": logits,
    "loss.cross_entropy": weighted,
    "sampling.scale_temperature": lambda d: [d.array(*d.sizes(), 4), np.asarray(0.5 + d.rng.random())],
    "sampling.top_k": lambda d: [d.spread(*d.sizes(), 5), d.size(6)],
    "sampling.top_p": lambda d: [d.spread(*d.sizes(), 5), 0.05 + 0.9 * d.rng.random()],
    "sampling.min_p": lambda d: [d.spread(*d.sizes(), 5), d.rng.random()],
}  # fmt: skip


def find(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    module, function = name.split(".")
    home = getattr(reference, module)
    return getattr(home, function), getattr(home, f"{function}_vjp")


def test_every_function_has_a_backward_and_arguments() -> None:
    there = {
        f"{m.__name__.rpartition('.')[2]}.{f}"
        for m in MODULES
        for f in functions(m)
        if not f.endswith("_vjp") and f not in WITHOUT_BACKWARD
    }
    assert there == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
@settings(max_examples=30)
@given(data=st.data())
def test_the_backward_is_the_derivative(name: str, data: st.DataObject) -> None:
    """Along a random direction of each argument, which no wrong entry of a gradient survives."""
    draw = Draw(data)
    arguments = ARGUMENTS[name](draw)
    function, function_vjp = find(name)
    before = [tree_map(np.copy, a) for a in arguments]
    value, pullback = function_vjp(*arguments)
    np.testing.assert_array_equal(value, function(*arguments))
    dy = draw.rng.normal(size=np.shape(value))
    gradients = pullback(dy)
    assert len(gradients) == len(arguments)
    for i, gradient in enumerate(gradients):
        if not has_derivative(arguments[i]):
            assert gradient is None
            continue
        v = tree_map(lambda x: draw.rng.normal(size=np.shape(x)), arguments[i])
        tree_map(lambda g, x: np.testing.assert_equal(np.shape(g), np.shape(x)), gradient, arguments[i])
        got = dot(gradient, v)
        want = difference(function, arguments, i, v, dy)
        size = norm_of(gradient) * norm_of(v) + abs(want) + 1e-3
        assert abs(got - want) <= 1e-7 * size, f"argument {i}: {got} by the backward, {want} by differences"
    for a, b in zip(arguments, before, strict=True):
        tree_map(np.testing.assert_array_equal, a, b)  # nothing given was changed


def has_derivative(x: Any) -> bool:
    return bool(leaves(x)) and all(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in leaves(x))


def dot(a: Any, b: Any) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(leaves(a), leaves(tree_map(lambda _, y: y, a, b)), strict=True)))


def norm_of(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(x**2) for x in leaves(tree))))


def difference(function: Callable[..., Any], arguments: list[Any], i: int, v: Any, dy: np.ndarray) -> float:
    """(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, of the error h^4."""
    allowed = np.isfinite(function(*arguments))

    def at(t: float) -> float:
        y = function(*arguments[:i], tree_map(lambda x, d: x + t * d, arguments[i], v), *arguments[i + 1 :])
        assume((np.isfinite(y) == allowed).all())  # a token of a sampler that comes or goes is a jump
        return float(np.sum(np.where(allowed, y, 0) * dy))

    return (8 * (at(H) - at(-H)) - (at(2 * H) - at(-2 * H))) / (12 * H)


def test_relu_has_half_a_slope_at_its_kink() -> None:
    (dx,) = layers.relu_vjp(np.array([-1.0, 0.0, 1.0]))[1](np.array([2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(dx, [0, 1, 2])


def test_tokens_outside_have_no_gradient() -> None:
    d_table, none = embeddings.token_embedding_vjp(np.ones((3, 2)), np.array([0, 3, -1, 0]))[1](np.ones((4, 2)))
    np.testing.assert_array_equal(d_table, [[2, 2], [0, 0], [0, 0]])
    assert none is None


def test_a_pullback_returns_one_gradient_for_each_argument_given() -> None:
    """As jax.vjp does: two arguments, two gradients, also where a third may be given."""
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    for arguments in ([x, w], [x, w, b]):
        assert len(layers.linear_vjp(*arguments)[1](np.ones((2, 4)))) == len(arguments)
    assert len(linear_map_vjp({"kernel": w}, x)[1](np.ones((2, 4)))) == 2


CONFIG = SimpleNamespace(
    learning_rate=0.1, min_learning_rate=0.01, warmup_steps=4, beta1=0.9, beta2=0.99, weight_decay=0.1, clip_norm=1.0
)


def test_the_schedule_by_its_corners() -> None:
    rates = [optimizer.learning_rate(CONFIG, 20, s) for s in range(30)]
    np.testing.assert_allclose(rates[:4], [0.02, 0.04, 0.06, 0.08])
    assert rates[4] == pytest.approx(0.1) and rates[12] == pytest.approx(0.055)
    np.testing.assert_allclose(rates[20:], 0.01)


def test_clipping_shortens_and_never_turns() -> None:
    tree = {"a": np.array([3.0, 0.0]), "b": {"c": np.array([[4.0]])}}
    assert optimizer.global_norm(tree) == 5
    assert optimizer.clip_by_global_norm(tree, 5.0) is tree
    clipped = optimizer.clip_by_global_norm(tree, 1.0)
    np.testing.assert_allclose(clipped["a"], [0.6, 0])
    np.testing.assert_allclose(clipped["b"]["c"], [[0.8]])


def test_adamw_against_its_closed_form() -> None:
    """With the same gradient at each step both corrected means are exact: mu' = g, nu' = g^2, so a step is -lr sign(g);

    a matrix decays beside that, a vector does not."""
    params = {"matrix": np.array([[2.0, -3.0]]), "vector": np.array([2.0, -3.0])}
    gradients = tree_map(lambda p: np.full(p.shape, [1e-3, -10.0]), params)
    moments = optimizer.start(params)
    for t in range(1, 4):
        updates, moments = optimizer.adamw(CONFIG, gradients, moments, params, 0.5)
        sign = -0.5 * np.array([1, -1]) / (1 + 1e-8 / np.array([1e-3, 10]))
        np.testing.assert_allclose(updates["vector"], sign, rtol=1e-12)
        np.testing.assert_allclose(updates["matrix"], [sign - 0.5 * 0.1 * params["matrix"][0]], rtol=1e-12)
        assert moments.updates == t
    np.testing.assert_allclose(moments.mu["vector"], (1 - 0.9**3) * gradients["vector"], rtol=1e-12)
    np.testing.assert_allclose(moments.nu["vector"], (1 - 0.99**3) * gradients["vector"] ** 2, rtol=1e-12)


def test_accumulated_micro_batches_are_the_full_batch() -> None:
    from models import TINY, random_gpt, random_tokens

    params = tree_map(np.asarray, random_gpt(TINY)[1])
    x, y = random_tokens(TINY, 4, seed=1), random_tokens(TINY, 4, seed=2)
    whole_loss, whole = step.accumulate(TINY, params, x, y)
    assert whole_loss == pytest.approx(float(loss.cross_entropy(gpt.forward(TINY, params, x), y)), rel=1e-12)
    for n in (2, 4):
        parts_loss, parts = step.accumulate(TINY, params, x, y, n)
        assert parts_loss == pytest.approx(whole_loss, rel=1e-12)
        tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), parts, whole)
