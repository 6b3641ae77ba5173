"""The platform that programs are compiled for: that of JAX's devices, or another one while a plan is made for it.

Some functions are written for one platform: products by a library of a CPU, kernels of a GPU. They ask `platform` when
they are traced. As `jaxllm.fast.off`, the choice is part of the key under which `jax.jit` keeps a trace.
"""

from contextlib import AbstractContextManager
from typing import Any, cast

import jax

_target: Any = jax.make_user_context(None)


def compiling_for(name: str) -> AbstractContextManager[None]:
    """A context in which programs are traced for "cpu", "gpu" or "tpu", as for a topology without its devices.

    A function that makes a jitted one, as `train.step.make_train_step`, is called within it too.
    """
    return cast(AbstractContextManager[None], _target(name))


def platform() -> str:
    """What programs are compiled for: "cpu", "gpu" or "tpu"."""
    return cast(str, _target.value or jax.default_backend())


def on_one_cpu() -> bool:
    """Whether programs are compiled for a CPU that is one device, where C code can be called."""
    return platform() == "cpu" and jax.device_count() == 1
