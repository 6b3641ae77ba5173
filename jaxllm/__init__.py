"""jaxllm: a large language model from scratch, as pure functions, in JAX and Flax.

Every module of the package is an attribute of `jaxllm`: `jaxllm.gpt`, `jaxllm.config`, `jaxllm.rotary`. Modules and
names are loaded on first use, so `import jaxllm` opens no device and `import jaxllm.reference` needs only NumPy.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxllm import array as array
    from jaxllm import attention as attention
    from jaxllm import block as block
    from jaxllm import cache as cache
    from jaxllm import compare as compare
    from jaxllm import config as config
    from jaxllm import config_rules as config_rules
    from jaxllm import data as data
    from jaxllm import embeddings as embeddings
    from jaxllm import fast as fast
    from jaxllm import flops as flops
    from jaxllm import generate as generate
    from jaxllm import gpt as gpt
    from jaxllm import intermediates as intermediates
    from jaxllm import layers as layers
    from jaxllm import logit_lens as logit_lens
    from jaxllm import looking as looking
    from jaxllm import lookup as lookup
    from jaxllm import lora as lora
    from jaxllm import loss as loss
    from jaxllm import parallel as parallel
    from jaxllm import precision as precision
    from jaxllm import pretrained as pretrained
    from jaxllm import reference as reference
    from jaxllm import rotary as rotary
    from jaxllm import sampling as sampling
    from jaxllm import softcap as softcap
    from jaxllm import tokenizers as tokenizers
    from jaxllm import utils as utils
    from jaxllm.config import GPTConfig as GPTConfig
    from jaxllm.gpt import GPT as GPT
    from jaxllm.looking import look as look
    from jaxllm.pretrained import load_pretrained as load_pretrained
    from jaxllm.pretrained import save_pretrained as save_pretrained
    from jaxllm.utils.errors import InputError as InputError

__version__ = "0.1.0"

_HOME = {
    "GPT": "jaxllm.gpt", "GPTConfig": "jaxllm.config", "InputError": "jaxllm.utils.errors",
    "look": "jaxllm.looking", "load_pretrained": "jaxllm.pretrained", "save_pretrained": "jaxllm.pretrained",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _modules():
        return import_module(f"jaxllm.{name}")
    raise AttributeError(f"module 'jaxllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_modules()})


def _modules() -> frozenset[str]:
    """The names of the modules and packages in this folder."""
    return frozenset(module.name for module in iter_modules(__path__))
