"""Pieces of foreign models without a fault, to plant faults in."""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import ours
from jaxllm.config import GPTConfig
from jaxllm.reference.arrays import Array

GPT_2 = GPTConfig(vocab_size=23, context_length=16, n_layers=2, n_heads=4, d_model=24)
LLAMA = replace(
    GPT_2, norm="rms_norm", norm_epsilon=1e-6, position="rotary", activation="swiglu", n_kv_heads=2, use_bias=False,
    tie_embeddings=False, d_ff=40,
)  # fmt: skip
QWEN_3 = replace(LLAMA, qk_norm=True, n_kv_heads=4, rope_base=1e6)
WINDOWED = replace(GPT_2, sliding_window=5, activation="gelu", position="sinusoidal")
CONFIGS = {"gpt-2": GPT_2, "llama": LLAMA, "qwen-3": QWEN_3, "windowed": WINDOWED}
# Models whose blocks, heads or logits have options of their own.
NEOX = replace(GPT_2, position="rotary", rotary_fraction=0.5, n_heads=3, parallel_residual=True, tie_embeddings=False)
OLMO_2 = replace(LLAMA, norm_place="after", qk_norm="whole", qkv_bias=True)
GEMMA_2 = replace(
    LLAMA, norm_place="both", attention_scale=0.3, score_softcap=3.0, logits_softcap=5.0, sliding_window=5,
    tie_embeddings=True, rope_factor=4.0, rope_original_context=20,
)  # fmt: skip
CONFIGS_OF_OPTIONS = {"neox": NEOX, "olmo-2": OLMO_2, "gemma-2": GEMMA_2}
B, T = 3, 12


def linear(rng: np.random.Generator, n: int, m: int, bias: bool) -> dict[str, Array]:
    """Random parameters of a linear map [n, m]."""
    kernel = {"kernel": rng.normal(size=(n, m)) / n**0.5}
    return kernel | ({"bias": 0.3 * rng.normal(size=m)} if bias else {})


def norm(rng: np.random.Generator, n: int, bias: bool) -> dict[str, Array]:
    """Random parameters of a norm of n features."""
    return {"scale": 1 + 0.3 * rng.normal(size=n)} | ({"bias": 0.2 * rng.normal(size=n)} if bias else {})


def attention(rng: np.random.Generator, c: GPTConfig) -> dict[str, Any]:
    """Random parameters of an attention."""
    widths = {"query": c.n_heads, "key": c.kv_heads, "value": c.kv_heads}
    bias = c.use_bias if c.qkv_bias is None else c.qkv_bias
    maps = {name: linear(rng, c.d_model, n * c.head_dim, bias) for name, n in widths.items()}
    of_norm = {name: n * c.head_dim if c.qk_norm == "whole" else c.head_dim for name, n in widths.items()}
    norms = {f"{name}_norm": norm(rng, of_norm[name], False) for name in ("query", "key") if c.qk_norm}
    return maps | {"output": linear(rng, c.n_heads * c.head_dim, c.d_model, c.use_bias)} | norms


def mlp(rng: np.random.Generator, c: GPTConfig) -> dict[str, Any]:
    """Random parameters of an MLP."""
    maps = ("gate", "up") if c.gated else ("up",)
    inner = {name: linear(rng, c.d_model, c.hidden_dim, c.use_bias) for name in maps}
    return inner | {"down": linear(rng, c.hidden_dim, c.d_model, c.use_bias)}


def block(rng: np.random.Generator, c: GPTConfig) -> dict[str, Any]:
    """Random parameters of a block."""
    names = ["norm_1", "norm_2"] + ["norm_1_after", "norm_2_after"] * (c.norm_place == "both")
    norms = {name: norm(rng, c.d_model, c.use_bias) for name in names}
    return norms | {"attention": attention(rng, c), "mlp": mlp(rng, c)}


def piece(kind: str, c: GPTConfig, seed: int = 0) -> ForeignPiece:
    """A piece of the kind with random parameters, in which theirs is equal to ours."""
    rng = np.random.default_rng(seed)
    d, v = c.d_model, c.vocab_size
    hidden = rng.normal(size=(B, T, d)) * np.exp(rng.normal(size=(B, T, 1)))
    tokens = rng.integers(0, v, (B, T))
    extra: dict[str, Any] = {}
    table = {"table": rng.normal(size=(v, d))}
    x: Any = hidden
    params: dict[str, Any]
    if kind == "token_embedding":
        params, x = table, tokens
    elif kind == "position_embedding":
        params = {"table": rng.normal(size=(c.context_length, d))} if c.position == "learned" else {}
    elif kind == "norm":
        params = norm(rng, d, c.use_bias)
    elif kind == "linear":
        params = linear(rng, d, d, c.use_bias)
    elif kind == "head":
        params = table if c.tie_embeddings else linear(rng, d, v, False)
        norm_params = norm(rng, d, c.use_bias)
        extra = {"before_norm": hidden, "norm_params": norm_params}
        extra |= {} if c.tie_embeddings else {"token_table": table["table"]}
        x = ours(ForeignPiece("norm", "norm_final", c, norm_params, hidden, hidden))
    elif kind == "loss":
        params, x, extra = {}, 2 * rng.normal(size=(B, T, v)), {"targets": np.roll(tokens, -1, 1), "tokens": tokens}
    elif kind == "gradient":
        params, x = {}, _gradients(rng)
        part = 0.01 * rng.normal(size=(7, 5))
        extra = {"n_tokens": B * T, "parts": {"token_embedding/table": {"embedding": part, "head": x["token_embedding/table"] - part}}}  # fmt: skip
    elif kind == "optimizer":
        x = _gradients(rng)
        params = {name: 0.3 * rng.normal(size=g.shape) for name, g in x.items()}
        extra = {"rule": "adamw", "learning_rate": 1e-2, "betas": (0.9, 0.95), "epsilon": 1e-8, "weight_decay": 0.1,
                 "decayed": ["token_embedding/table", "head/kernel"], "clip_norm": 0.5}  # fmt: skip
    else:
        params = {"attention": attention, "mlp": mlp, "block": block}[kind](rng, c)
    made = ForeignPiece(kind, kind, c, params, x, hidden, extra)
    if kind == "position_embedding":
        return replace(made, got=ours(made))
    return replace(made, got=ours(made))


def _gradients(rng: np.random.Generator) -> dict[str, Array]:
    shapes = {"token_embedding/table": (7, 5), "norm_final/scale": (5,), "head/kernel": (5, 7)}
    return {name: 0.2 * rng.normal(size=shape) * np.exp(2 * rng.normal(size=shape)) for name, shape in shapes.items()}


def rounded(tree: Any) -> Any:
    """An array, or a dict of arrays, rounded to float32, as a record of PyTorch is."""
    if isinstance(tree, dict):
        return {name: rounded(leaf) for name, leaf in tree.items()}
    return np.asarray(tree).astype(np.float32).astype(np.float64)
