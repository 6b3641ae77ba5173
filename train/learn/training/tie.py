"""The file `learned.py` in a learner's folder, which ties their pieces to the names of a config.

It is a user's file of functions as `--code` takes it, so that every command opens the run.
"""

import json
from pathlib import Path

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, replace_file

NAME = "learned.py"
TEXT = '''"""Your pieces under the names that a config of jaxllm takes.

`jaxllm learn train` writes this file anew each time, with the pieces that were right and the sha256 of their files.
"""

from pathlib import Path

from jaxllm import reference
from {package}.learn.training.bridge import Bridge

PIECES = {pieces}
bridge = Bridge(Path(__file__).parent, PIECES)
Block = bridge.Block  # model.block
layer_norm = bridge.layer_norm  # model.norm
losses = bridge.losses  # train.loss
adamw = bridge.adamw  # optimizer.name

# The twins, by which `jaxllm compare` judges.
Block_twin = reference.gpt.block
layer_norm_twin = reference.layers.layer_norm
layer_norm_twin_vjp = reference.layers.layer_norm_vjp
'''


def write(folder: Path, pieces: dict[str, str]) -> Path:
    """Write `learned.py` for these pieces and their sha256; returns its path.

    Raises InputError for a file of that name that is not as it was written here.
    """
    path = folder / NAME
    if path.exists() and not _is_ours(read_file(path).decode(errors="replace")):
        raise InputError(f"{path} is not as `jaxllm learn train` writes it, and would be lost; rename it.")
    try:
        replace_file(path, text(pieces).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; make the folder writable.") from None
    return path


def text(pieces: dict[str, str], package: str | None = None) -> str:
    """The text of the file. The package of this program is `jaxllm_train`, and `train` in a checkout."""
    package = package or str(__package__).partition(".")[0]
    return TEXT.format(package=package, pieces=json.dumps(pieces, indent=4).replace('"\n}', '",\n}'))


def _is_ours(written: str) -> bool:
    pieces = written.partition("PIECES = ")[2].partition("\nbridge")[0].replace('",\n}', '"\n}')
    try:
        parsed = json.loads(pieces)
    except ValueError:
        return False
    return isinstance(parsed, dict) and written in (text(parsed, "train"), text(parsed, "jaxllm_train"))
