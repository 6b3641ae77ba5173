"""The libraries of matrix products that are installed here."""

import platform
import sys

from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError, find


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
