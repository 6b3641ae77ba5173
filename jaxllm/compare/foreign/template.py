"""A map of names to fill in: all of ours, and none of theirs."""

from jaxllm.compare.foreign.names import NameMap
from jaxllm.compare.foreign.piece import SCALED
from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes


def template(config: GPTConfig) -> NameMap:
    """Our parameters and our intermediates as patterns, each with an empty name."""
    parameters = list(dict.fromkeys(map(pattern, parameter_shapes(config))))
    return NameMap(dict.fromkeys(parameters, ""), dict.fromkeys(outputs(config), ""))


def outputs(config: GPTConfig) -> list[str]:
    """Patterns of the intermediates that can be compared, in the order of computation."""
    maps = ["query", "key", "value", *(["query_norm", "key_norm"] if config.qk_norm else []), "output"]
    attention = [*(f"attention/{name}" for name in maps), "attention"]
    mlp = [f"mlp/{name}" for name in (*(["gate"] if config.gated else []), "up", "down")] + ["mlp"]
    middle = [] if config.parallel_residual else ["residual_1"]  # which nothing reads in parallel
    block = [*_half(config, "norm_1", attention), *middle, *_half(config, "norm_2", mlp)]
    scaled = [SCALED] if config.scale_embeddings else []
    positions = ["position_embedding/vectors", "position_embedding"] if config.adds_positions else []
    return [
        "token_embedding", *scaled, *positions, *(f"block_{{i}}/{name}" for name in block), "block_{i}", "norm_final",
        "logits",
    ]  # fmt: skip


def _half(config: GPTConfig, norm: str, branch: list[str]) -> list[str]:
    """The norms of a branch of a block in their places."""
    after = {"before": [], "after": [norm], "both": [f"{norm}_after"]}[config.norm_place]
    return [*([] if config.norm_place == "after" else [norm]), *branch, *after]


def pattern(path: str) -> str:
    """The path with {i} in the place of the block's number.

    >>> pattern("block_3/mlp/up/kernel")
    'block_{i}/mlp/up/kernel'
    """
    block, _, inside = path.partition("/")
    return f"block_{{i}}/{inside}" if block.startswith("block_") else path
