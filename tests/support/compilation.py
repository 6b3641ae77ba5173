"""How much XLA optimises the programs of tests."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import jax
import pytest


@contextmanager
def quickly_compiled(quickly: bool = True) -> Iterator[None]:
    """Programs are optimised less within, also in subprocesses; compiling takes most of the tests' time.

    XLA rewrites and fuses them as always. Only LLVM, which makes machine code of the result, leaves out its passes.
    If not `quickly`, programs are optimised as those of users, also within another `quickly_compiled`.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quickly)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(quickly)))
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def compiled_for(dtype: str) -> AbstractContextManager[None]:
    """Programs are optimised as those of users in float32, the dtype of training, and compiled quickly in others."""
    return quickly_compiled(dtype != "float32")
