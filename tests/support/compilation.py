"""How much XLA optimises the programs of tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """Programs are optimised less within, also in subprocesses; compiling takes most of the tests' time.

    XLA rewrites and fuses them as always. Only LLVM, which makes machine code of the result, leaves out its passes.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
