"""A map of names to fill in: all of ours, and none of theirs."""

from jaxllm.compare.foreign.names import NameMap
from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes


def template(config: GPTConfig) -> NameMap:
    """Our parameters and our intermediates as patterns, each with an empty name."""
    parameters = list(dict.fromkeys(map(pattern, parameter_shapes(config))))
    return NameMap(dict.fromkeys(parameters, ""), dict.fromkeys(outputs(config), ""))


def outputs(config: GPTConfig) -> list[str]:
    """Patterns of the intermediates that can be compared, in the order of computation."""
    maps = ["query", "key", "value", *(["query_norm", "key_norm"] if config.qk_norm else []), "output"]
    inner = [*(["gate"] if config.gated else []), "up", "down"]
    block = ["norm_1", *(f"attention/{name}" for name in maps), "attention", "residual_1", "norm_2"]
    block += [*(f"mlp/{name}" for name in inner), "mlp"]
    positions = ["position_embedding/vectors", "position_embedding"] if config.adds_positions else []
    return [
        "token_embedding", *positions, *(f"block_{{i}}/{name}" for name in block), "block_{i}", "norm_final", "logits"
    ]  # fmt: skip


def pattern(path: str) -> str:
    """The path with {i} in the place of the block's number.

    >>> pattern("block_3/mlp/up/kernel")
    'block_{i}/mlp/up/kernel'
    """
    block, _, inside = path.partition("/")
    return f"block_{{i}}/{inside}" if block.startswith("block_") else path
