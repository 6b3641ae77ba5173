"""Numbers that another program has computed and saved, as a reference in place of a function."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.utils.errors import InputError, listed
from jaxllm.utils.files import open_file


def recorded(path: str | Path, names: str | Mapping[str, str] | None = None) -> Any:
    """The arrays of an .npz file, for `compare_function`.

    `names` is the name of one array, which is returned; or a dict {name of ours: name in the file}, for which a dict by
    our names is returned; without it, the dict of all arrays. Raises InputError for a file that cannot be read, and for
    a name that is not in it, with those that are.
    """
    arrays = _read(Path(path))
    wanted = [names] if isinstance(names, str) else list((names or {}).values())
    if missing := [name for name in wanted if name not in arrays]:
        raise InputError(f"{path} holds no {listed(missing)}; the names in it are {listed(arrays, 40) or 'none'}.")
    if isinstance(names, str):
        return arrays[names]
    return arrays if names is None else {ours: arrays[name] for ours, name in names.items()}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_file(path) as opened:
            content = np.load(opened, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise InputError(f"{path} holds one array without a name; save it by np.savez, or give np.load of it.")
            return {name: content[name] for name in content.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is no .npz file of numbers; save arrays by np.savez (pickles are not read)."
        ) from None
