"""The run folder: who may write into it, and what is read back from it."""

import platform
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxllm import GPT, __version__
from jaxllm.errors import InputError
from jaxllm.tokenizers import Tokenizer, load_tokenizer
from train.checkpoint import Checkpoints
from train.config import RunConfig, build_config, to_toml
from train.report import replace_text
from train.step import first_state, make_optimizer


class RunFolder:
    """Paths of a run. config.toml appears last when a run is set up, so a folder with it is a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.metrics = self.path / "metrics.jsonl"
        self.loss_picture = self.path / "loss.png"
        self.samples = self.path / "samples.txt"
        self.checkpoints = self.path / "checkpoints"
        self.profile = self.path / "profile"

    def check_new(self) -> None:
        """Raises InputError unless the folder is absent or empty, and has a name that can be written down."""
        try:
            str(self.path).encode()
            if self.config.exists():
                raise InputError(f"{self.path} holds a run; continue it with --resume or choose another with --out.")
            if self.path.is_dir() and any(self.path.iterdir()):
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
            self.path.mkdir(parents=True, exist_ok=True)
            tokenizer.save(self.tokenizer)
            self.write_config(config)
        except OSError as error:
            raise InputError(
                f"cannot write into {self.path}: {error.strerror}; choose another folder with --out."
            ) from None

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved config and the versions it ran with, by rename."""
        versions = f"# jaxllm {__version__}, Python {platform.python_version()}, jax {jax.__version__}\n"
        replace_text(self.config, versions + to_toml(config))

    def read_config(self, overrides: list[str] | None = None) -> RunConfig:
        """The run's config. Raises InputError where the folder holds no run."""
        try:
            return build_config(tomllib.loads(self.config.read_text(encoding="utf-8")), overrides or [])
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self.path} is no run folder: it has no config.toml.") from None
        except OSError as error:
            raise InputError(f"cannot read {self.config}: {error.strerror}.") from None
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self.config} is not a TOML file: {error}.") from None


@dataclass(frozen=True)
class TrainedRun:
    """What generating, evaluating and comparing need."""

    config: RunConfig
    tokenizer: Tokenizer
    model: GPT
    params: Any
    opt_state: Any
    step: int


def load_run(path: str | Path) -> TrainedRun:
    """The newest parameters of a run folder. Raises InputError where there are none."""
    folder = RunFolder(path)
    config = folder.read_config()
    tokenizer = load_tokenizer(folder.tokenizer)
    model = GPT(config.model.with_vocabulary(tokenizer.vocab_size), config.train.dtype)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    like = jax.eval_shape(partial(first_state, model, optimizer), jax.random.key(0))
    if not folder.checkpoints.is_dir():
        raise InputError(f"{path} holds no checkpoint yet; train it first.")
    try:
        with Checkpoints(folder.checkpoints) as checkpoints:
            state = checkpoints.restore(like)
    except OSError as error:
        raise InputError(f"cannot read {folder.checkpoints}: {error.strerror or error}.") from None
    return TrainedRun(config, tokenizer, model, state.params, state.opt_state, int(state.step))
