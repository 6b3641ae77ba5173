"""The run folder: the paths of its files, its lock, and its config."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax

from jaxllm import __version__
from jaxllm.data.own_output import HEADLINE
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config import RunConfig
from ..config_file import load_config, to_toml
from ..ideas import Code

LEFTOVERS = (  # of a run that was killed as it began
    "code", "pretrained.json", "pretrained.json.tmp", "tokenizer.json", "tokenizer.json.tmp", "config.toml.tmp",
)  # fmt: skip


class RunFolder:
    """The paths of a run. config.toml is written last when a run is set up, so a folder that has one is a run."""

    def __init__(self, path: str | Path) -> None:
        """Raises InputError for a name that is not valid UTF-8."""
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
        self.tensorboard = self.path / "tensorboard"  # this and the next only with a sink
        self.sink_id = self.path / "sink-id.txt"
        self.profile = self.path / "profile"
        self.code = self.path / "code"  # a copy of the user's file of functions, to compare with
        self.weights = self.path / "weights.safetensors"  # this and the next only in an imported run
        self.pretrained = self.path / "pretrained.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it, so that one process at a time trains in it.

        Raises InputError if another process does, or if it cannot be created. The lock ends with the process. Without
        `fcntl`, as on Windows, or on a file system without locks, the folder is not locked.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            import fcntl
        except ImportError:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            with suppress(OSError):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InputError(f"another process is training in {self.path}; wait for it, or end it.") from None
            yield
        finally:
            os.close(descriptor)

    def check_new(self) -> None:
        """Raises InputError unless the folder is absent or empty."""
        try:
            if self.config.exists():
                raise InputError(f"{self.path} holds a run; continue it with --resume or choose another with --out.")
            if self.path.is_dir() and any(path.name not in LEFTOVERS for path in self.path.iterdir()):
                raise InputError(f"{self.path} is not empty; choose another folder with --out.")
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path} is a file; choose another folder with --out.")
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"--out {str(self.path)!r} cannot be used: {error}.") from None

    def create(
        self, config: RunConfig, tokenizer: Tokenizer, code: Code | None = None, chat: ChatFormat | None = None
    ) -> None:
        """Write tokenizer, chat format, a copy of the user's code, and config.

        Raises InputError if the folder cannot be written.
        """
        try:
            tokenizer.save(self.tokenizer)
            if chat is not None:
                chat.save(self.pretrained)
            if code is not None:
                self.code.mkdir(exist_ok=True)
                replace_file(self.code / code.path.name, code.text)
            self.write_config(config)
        except OSError as error:
            raise self._unwritable(error) from None

    def chat(self) -> ChatFormat | None:
        """The chat format of the model that the run begins from; None without one. Raises InputError if damaged."""
        return ChatFormat.load(self.pretrained) if self.pretrained.exists() else None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot write into {self.path}: {error.strerror}; choose another folder with --out.")

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved config and the versions it runs with, by rename."""
        versions = (__version__, platform.python_version(), jax.__version__)
        replace_file(self.config, (HEADLINE.format(*versions) + to_toml(config)).encode())

    def read_config(self, overrides: list[str] | None = None) -> RunConfig:
        """The run's config. Raises InputError if the folder holds no run."""
        if not os.path.lexists(self.config):
            raise InputError(f"{self.path} is no run folder: it has no config.toml.")
        return load_config(self.config, overrides or [])
