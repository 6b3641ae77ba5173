"""Small models whose parameters are all random, because initial ones and zeros would hide faults."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import GPT, GPTConfig

TINY = GPTConfig(vocab_size=17, context_length=8, d_model=8, n_layers=2, n_heads=2)

VARIANTS = {
    "gpt2": {},
    "untied": {"tie_embeddings": False, "activation": "gelu"},
    "grouped": {
        "n_heads": 4, "n_kv_heads": 2, "norm": "rms_norm", "use_bias": False, "activation": "squared_relu", "ngrams": 3,
        "ngram_rows": 11,
    },
    "multi-query": {"n_heads": 4, "n_kv_heads": 1, "position": "sinusoidal", "activation": "relu", "d_ff": 5},
    "deep": {"n_layers": 8},
    "llama": {
        "n_heads": 4, "n_kv_heads": 2, "position": "rotary", "norm": "rms_norm", "norm_epsilon": 1e-6,
        "activation": "swiglu", "use_bias": False, "sliding_window": 3, "mup_base_width": 3,
    },
    "qwen 2": {
        "n_kv_heads": 1, "position": "rotary", "rotary_fraction": 0.5, "norm": "rms_norm", "activation": "swiglu",
        "use_bias": False, "qkv_bias": True,
    },
    "smollm 3": {
        "n_layers": 3, "n_kv_heads": 1, "position": "rotary", "rotary_pattern": "RN", "norm": "rms_norm",
        "activation": "swiglu", "use_bias": False,
    },
    "olmo 2": {
        "n_kv_heads": 1, "position": "rotary", "norm": "rms_norm", "norm_place": "after", "qk_norm": "whole",
        "activation": "swiglu", "use_bias": False, "tie_embeddings": False,
    },
    "gemma 3": {  # with the soft caps of Gemma 2, and with YaRN
        "n_layers": 3, "position": "rotary", "rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_context": 40,
        "norm": "rms_norm", "norm_place": "both", "activation": "geglu", "use_bias": False, "scale_embeddings": True,
        "qk_norm": True, "attention_scale": 0.8, "score_softcap": 2.0, "logits_softcap": 3.0, "sliding_window": 3,
        "layer_pattern": "LLG", "rope_local_base": 30.0,
    },
    "neox": {
        "position": "rotary", "rotary_fraction": 0.5, "parallel_residual": True, "activation": "gelu",
        "tie_embeddings": False,
    },
    "neo": {"qkv_bias": False, "attention_scale": 1.0, "sliding_window": 3, "layer_pattern": "GL"},
    "qwen": {
        "position": "rotary_interleaved", "rope_factor": 4.0, "rope_original_context": 40, "qk_norm": True,
        "d_head": 6, "norm": "rms_norm", "activation": "geglu", "scale_embeddings": True,
    },
    "experts": {
        "position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False, "qk_norm": True, "d_ff": 5,
        "n_experts": 4,
    },
    "most experts": {
        "activation": "geglu", "use_bias": False, "n_experts": 3, "n_experts_per_token": 2, "normalise_experts": False,
        "tie_embeddings": False,
    },
}  # fmt: skip


def random_like(tree: Any, seed: int = 0, scale: float = 0.5) -> Any:
    """The tree with every leaf drawn from scale * N(0, 1), in the leaf's own dtype."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def random_gpt(config: GPTConfig, dtype: str = "float32", seed: int = 0) -> tuple[GPT, Any]:
    """A model and random parameters of a dtype."""
    model = GPT(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return model, random_like(jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes), seed)


def random_tokens(config: GPTConfig, batch: int = 3, length: int | None = None, seed: int = 0) -> np.ndarray:
    """Tokens [batch, length]."""
    shape = (batch, length or config.context_length)
    return np.random.default_rng(seed).integers(config.vocab_size, size=shape).astype(np.int32)
