"""Packages of other projects that tests compare with."""

from typing import Any

import pytest


def hugging_face_tokenizers() -> Any:
    """The package `tokenizers`; the test is skipped without it.

    The function looks for one of its modules, because the folder `tests/tokenizers` is a namespace package of that name.
    """
    pytest.importorskip("tokenizers.models", reason="Hugging Face tokenizers are in the extra `peers`")
    import tokenizers

    return tokenizers
