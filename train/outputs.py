"""Files that a command writes because an option names them."""

import os
from pathlib import Path

from jaxllm.utils.errors import InputError


def check_output(option: str, path: str | None, endings: tuple[str, ...]) -> None:
    """Before the work; the ending, so that `--json CONFIG.toml`, a FILE forgotten, does not overwrite the config."""
    if path is None:
        return
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"{option} {path}: the name of the file must end in {' or '.join(endings)}.")
    if (Path(path).parent / "config.toml").exists():
        raise InputError(f"{option} {path}: {Path(path).parent} is a run folder, whose files stay as they are.")
    if Path(path).is_dir():
        raise InputError(f"{option} {path}: {path} is a folder.")
    if not Path(path).parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {Path(path).parent}.")
    if not os.access(Path(path).parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: its folder cannot be written into.")
