"""The libraries of matrix products that are installed here."""

import platform
import sys
from functools import cache

import jax
import jax.numpy as jnp

from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError, find
from jaxllm.fast.products import product, using


def installed() -> list[str]:
    """Their names; on a Linux PC those of the `test` extra are among them."""
    names = []
    for name in LIBRARIES:
        try:
            find(name)
        except NoLibraryError:
            continue
        names.append(name)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert {"onednn", "openblas"} <= set(names), "pip install -e '.[test]' brings them"
    return names


INSTALLED = installed()


@cache
def computes(library: str, dtype: str) -> bool:
    """Whether it can on this processor; oneDNN has bfloat16 only where the processor has AVX-512."""
    one = jnp.ones((2, 2), dtype)
    try:
        with using(library):
            jax.block_until_ready(product("...d,df->...f", one, one, dtype))
    except jax.errors.JaxRuntimeError as error:
        assert "refused a product" in str(error)
        return False
    return True
