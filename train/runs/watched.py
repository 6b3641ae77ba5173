"""The run folder as the processes beside process 0 use it: they read what is there, and process 0 alone writes it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import Tokenizer

from ..config import RunConfig
from ..ideas import Code
from .folder import RunFolder


class WatchedFolder(RunFolder):
    """A RunFolder that another process sets up and locks. What is written goes into a folder beside it, `aside`."""

    def __init__(self, path: Path, aside: Path) -> None:
        super().__init__(path)
        for name in ("metrics", "loss_picture", "samples", "tensorboard", "sink_id", "profile"):
            there: Path = getattr(self, name)
            setattr(self, name, aside / there.name)
            if there.is_file():
                shutil.copyfile(there, aside / there.name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def check_new(self) -> None:
        pass

    def create(
        self, config: RunConfig, tokenizer: Tokenizer, code: Code | None = None, chat: ChatFormat | None = None
    ) -> None:
        pass

    def write_config(self, config: RunConfig) -> None:
        pass


@contextmanager
def folder_of(process: int, folder: RunFolder) -> Iterator[RunFolder]:
    """The folder for a process of the run. Within it all but process 0 print nothing, and their files are dropped."""
    if process == 0:
        yield folder
        return
    with (
        tempfile.TemporaryDirectory(prefix="jaxllm-") as aside,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield WatchedFolder(folder.path, Path(aside))
