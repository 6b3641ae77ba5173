"""The run folder: what is where, and who may write into it."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax

from jaxllm import __version__
from jaxllm.data.own_output import HEADLINE
from jaxllm.utils.errors import InputError
from jaxllm.tokenizers import Tokenizer
from ..config import RunConfig, load_config, to_toml
from ..progress import replace_text

UNFINISHED = ("tokenizer.json", "tokenizer.json.tmp", "config.toml.tmp")  # left where a run was killed as it began


class RunFolder:
    """Paths of a run. config.toml appears last when a run is set up, so a folder with it is a run."""

    def __init__(self, path: str | Path) -> None:
        """Raises InputError for a name that cannot be written down."""
        self.path = Path(path)
        try:
            str(self.path).encode()
        except ValueError as error:
            raise InputError(f"the run folder {str(self.path)!r} cannot be used: {error}; rename it.") from None
        self.config = self.path / "config.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.metrics = self.path / "metrics.jsonl"
        self.loss_picture = self.path / "loss.png"
        self.samples = self.path / "samples.txt"
        self.checkpoints = self.path / "checkpoints"
        self.profile = self.path / "profile"
        self.weights = self.path / "weights.safetensors"  # these two where it was imported
        self.pretrained = self.path / "pretrained.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time trains in the folder, which is made. Raises InputError where another does, or it cannot
        be made. It ends with the process, whatever ends that."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InputError(f"another process is training in {self.path}; wait for it, or end it.") from None
            yield
        finally:
            os.close(descriptor)

    def check_new(self) -> None:
        """Raises InputError unless the folder is absent or empty, and has a name that can be written down."""
        try:
            if self.config.exists():
                raise InputError(f"{self.path} holds a run; continue it with --resume or choose another with --out.")
            if self.path.is_dir() and any(path.name not in UNFINISHED for path in self.path.iterdir()):
                raise InputError(f"{self.path} is not empty; choose another folder with --out.")
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path} is a file; choose another folder with --out.")
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"--out {str(self.path)!r} cannot be used: {error}.") from None

    def create(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        """Write tokenizer and config. Raises InputError where the folder cannot be written."""
        try:
            tokenizer.save(self.tokenizer)
            self.write_config(config)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot write into {self.path}: {error.strerror}; choose another folder with --out.")

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved config and the versions it ran with, by rename."""
        versions = (__version__, platform.python_version(), jax.__version__)
        replace_text(self.config, HEADLINE.format(*versions) + to_toml(config))

    def read_config(self, overrides: list[str] | None = None) -> RunConfig:
        """The run's config. Raises InputError where the folder holds no run."""
        if not os.path.lexists(self.config):
            raise InputError(f"{self.path} is no run folder: it has no config.toml.")
        return load_config(self.config, overrides or [])
