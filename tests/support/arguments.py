"""Arguments for every function of the reference, of random sizes and memory layouts, drawn by hypothesis."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from held import ABSOLUTE, PLACED
from hypothesis import strategies as st

from jaxllm.config import Rotary

RATIOS = st.sampled_from([1.0, 2.5])  # of widths, for muP


def soft_cap_vjp(z: np.ndarray) -> tuple[np.ndarray, Any]:
    y = 3 * np.tanh(z / 3)
    return y, lambda dy: (dy * (1 - (y / 3) ** 2),)


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

    def change(self) -> Any:
        """Perhaps an elementwise function of logits, as a user's twin: a soft cap."""
        cap = SimpleNamespace(function=lambda z: 3 * np.tanh(z / 3), vjp=soft_cap_vjp)
        return self.data.draw(st.sampled_from([None, cap]))

    def spread(self, *shape: int) -> np.ndarray:
        """Rows of numbers at least 0.05 from 0 and 0.7 from each other: no small step passes a kink or changes the
        order, and no norm divides by a tiny number."""
        order = self.rng.permuted(np.broadcast_to(np.arange(shape[-1], dtype=float), shape), axis=-1)
        return order - shape[-1] / 2 + 0.2 + self.rng.uniform(-0.15, 0.15, size=shape)

    def linear(self, n: int, m: int) -> dict[str, np.ndarray]:
        bias = {"bias": self.array(m)} if self.data.draw(st.booleans()) else {}
        return {"kernel": self.array(n, m) / n**0.5, **bias}

    def norm(self, n: int) -> dict[str, np.ndarray]:
        return {"scale": self.array(n)} | ({"bias": self.array(n)} if self.data.draw(st.booleans()) else {})

    def mask(self, *shape: int) -> np.ndarray | None:
        return self.rng.random(shape) < 0.6 if self.data.draw(st.booleans()) else None

    def documents(self, *shape: int) -> np.ndarray | None:
        """Numbers that rise along the last axis at random places, or None."""
        return np.cumsum(self.rng.random(shape) < 0.4, -1) if self.data.draw(st.booleans()) else None

    def answers(self, high: int, *shape: int) -> np.ndarray:
        """Targets, some of which are -1: nothing is learned there."""
        return np.asarray(self.rng.integers(-1, high, size=shape))

    def perhaps(self, *these: Any) -> list[Any]:
        """These arguments, or none."""
        return [*these] if self.data.draw(st.booleans()) else []

    def maps(self, d: int, **features: int) -> dict[str, Any]:
        return {name: self.linear(d, f) for name, f in features.items()}


def linear(d: Draw) -> list[Any]:
    n, m = d.size(), d.size()
    return [d.array(*d.sizes(), n), d.array(n, m), *([d.array(m)] if d.data.draw(st.booleans()) else [])]


def lora_linear(d: Draw) -> list[Any]:
    n, m, rank, rows = d.size(), d.size(), d.size(2), d.sizes()
    kernels = d.array(n, m), d.array(n, rank), d.array(rank, m)
    return [d.array(*rows, n), *kernels, d.data.draw(RATIOS), *d.perhaps(2.0 * (d.rng.random((*rows, n)) < 0.5))]


def int8_linear(d: Draw) -> list[Any]:
    n, m = d.size(), d.size()
    return [d.array(*d.sizes(), n), d.rng.integers(-9, 10, size=(n, m)).astype(np.int8), d.array(m)]


def norm(d: Draw) -> list[Any]:
    n = d.size(5)
    return [d.spread(*d.sizes(), n), d.array(n), *([d.array(n)] if d.data.draw(st.booleans()) else [])]


def queries(d: Draw) -> list[Any]:
    lead, t, s, k = d.sizes(), d.size(), d.size(), d.size()
    return [d.array(*lead, t, k), d.array(*lead, s, k), d.mask(t, s), *d.perhaps(PLACED)]


def attention_arguments(d: Draw) -> list[Any]:
    q, k, mask, *score = queries(d)
    v = d.array(*k.shape[:-1], d.size())
    weights = (*q.shape[:-1], k.shape[-2])
    return [q, k, v, mask, *d.perhaps(2.0 * (d.rng.random(weights) < 0.5), *score)]


def heads(d: Draw) -> tuple[dict[str, Any], int, int, int, Rotary | None]:
    """Parameters of multi-head attention, width, heads, key heads, and perhaps a Rotary where K is even."""
    groups, per_group, k, width = d.size(2), d.size(2), d.size(4), d.size(6, 4)
    n = groups * per_group
    params = d.maps(width, query=n * k, key=groups * k, value=groups * k) | {"output": d.linear(n * k, width)}
    rotates = k % 2 == 0 and d.data.draw(st.booleans())
    if rotates:
        params |= {"query_norm": {"scale": d.array(k)}, "key_norm": {"scale": d.array(k)}}
    scale = d.data.draw(st.sampled_from([1.0, 1.5]))
    rotary = Rotary(20.0, d.data.draw(st.booleans()), 2.0, 1.0, 8.0, 50, "yarn", scale=scale)
    return params, width, n, groups, rotary if rotates else None


def rotations(d: Draw) -> list[Any]:
    """Queries or keys, positions and frequencies."""
    k, t = d.size(3), d.size()
    kind = [d.data.draw(st.booleans()), d.data.draw(st.sampled_from([1.0, 1.5]))]
    return [d.array(*d.sizes(), t, 2 * k), d.rng.integers(9, size=t), d.array(k), *kind]


def rotated_heads(d: Draw) -> list[Any]:
    """Queries or keys, how they are rotated, perhaps their positions, and the part of the features."""
    lead, t = d.sizes(1), d.size()
    places = d.data.draw(st.sampled_from([None, d.rng.integers(9, size=(*lead, t))]))
    rotary = Rotary(20.0, d.data.draw(st.booleans()), scale=d.data.draw(st.sampled_from([1.0, 1.5])))
    return [d.array(*lead, d.size(3), t, 8), rotary, places, d.data.draw(st.sampled_from([0.25, 0.8, 1.0]))]


def grouped_attention(d: Draw) -> list[Any]:
    groups, per_group, t, s, k = d.size(2), d.size(3), d.size(), d.size(), d.size()
    lead = d.sizes(1)
    shapes = ((groups * per_group, t, k), (groups, k, s), (groups, s, d.size()))
    places = (d.rng.integers(9, size=(*lead, n)) for n in (t, s))
    return [
        *(d.array(*lead, *shape) for shape in shapes),
        d.rng.random((*lead, t, s)) < 0.6,
        *d.perhaps(PLACED, *places),
    ]


def multi_head_attention(d: Draw) -> list[Any]:
    params, width, n, groups, rotary = heads(d)
    x = d.array(*d.sizes(1), d.size(), width) if rotary is None else d.spread(*d.sizes(1), d.size(), width)
    if rotary is not None or d.data.draw(st.booleans()):
        within = d.documents(*x.shape[:-1])
        return [params, x, n, groups, None, True, within, d.size(), rotary, 0.1, *d.perhaps(None, ABSOLUTE, PLACED)]
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
    activation = d.data.draw(st.sampled_from(["gelu_tanh", "gelu", "swiglu", "geglu"]))
    gate = {"gate": d.linear(n, m)} if activation.endswith("glu") else {}
    return [{"up": d.linear(n, m), **gate, "down": d.linear(m, n)}, d.array(*d.sizes(), n), activation]


def embedding(d: Draw) -> list[Any]:
    v = d.size()
    return [d.array(v, d.size()), d.rng.integers(v, size=d.sizes())]


def ngrams(d: Draw) -> list[Any]:
    longest, shape = d.size(4, 2), (*d.sizes(), d.size())
    return [d.array((longest - 1) * d.size(), d.size()), d.rng.integers(4, size=shape), longest, d.documents(*shape)]


def logits(d: Draw) -> list[Any]:
    v = d.size(5)
    shape = d.sizes()
    return [d.array(*shape, v), d.rng.integers(v, size=shape)]


def same_positions(d: Draw) -> list[Any]:
    lead, width = (*d.sizes(1), d.size()), d.size()
    window = d.data.draw(st.sampled_from([None, 1, 2]))
    return [
        d.array(*lead, width),
        d.array(*lead, width),
        d.array(*lead, d.size()),
        d.documents(*lead),
        window,
        *d.perhaps(ABSOLUTE, PLACED),
    ]


def head(d: Draw) -> list[Any]:
    lead, classes, width = d.sizes(), d.size(5), d.size()
    targets, weights = d.rng.integers(classes, size=lead), 0.1 + d.rng.random(lead)
    return [d.array(classes, width), d.array(*lead, width), np.asarray(targets), np.asarray(weights), d.change()]


def answers(d: Draw) -> list[Any]:
    v, shape = d.size(5), d.sizes()
    return [d.array(*shape, v), d.answers(v, *shape)]


def log_probs(d: Draw) -> list[Any]:
    shape, v, width = (*d.sizes(), d.size()), d.size(5), d.size()
    return [d.array(v, width), d.array(*shape, width), d.answers(v, *shape), d.change()]


def pairs(d: Draw) -> list[Any]:
    shape = d.sizes()
    return [*(np.asarray(d.array(*shape, 1)[..., 0]) for _ in range(4)), 0.1 + d.rng.random()]


def weighted(d: Draw) -> list[Any]:
    given = logits(d)
    return [*given, np.asarray(0.1 + d.rng.random(given[1].shape))] if d.data.draw(st.booleans()) else given


def lens(d: Draw) -> list[Any]:
    n, v, tied = d.size(5), d.size(), d.data.draw(st.booleans())
    kind = d.data.draw(st.sampled_from(["layer_norm", "rms_norm"]))
    config = SimpleNamespace(
        norm=kind,
        norm_epsilon=0.1,
        tie_embeddings=tied,
        logits=d.change(),
        width_ratio=d.data.draw(RATIOS),
        logits_softcap=None,
    )
    head = {"token_embedding": {"table": d.array(v, n)}} if tied else {"head": {"kernel": d.array(n, v)}}
    return [config, {"norm_final": d.norm(n), **head}, d.spread(*d.sizes(), n)]


def kernels_of_experts(d: Draw, width: int, n: int) -> dict[str, Any]:
    """Parameters of a mixture of n experts. A token passes through all, or a small step might choose others."""
    hidden = d.size()
    gate, up, down = (d.array(n, *shape) for shape in ((width, hidden), (width, hidden), (hidden, width)))
    maps = {"gate": {"kernels": gate}, "up": {"kernels": up}, "down": {"kernels": down}}
    return maps | {"router": {"kernel": d.spread(width, n)}}


def mixture(d: Draw) -> list[Any]:
    width, n = d.size(), d.size(4)
    params, x = kernels_of_experts(d, width, n), d.array(*d.sizes(), width)
    return [params, x, n, *d.perhaps(False, "geglu")]


def experts(d: Draw) -> list[Any]:
    width, n, k, lead = d.size(), d.size(4), d.size(2), d.sizes()
    params = kernels_of_experts(d, width, n)
    kernels = [params[name]["kernels"] for name in ("gate", "up", "down")]
    return [d.array(*lead, width), d.rng.integers(n, size=(*lead, k)), d.array(*lead, k), *kernels, *d.perhaps("geglu")]


def block_of(d: Draw) -> tuple[Any, dict[str, Any], int]:
    params, width, n, groups, rotary = heads(d)
    hidden = d.size()
    up, down = d.linear(width, hidden), d.linear(hidden, width)
    config = SimpleNamespace(
        norm=d.data.draw(st.sampled_from(["layer_norm", "rms_norm"])), activation="gelu", n_heads=n, kv_heads=groups,
        rotary=rotary, norm_epsilon=0.01, sliding_window=d.data.draw(st.sampled_from([None, 2])), d_model=width,
        scale_embeddings=d.data.draw(st.booleans()), visible=d.data.draw(st.sampled_from([None, ABSOLUTE])),
        score=d.data.draw(st.sampled_from([None, PLACED])), n_experts=d.data.draw(st.sampled_from([0, 3])),
        n_experts_per_token=3, normalise_experts=d.data.draw(st.booleans()),
        rotary_fraction=1.0, score_softcap=None, qk_norm=True,
        norm_place=d.data.draw(st.sampled_from(["before", "after", "both"])), rope_local_base=None, rotary_pattern=None,
        parallel_residual=d.data.draw(st.booleans()), layer_pattern=None,
        attention_scale=d.data.draw(st.sampled_from([None, 0.7])),
    )  # fmt: skip
    mlp = {"up": up, "down": down}
    if config.n_experts:
        config.activation, mlp = "swiglu", kernels_of_experts(d, width, config.n_experts)
    if config.score is None and d.data.draw(st.booleans()):
        config.score_softcap = 1.5
    if config.sliding_window is not None and config.visible is None:
        config.layer_pattern = d.data.draw(st.sampled_from([None, "L", "GL"]))
        config.rope_local_base = d.data.draw(st.sampled_from([None, 7.0])) if config.layer_pattern else None
    if rotary is not None:
        config.rotary_pattern = d.data.draw(st.sampled_from([None, "N", "RN"]))
        if d.data.draw(st.booleans()):
            config.qk_norm = "whole"
            for name in ("query", "key"):
                params[f"{name}_norm"] = {"scale": d.array(params[name]["kernel"].shape[1])}
    norms = ["norm_1", "norm_2", *(["norm_1_after", "norm_2_after"] if config.norm_place == "both" else [])]
    block = {name: d.norm(width) for name in norms} | {"attention": params, "mlp": mlp}
    return config, block, width


def block(d: Draw) -> list[Any]:
    config, params, width = block_of(d)
    x = d.spread(*d.sizes(1), d.size(), width)
    return [config, params, x, d.documents(*x.shape[:-1]), *d.perhaps(None, d.size(2, 0))]


def model(d: Draw) -> list[Any]:
    config, params, width = block_of(d)
    v, t = d.size(6, 2), d.size()
    config.tie_embeddings, config.n_layers, config.width_ratio = d.data.draw(st.booleans()), 1, d.data.draw(RATIOS)
    config.n_classes = d.data.draw(st.sampled_from([0, 3]))
    config.separator = d.data.draw(st.sampled_from([None, 0]))
    config.position = d.data.draw(st.sampled_from(["learned", "sinusoidal"])) if width % 2 == 0 else "learned"
    config.position = config.position if config.rotary is None else "rotary"
    config.adds_positions, config.block, config.logits = config.rotary is None, None, d.change()
    config.logits_softcap = 2.0 if config.logits is None and d.data.draw(st.booleans()) else None
    config.ngrams = d.size(3)
    params = {"block_0": params, "norm_final": d.norm(width), "token_embedding": {"table": d.spread(v, width)}}
    if config.ngrams > 1:
        params["ngram_embedding"] = {"table": d.array((config.ngrams - 1) * d.size(), width)}
    if config.position == "learned":
        params["position_embedding"] = {"table": d.array(t + 1, width)}
    if config.n_classes:
        params["classifier"] = {"kernel": d.array(width, 3), "bias": d.array(3)}
    elif not config.tie_embeddings:
        params["head"] = {"kernel": d.array(width, v)}
    return [config, params, d.rng.integers(v, size=(d.size(2), t))]


def lookup(d: Draw) -> list[Any]:
    rows, width = d.size(3), d.size(9)
    length = d.size(width)
    return [d.rng.integers(3, size=(rows, width)), length, d.rng.integers(length, size=rows), d.size()]


ARGUMENTS: dict[str, Callable[[Draw], list[Any]]] = {
    "layers.linear": linear,
    "layers.linear_map": lambda d: [d.linear(3, 2), d.array(*d.sizes(), 3)],
    "layers.layer_norm": norm,
    "layers.rms_norm": norm,
    "layers.norm": lambda d: [d.norm(4), d.spread(*d.sizes(), 4), d.data.draw(st.sampled_from(["layer_norm", "rms_norm"]))],
    "layers.gelu_tanh": lambda d: [d.array(*d.sizes(), 3)],
    "layers.gelu": lambda d: [d.array(*d.sizes(), 3)],
    "layers.relu": lambda d: [d.spread(*d.sizes(), 5)],
    "layers.squared_relu": lambda d: [d.spread(*d.sizes(), 5)],
    "layers.silu": lambda d: [d.array(*d.sizes(), 3)],
    "layers.swiglu": lambda d: [d.array(2, 3), d.array(2, 3)],
    "layers.geglu": lambda d: [d.array(2, 3), d.array(2, 3)],
    "layers.softmax": lambda d: [d.array(*d.sizes(), d.size())],
    "layers.dropout": lambda d: [d.array(2, 1, 3), d.array(2, d.size(), 3)],
    "layers.mlp": mlp,
    "embeddings.token_embedding": embedding,
    "lookup.drafted": lookup,
    "embeddings.ngram_ids": lambda d: [d.rng.integers(9, size=(*d.sizes(), d.size())), d.size(), d.size(9)],
    "embeddings.ngram_embedding": ngrams,
    "embeddings.token_logits": lambda d: [d.array(d.size(), 3), d.array(*d.sizes(), 3)],
    "embeddings.learned_positions": lambda d: [d.array(4, d.size()), d.size()],
    "embeddings.sinusoidal_embedding": lambda d: [d.rng.integers(9, size=d.sizes()), 2 * d.size()],
    "rotary.rotary_frequencies": lambda d: [2 * d.size(), 100.0, d.data.draw(st.sampled_from([1.0, 4.0])), 1.0, 4.0, 50, *d.perhaps("yarn", False)],
    "softcap.softcap": lambda d: [d.array(*d.sizes(), d.size()), d.data.draw(st.sampled_from([0.5, 3.0]))],
    "rotary.rotate": rotations,
    "rotary.rotate_heads": rotated_heads,
    "embeddings.sinusoidal_positions": lambda d: [d.size(), 2 * d.size()],
    "embeddings.position_embedding": lambda d: [{"table": d.array(5, 4)}, d.array(*d.sizes(1), d.size(), 4)],
    "attention.simple_attention_weights": lambda d: [d.array(*d.sizes(1), d.size(), d.size())],
    "attention.simple_attention": lambda d: [d.array(*d.sizes(1), d.size(), d.size())],
    "attention.visible": lambda d: [d.rng.integers(5, size=(3, 1)), d.rng.integers(5, size=(1, 4))],
    "attention.causal_mask": lambda d: [d.size()],
    "attention.document_numbers": lambda d: [d.rng.integers(2, size=(*d.sizes(), d.size())), 1],
    "attention.change_scores": lambda d: [d.array(*d.sizes(), d.size(), d.size()), PLACED],
    "attention.document_mask": lambda d: [d.rng.integers(2, size=(*d.sizes(), d.size()))],
    "attention.attention_weights": queries,
    "attention.scaled_dot_product_attention": attention_arguments,
    "attention.split_heads": lambda d: [d.array(*d.sizes(1), d.size(), 6), d.data.draw(st.sampled_from([1, 2, 3, 6]))],
    "attention.merge_heads": lambda d: [d.array(*d.sizes(1), d.size(), d.size(), d.size())],
    "attention.repeat_heads": lambda d: [d.array(*d.sizes(1), 2, d.size(), d.size()), 2 * d.size()],
    "attention.self_attention": self_attention,
    "attention.causal_attention": causal_attention,
    "multi_head.multi_head_attention": multi_head_attention,
    "attention.causal_dot_product_attention": same_positions,
    "fast.cached_gpt.grouped_attention": grouped_attention,
    "fast.few_rows.rows_product": lambda d: [d.array(*d.sizes(), 3), d.array(d.size(), 3)],
    "experts.chosen_experts": lambda d: [d.spread(*d.sizes(), 4), d.size(4)],
    "experts.expert_weights": lambda d: [d.array(*(lead := d.sizes()), 4), d.rng.integers(4, size=(*lead, d.size(3))), *d.perhaps(False)],
    "experts.experts": experts,
    "experts.mixture": mixture,
    "gpt.block": block,
    "gpt.forward": model,
    "logit_lens.logit_lens": lens,
    "lora.lora_linear": lora_linear,
    "lora.int8_linear": int8_linear,
    "loss.token_losses": logits,
    "loss.cross_entropy": weighted,
    "loss.head_loss": head,
    "loss.learned": lambda d: [d.answers(4, *d.sizes())],
    "loss.answer_losses": answers,
    "loss.answer_log_probs": log_probs,
    "loss.dpo_margins": pairs,
    "loss.dpo_losses": pairs,
    "sampling.repetition_penalty": lambda d: [d.spread(2, 4), d.rng.random((2, 4)) < 0.5, np.asarray(1.3)],
    "sampling.scale_temperature": lambda d: [d.array(*d.sizes(), 4), np.asarray(0.5 + d.rng.random())],
    "sampling.top_k": lambda d: [d.spread(*d.sizes(), 5), d.size(6)],
    "sampling.top_p": lambda d: [d.spread(*d.sizes(), 5), 0.05 + 0.9 * d.rng.random()],
    "sampling.min_p": lambda d: [d.spread(*d.sizes(), 5), d.rng.random()],
}  # fmt: skip
