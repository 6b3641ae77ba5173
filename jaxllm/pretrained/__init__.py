"""Pretrained weights: `load_pretrained` reads a Hugging Face folder or a GGUF file, `save_pretrained` writes a folder.

Both are loaded on first use, so that a module of this package can be imported without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.pretrained.load import load_pretrained as load_pretrained
    from jaxllm.pretrained.save import save_pretrained as save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]

_HOME = {"load_pretrained": "jaxllm.pretrained.load", "save_pretrained": "jaxllm.pretrained.save"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'jaxllm.pretrained' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
