"""Which functions have a NumPy twin or a fast form, and arguments for them: one table for all tests."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from held import ABSOLUTE, ALIBI, DILATED, EARLIER, PLACED, PREFIX, SOFT_CAP, Held

import jaxllm
import jaxllm.fast
from jaxllm import reference
from jaxllm.attention import CausalAttention, MultiHeadAttention, SelfAttention
from jaxllm.config import GPTConfig, Rotary
from jaxllm.embeddings import PositionEmbedding
from jaxllm.experts import Experts
from jaxllm.gpt import Head
from jaxllm.layers import MLP, Linear, Norm

YARN = Rotary(100.0, factor=4.0, high_frequency=8.0, original_context=60, scaling="yarn", truncate=False, scale=1.2)
NOT_NUMERIC = {
    "array", "config", "config_rules", "parallel", "fast.on_mesh",  # where numbers lie: test_parallel.py
    "fast.platform",  # choices: test_products.py
    "fast.quantised_weights",  # rounds, so it has no slope: test_quantised_weights.py
}  # fmt: skip
WITHOUT_TWIN = {
    "precision.at_least_float32",  # a cast
    "layers.dropout_mask", "generate.draw", "generate.draw_keys", "generate.generate", "generate.check_lookup",  # random: test_step.py, test_generate.py
    "generate.largest", "generate.cut_prompts", "generate.non_finite_logits", "fast.generate.why_not_cached",  # not numeric: test_generate.py, test_score_and_visible.py
    "fast.generate.start_generation", "fast.generate.stream",  # random: test_generate.py
    "fast.lookup.column", "fast.lookup.read_drafts",  # the loop as a whole: test_lookup.py
    "fast.few_rows.compiled", "fast.few_rows.in_c", "fast.few_rows.why_not_compiled",  # a choice: test_few_rows.py
    "fast.products.active", "fast.products.computes", "fast.products.using",  # a choice
    "gpt.block_class", "loss.takes_hidden",  # a choice
    "fast.attention.chunking",  # a plan: test_fast_attention.py
    "fast.splash.splash_attention",  # the kernel of a TPU, held to the formula: test_fast_attention.py
    "fast.products.product",  # einsum by another library: test_products.py
    "fast.init.init_params",  # random: test_speed.py
    "layers.hidden_std", "layers.residual_std",  # constants: test_gpt.py
    "flops.flops_per_token",  # a count: test_flops.py
    "fast.attention.attention_path", "fast.attention.looks_ahead",  # a choice
    "cache.extend",  # the cache as a whole: test_cache.py
    "gpt.apply_with_intermediates", "gpt.count_parameters", "gpt.interceptors", "gpt.summed_loss", "gpt.head_table", "gpt.check_tokens", "gpt.check_packed", "gpt.parameter_shapes", "gpt.traced_once",  # the model as a whole: test_gpt.py
    "lora.init_adapter",  # random: test_lora.py
    "lora.adapted_paths", "lora.attach", "lora.grown", "lora.merge", "lora.quantise_base",  # parameters as a whole: test_lora.py
    "softcap.change_of_scores", "softcap.change_of_logits",  # a choice: test_gpt.py
    "looking.look", "intermediates.named",  # the model as a whole: test_look.py
}  # fmt: skip


def functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a module itself defines."""
    return {
        name: f
        for name, f in vars(module).items()
        if callable(f)
        and not inspect.isclass(f)
        and getattr(f, "__module__", "") == module.__name__
        and not name.startswith("_")
    }


def numeric_functions() -> set[str]:
    """The functions of jaxllm that need a twin, as `module.function`."""
    modules = {m.name for m in pkgutil.iter_modules(jaxllm.__path__) if not m.ispkg}
    modules |= {f"fast.{m.name}" for m in pkgutil.iter_modules(jaxllm.fast.__path__)}
    modules -= NOT_NUMERIC
    found = {f"{m}.{f}" for m in modules for f in functions(importlib.import_module(f"jaxllm.{m}"))}
    return found - WITHOUT_TWIN - {f"fast.{name}" for name in fast_forms()}


def fast_forms() -> set[str]:
    """The functions of jaxllm that have a fast form, as `module.function`."""
    return {name for name in _fast_functions() if _has_formula(name)}


def fast_alone() -> set[str]:
    """The functions of jaxllm.fast that are not the fast form of another."""
    return {name for name in _fast_functions() if not _has_formula(name)}


def _fast_functions() -> set[str]:
    modules = {m.name for m in pkgutil.walk_packages(jaxllm.fast.__path__)}
    return {f"{m}.{f}" for m in modules for f in functions(importlib.import_module(f"jaxllm.fast.{m}"))}


def _has_formula(name: str) -> bool:
    module, _, function = name.rpartition(".")
    if importlib.util.find_spec(f"jaxllm.{module}") is None:
        return False
    return function in functions(importlib.import_module(f"jaxllm.{module}"))


def modules() -> set[str]:
    """The Linen modules of jaxllm."""
    for m in pkgutil.iter_modules(jaxllm.__path__):
        importlib.import_module(f"jaxllm.{m.name}")
    homes = [home for name, home in sys.modules.items() if name.startswith("jaxllm.")]
    return {
        c.__name__
        for home in homes
        for c in vars(home).values()
        if inspect.isclass(c) and issubclass(c, nn.Module) and c.__module__ == home.__name__
    }


def find(name: str, package: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"{package}.{module}"), function)


def normal(*shape: int) -> Any:
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Any:
    return lambda rng: rng.random(shape)


def scaled(size: float, *shape: int) -> Any:
    return lambda rng: size * rng.normal(size=shape)


def integers(high: int, *shape: int) -> Any:
    return lambda rng: rng.integers(high, size=shape)


def answers(high: int, *shape: int) -> Any:
    """Targets, about a third of which are -1: nothing is learned there."""
    return lambda rng: np.where(rng.random(shape) < 0.3, -1, rng.integers(high, size=shape))


def with_ties(*shape: int) -> Any:
    return lambda rng: rng.integers(3, size=shape).astype(float)


def mask(*shape: int) -> Any:
    return lambda rng: rng.random(shape) < 0.5  # some rows are all False


def bytes_(*shape: int) -> Any:
    return lambda rng: rng.integers(-127, 128, size=shape).astype(np.int8)


def keep(*shape: int) -> Any:
    return lambda rng: np.where(rng.random(shape) < 0.5, 2.0, 0.0)


def documents(length: int, *begin: int) -> Any:
    """Numbers [T] of documents that begin at these places."""
    return lambda rng: np.searchsorted(begin, np.arange(length), "right")


def held(idea: Held) -> Any:
    """A user's function."""
    return lambda rng: idea


def fixed(*values: Any) -> Any:
    return lambda rng: np.array(values)


def reading(**changes: Any) -> GPTConfig:
    """A config for the lens."""
    return GPTConfig(vocab_size=7, context_length=1, d_model=4, n_layers=1, n_heads=1, **changes)


def read_by(head: str, **shape: tuple[int, ...]) -> Any:
    """The parameters that turn a residual stream of width 4 into logits."""
    shapes = {"norm_final": {"scale": (4,), "bias": (4,)}, head: shape}
    return lambda rng: {name: {leaf: rng.normal(size=s) for leaf, s in of.items()} for name, of in shapes.items()}


# name -> argument lists; a callable draws from the generator, any other value is passed unchanged (and static).
CASES: dict[str, list[list[Any]]] = {
    "layers.linear": [[normal(3, 4, 5), normal(5, 6)], [normal(1, 5), normal(5, 1), normal(1)], [normal(5), normal(5, 2)]],
    "layers.layer_norm": [[normal(3, 4, 5), normal(5)], [normal(2, 5), normal(5), normal(5)], [normal(2, 5), normal(5), None, 0.1]],
    "layers.rms_norm": [[normal(3, 4, 5), normal(5)], [normal(2, 5), normal(5), normal(5)], [normal(2, 5), normal(5), None, 0.1]],
    "layers.gelu_tanh": [[normal(50)]],
    "layers.gelu": [[normal(50)]],
    "layers.relu": [[normal(50)]],
    "layers.squared_relu": [[normal(50)]],
    "layers.silu": [[normal(50)], [scaled(300, 9)]],
    "layers.swiglu": [[normal(3, 7), normal(3, 7)]],
    "layers.geglu": [[normal(3, 7), normal(3, 7)]],
    "layers.softmax": [[normal(3, 7)], [scaled(500, 3, 7)], [normal(3, 1)]],
    "layers.dropout": [[normal(3, 7), keep(3, 7)]],
    "embeddings.token_embedding": [[normal(7, 4), integers(7, 3, 5)], [normal(7, 4), fixed(0, 6, 7, -1, -7, -8)]],
    "embeddings.ngram_ids": [[integers(50000, 2, 9), 2, 16384], [integers(9, 9), 4, 100, documents(9, 0, 3, 5)], [fixed(0, 5), 3, 1]],
    "embeddings.ngram_embedding": [
        [normal(15, 4), integers(7, 3, 5), 4],
        [normal(10, 4), integers(7, 3, 9), 3, integers(2, 3, 9)],
        [normal(7, 4), integers(7, 5), 2, documents(5, 0, 2)],
    ],
    "embeddings.token_logits": [[normal(7, 4), normal(3, 5, 4)]],
    "lookup.drafted": [[integers(3, 4, 12), 10, integers(9, 4), 5], [fixed([1, 2, 3, 1, 2, 3]), 6, fixed(0), 7], [integers(9, 2, 5), 1, fixed(0, 0), 2]],
    "embeddings.learned_positions": [[normal(7, 4), 5]],
    "embeddings.sinusoidal_embedding": [[integers(9, 2, 5), 6]],
    "embeddings.sinusoidal_positions": [[9, 6], [1, 2]],
    "rotary.rotary_frequencies": [
        [8], [64, 500000.0, 8.0, 1.0, 4.0, 8192], [16, 10000.0, 32.0, 1.5, 3.0, 64], [16, 10000.0, 4.0, 1.0, 4.0, 64, "linear"],
        [64, 500000.0, 8.0, 1.0, 32.0, 8192, "yarn"], [64, 10000.0, 4.0, 1.0, 32.0, 2048, "yarn", False],
        [4, 10000.0, 4.0, 1.0, 1.1, 64, "yarn"], [8, 10000.0, 4.0, 1.0, 32.0, 5, "yarn"], [4, 10000.0, 4.0, 1.0, 32.0, 30, "yarn"],
    ],
    "rotary.rotate": [
        [normal(2, 3, 5, 6), integers(50, 5), positive(3)],
        [normal(2, 5, 4), integers(50, 2, 5), positive(2), True],
        [normal(1, 2), integers(50, 1), positive(1)],
        [normal(2, 5, 4), integers(50, 5), positive(2), False, 1.3],
    ],
    "softcap.softcap": [[normal(3, 7), 0.7], [scaled(300, 9), 30.0]],
    "rotary.rotate_heads": [
        [normal(2, 3, 5, 6), Rotary(100.0)],
        [normal(2, 3, 5, 8), Rotary(100.0, True), integers(50, 2, 5), 0.5],
        [normal(3, 5, 10), Rotary(100.0), None, 0.45],
        [normal(3, 5, 8), YARN, None, 0.5],
    ],
    "attention.simple_attention_weights": [[normal(6, 3)], [normal(2, 1, 3)]],
    "attention.simple_attention": [[normal(6, 3)], [normal(2, 1, 3)]],
    "attention.visible": [
        [integers(9, 4, 1), integers(9, 1, 5)],
        [integers(9, 2, 4, 1), integers(9, 1, 1, 5), integers(2, 2, 4, 1), integers(2, 2, 1, 5), 3],
        [integers(9, 4, 1), integers(9, 1, 5), None, None, None, held(ABSOLUTE)],
        [integers(9, 2, 4, 1), integers(9, 1, 1, 5), integers(2, 2, 4, 1), integers(2, 2, 1, 5), None, held(ABSOLUTE)],
    ],
    "attention.causal_mask": [[1], [5], [5, 1], [6, 3], [4, 9], [14, None, held(DILATED)]],
    "attention.document_numbers": [[integers(3, 2, 9), 1], [integers(3, 9), 1, documents(9, 0, 3, 5)], [fixed([1, 0, 0, 1]), 1, fixed([4, 4, 2, 2])], [fixed(5, 5, 0, 2, 5), 5], [fixed(1), 0]],
    "attention.document_mask": [[documents(7, 0, 2, 5)], [documents(8, 1, 2, 7), 2], [integers(2, 2, 1, 5)], [documents(9, 0, 2, 5), None, held(PREFIX)]],
    "attention.change_scores": [
        [normal(5, 6), held(PLACED)],
        [normal(2, 3, 5, 6), held(PLACED), integers(9, 3, 1, 1), integers(9, 2, 1, 5, 1), integers(9, 6)],
        [normal(2, 3, 5, 6), held(PLACED)],
    ],
    "attention.attention_weights": [[normal(2, 5, 3), normal(2, 5, 3)], [normal(4, 3), normal(6, 3), mask(4, 6)], [normal(2, 4, 3), normal(2, 6, 3), mask(4, 6)], [normal(2, 3, 4, 3), normal(2, 3, 6, 3), mask(4, 6), held(PLACED)]],
    "attention.scaled_dot_product_attention": [
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4)],
        [normal(2, 4, 3), normal(2, 6, 3), normal(2, 6, 1), mask(4, 6)],
        [normal(2, 3, 4, 3), normal(2, 3, 6, 3), normal(2, 3, 6, 2), mask(2, 1, 4, 6), keep(2, 3, 4, 6)],
        [normal(2, 3, 4, 3), normal(2, 3, 6, 3), normal(2, 3, 6, 2), None, keep(2, 3, 4, 6), held(SOFT_CAP)],
    ],
    "fast.few_rows.rows_product": [[normal(3, 5, 4), normal(7, 4)]],
    "fast.cached_gpt.grouped_attention": [
        [normal(2, 6, 4, 3), normal(2, 2, 3, 5), normal(2, 2, 5, 4), mask(2, 4, 5)],
        [normal(3, 1, 2), normal(1, 2, 7), normal(1, 7, 2), mask(1, 7)],
        [normal(2, 6, 4, 3), normal(2, 2, 3, 5), normal(2, 2, 5, 4), mask(2, 4, 5), held(PLACED), integers(9, 2, 4), integers(9, 2, 5)],
    ],
    "attention.split_heads": [[normal(2, 5, 6), 3], [normal(5, 6), 1]],
    "attention.merge_heads": [[normal(2, 3, 5, 2)], [normal(1, 5, 2)]],
    "attention.repeat_heads": [[normal(2, 2, 5, 3), 6], [normal(1, 5, 3), 4], [normal(4, 5, 3), 4]],
    "attention.causal_dot_product_attention": [
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4)],
        [normal(2, 130, 3), normal(2, 130, 3), normal(2, 130, 2)],  # three chunks, the last one padded
        [normal(1, 1, 4), normal(1, 1, 4), normal(1, 1, 4)],
        [normal(2, 130, 3), normal(2, 130, 3), normal(2, 130, 2), documents(130, 40, 41, 64, 100)],
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4), documents(5, 0, 1, 4)],
        [normal(2, 130, 3), normal(2, 130, 3), normal(2, 130, 2), None, 40],
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4), documents(5, 0, 3), 2],
        [normal(1, 4, 130, 3), normal(1, 4, 130, 3), normal(1, 4, 130, 2), None, None, None, held(ALIBI)],
        [normal(1, 3, 130, 3), normal(1, 3, 130, 3), normal(1, 3, 130, 2), None, None, held(DILATED), held(PLACED)],
        [normal(1, 2, 70, 3), normal(1, 2, 70, 3), normal(1, 2, 70, 2), None, None, held(PREFIX), held(SOFT_CAP)],
        [normal(2, 5, 3), normal(2, 5, 3), normal(2, 5, 4), None, None, held(EARLIER)],
        [normal(2, 130, 3), normal(2, 130, 3), normal(2, 130, 2), documents(130, 40, 41, 64, 100), None, held(ABSOLUTE), held(PLACED)],
    ],
    "logit_lens.logit_lens": [
        [reading(), read_by("token_embedding", table=(7, 4)), normal(2, 3, 4)],
        [reading(norm="rms_norm", norm_epsilon=0.1, tie_embeddings=False), read_by("head", kernel=(4, 7)), normal(3, 4)],
    ],
    "lora.lora_linear": [
        [normal(3, 4, 5), normal(5, 6), normal(5, 2), normal(2, 6), 0.5],
        [normal(3, 5), normal(5, 2), normal(5, 1), normal(1, 2), 2.0, keep(3, 5)],
        [normal(5), normal(5, 3), normal(5, 3), normal(3, 3), 1.0],
    ],
    "lora.int8_linear": [[normal(3, 4, 5), bytes_(5, 6), normal(6)], [normal(5), bytes_(5, 1), normal(1)]],
    "experts.chosen_experts": [[normal(3, 5, 7), 2], [fixed([1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]), 3], [normal(4), 4]],
    "experts.expert_weights": [
        [normal(3, 5, 7), integers(7, 3, 5, 2)], [normal(3, 5, 7), integers(7, 3, 5, 3), False], [scaled(300, 4, 7), integers(7, 4, 1), False]
    ],
    "experts.experts": [
        [normal(2, 5, 3), integers(4, 2, 5, 2), normal(2, 5, 2), normal(4, 3, 6), normal(4, 3, 6), normal(4, 6, 3)],
        [normal(3), fixed(5, 1), normal(2), normal(9, 3, 4), normal(9, 3, 4), normal(9, 4, 3), "geglu"],
        [normal(4, 3), fixed([2, 0], [0, 2], [2, 0], [0, 2]), positive(4, 2), normal(3, 3, 4), normal(3, 3, 4), normal(3, 4, 3)],
    ],
    "loss.token_losses": [[normal(3, 5, 7), integers(7, 3, 5)], [normal(4, 7), fixed(0, 6, 7, -1)], [scaled(300, 4, 7), integers(7, 4)]],
    "loss.cross_entropy": [[normal(3, 5, 7), integers(7, 3, 5)], [normal(3, 5, 7), integers(7, 3, 5), positive(3, 5)]],
    "loss.head_loss": [[normal(7, 4), normal(3, 5, 4), integers(7, 3, 5)], [normal(7, 4), normal(5, 4), integers(7, 5), positive(5)]],
    "loss.learned": [[integers(3, 3, 5)], [fixed(-1, 0, -2, 5, -1)]],
    "loss.answer_losses": [[normal(3, 5, 7), answers(7, 3, 5)], [normal(5, 3), fixed(-1, -1, 2, -2, 3)], [normal(2, 3, 7), fixed([-1, -1, -1], [-1, 6, -1])]],
    "loss.answer_log_probs": [[normal(7, 4), normal(3, 5, 4), answers(7, 3, 5)], [normal(7, 4), normal(5, 4), fixed(-1, 3, 6, 0, -1)], [normal(7, 4), normal(2, 2, 3, 4), answers(7, 2, 2, 3)]],
    "loss.dpo_margins": [[*[scaled(30, 5)] * 4, 0.1], [*[normal(2, 3)] * 4, 1.3]],
    "loss.dpo_losses": [[*[normal(5)] * 4, 0.1], [*[scaled(300, 9)] * 4, 1.3]],
    "sampling.repetition_penalty": [[normal(3, 9), mask(3, 9), lambda rng: np.asarray(1.3)]],
    "sampling.scale_temperature": [[normal(3, 9), lambda rng: np.asarray(0.7)]],
    "sampling.top_k": [[normal(3, 9), 1], [normal(3, 9), 4], [normal(3, 9), 20], [with_ties(5, 9), 4]],
    "sampling.top_p": [[normal(3, 9), 0.5], [normal(3, 9), 1.0], [normal(3, 9), 0.01], [with_ties(5, 9), 0.6], [normal(2, 1100), 0.99], [scaled(5, 2, 1100), 0.9]],
    "sampling.min_p": [[normal(3, 9), 0.3], [normal(3, 9), 0.0], [normal(3, 9), 1.0]],
}  # fmt: skip
MODULES_WITHOUT_TWIN = {
    "Dropout",  # random: test_step.py
    "Intermediate",  # the identity
    "ExpertKernels",  # parameters alone
    "GPT", "Block", "TokenEmbedding", "NgramEmbedding", "CachedAttention", "CachedBlock", "CachedGPT",  # the model as a whole: test_gpt.py, test_cache.py
}  # fmt: skip
ALL_CASES = [(name, case) for name in sorted(CASES) for case in range(len(CASES[name]))]

# name -> module, its twin's name, the twin's arguments after params and x, further inputs of the module
MODULES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Linear": (Linear(4), "layers.linear_map", {}),
    "Head": (Head(4), "layers.linear_map", {}),
    "Norm": (Norm(), "layers.norm", {}),
    "Norm rms": (Norm("rms_norm", use_bias=False), "layers.norm", {"kind": "rms_norm"}),
    "MLP": (MLP(7), "layers.mlp", {}),
    "MLP exact gelu": (MLP(7, "gelu"), "layers.mlp", {"activation": "gelu"}),
    "MLP swiglu": (MLP(7, "swiglu", use_bias=False), "layers.mlp", {"activation": "swiglu"}),
    "MLP geglu": (MLP(7, "geglu"), "layers.mlp", {"activation": "geglu"}),
    "Norm epsilon": (Norm("rms_norm", epsilon=0.1), "layers.norm", {"kind": "rms_norm", "epsilon": 0.1}),
    "MLP relu": (MLP(7, "relu", use_bias=False), "layers.mlp", {"activation": "relu"}),
    "Experts": (Experts(5, 2, 7), "experts.mixture", {"n_per_token": 2}),
    "Experts geglu": (
        Experts(4, 3, 7, "geglu", False),
        "experts.mixture",
        {"n_per_token": 3, "normalise": False, "activation": "geglu"},
    ),
    "PositionEmbedding": (PositionEmbedding(9), "embeddings.position_embedding", {}),
    "SelfAttention": (SelfAttention(4), "attention.self_attention", {}),
    "CausalAttention": (CausalAttention(4, use_bias=True), "attention.causal_attention", {}),
    "MultiHeadAttention": (MultiHeadAttention(3), "multi_head.multi_head_attention", {"n_heads": 3}),
    "MultiHeadAttention wide": (
        MultiHeadAttention(4, n_kv_heads=2, features=8, causal=False, use_bias=False),
        "multi_head.multi_head_attention",
        {"n_heads": 4, "n_kv_heads": 2, "causal": False},
    ),
    "MultiHeadAttention rotary": (
        MultiHeadAttention(4, n_kv_heads=2, head_dim=6, window=3, rotary=Rotary(100.0), qk_norm=True, epsilon=0.1),
        "multi_head.multi_head_attention",
        {"n_heads": 4, "n_kv_heads": 2, "window": 3, "rotary": Rotary(100.0), "epsilon": 0.1},
    ),
    "MultiHeadAttention whole": (
        MultiHeadAttention(
            4,
            n_kv_heads=2,
            head_dim=8,
            rotary=YARN,
            qk_norm="whole",
            rotary_fraction=0.5,
            scale=0.9,
            qkv_bias=False,
        ),
        "multi_head.multi_head_attention",
        {
            "n_heads": 4,
            "n_kv_heads": 2,
            "rotary": YARN,
            "whole_norms": True,
            "rotary_fraction": 0.5,
            "scale": 0.9,
        },
    ),
    "MultiHeadAttention changed": (
        MultiHeadAttention(4, n_kv_heads=2, head_dim=6, visible=PREFIX, score=PLACED),
        "multi_head.multi_head_attention",
        {"n_heads": 4, "n_kv_heads": 2, "visible": PREFIX, "score": PLACED},
    ),
    "SelfAttention across": (SelfAttention(4), "attention.self_attention", {"context": (7, 3)}),
    "MultiHeadAttention across": (
        MultiHeadAttention(2, causal=False),
        "multi_head.multi_head_attention",
        {"n_heads": 2, "causal": False, "context": (7, 3)},
    ),
}


def draw(arguments: list[Any], dtype: str = "float64", seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    drawn = [a(rng) if callable(a) else a for a in arguments]

    def cast(a: Any) -> Any:
        return a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a

    return [jax.tree.map(cast, a) if isinstance(a, dict) else cast(a) for a in drawn]


def jitted(function: Callable[..., Any], arguments: list[Any]) -> Callable[..., Any]:
    static = [i for i, a in enumerate(arguments) if not isinstance(a, np.ndarray | dict)]
    return jax.jit(function, static_argnums=static)


def module_twin(name: str) -> tuple[Callable[..., Any], Callable[..., Any], bool]:
    """Twin and its vjp as functions of (params, x) or (params, x, context), and whether there is a context."""
    _, twin, options = MODULES[name]
    module, function = twin.split(".")
    f, f_vjp = (getattr(getattr(reference, module), n) for n in (function, f"{function}_vjp"))
    if "context" not in options:
        return lambda p, x: f(p, x, **options), lambda p, x: f_vjp(p, x, **options), False

    def with_context(p: Any, x: Any, context: Any) -> Any:
        return f(p, x, **options | {"context": context})

    def with_context_vjp(p: Any, x: Any, context: Any) -> Any:
        order = list(inspect.signature(f_vjp).parameters)
        given = {"params": p, "x": x, **options, "context": context}
        positional = [
            given.get(n, inspect.signature(f).parameters[n].default) for n in order[: order.index("context") + 1]
        ]
        rest = {n: v for n, v in options.items() if n not in order[: len(positional)]}
        out, pullback = f_vjp(*positional, **rest)
        return out, lambda dy: tuple(pullback(dy)[order.index(n)] for n in ("params", "x", "context"))

    return with_context, with_context_vjp, True
