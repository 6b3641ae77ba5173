"""The model families that are read and written, as data: their settings and the names of their tensors.

A family is a row: names and defaults of its settings (`hf_config`, `gguf_config` read them) and one layout of tensors
for each kind of file (`parameter_map` reads it). A new family of the same computations is a new row.
"""

from jaxllm.pretrained.family import EMBEDDING, GGUF, HEAD, Family, Layout
from jaxllm.pretrained.gpt_families import GPT2, GPT_NEO, GPT_NEOX
from jaxllm.pretrained.llama_families import (
    GEMMA,
    GEMMA2,
    GEMMA3,
    LLAMA,
    MISTRAL,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    SMOLLM3,
)

__all__ = ["EMBEDDING", "FAMILIES", "GGUF", "HEAD", "Family", "Layout"]

# The first of them that can express a model is the one that it is written as.
FAMILIES = (
    GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, GEMMA, SMOLLM3, OLMO2, GEMMA2, GEMMA3, GPT_NEOX, GPT_NEO, PHI3,
)  # fmt: skip
