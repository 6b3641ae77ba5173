"""Numbers that another program has computed and saved, as a reference in place of a function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxllm.compare.array_file import read_arrays
from jaxllm.utils.errors import InputError, listed

REMEDY = "save arrays by np.savez, or as .safetensors (pickles are not read)"


def recorded(path: str | Path, names: str | Mapping[str, str] | None = None) -> Any:
    """The arrays of an .npz or .safetensors file, for `compare_function`.

    `names` is the name of one array, which is returned; or a dict {name of ours: name in the file}, for which a dict by
    our names is returned; without it, the dict of all arrays. Raises InputError for a file that cannot be read, and for
    a name that is not in it, with those that are.
    """
    arrays = read_arrays(path, REMEDY).arrays
    wanted = [names] if isinstance(names, str) else list((names or {}).values())
    if missing := [name for name in wanted if name not in arrays]:
        raise InputError(f"{path} holds no {listed(missing)}; the names in it are {listed(arrays, 40) or 'none'}.")
    if isinstance(names, str):
        return arrays[names]
    return arrays if names is None else {ours: arrays[name] for ours, name in names.items()}
