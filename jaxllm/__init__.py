"""jaxllm: a large language model from scratch, as pure functions, in JAX and Flax.

Names are loaded on first use, so that `import jaxllm` touches no device and
`import jaxllm.reference` needs nothing but NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm.config import GPTConfig as GPTConfig
    from jaxllm.gpt import GPT as GPT
    from jaxllm.pretrained.load import load_pretrained as load_pretrained
    from jaxllm.pretrained.save import save_pretrained as save_pretrained
    from jaxllm.utils.errors import InputError as InputError

__version__ = "0.1.0"

_HOME = {
    "GPT": "jaxllm.gpt", "GPTConfig": "jaxllm.config", "InputError": "jaxllm.utils.errors",
    "load_pretrained": "jaxllm.pretrained.load", "save_pretrained": "jaxllm.pretrained.save",
}  # fmt: skip
_MODULES = (
    "attention", "compare", "data", "embeddings", "generate", "layers", "loss", "reference", "sampling", "tokenizers",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"jaxllm.{name}")
    raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
