"""Compile a file of C with the system's compiler, once for each processor and JAX, and register it with XLA.

The compiled file stays in the user's private folder (`jaxllm.utils.private_folder`). Its name is a hash of all that it
was made from, so another JAX, processor, compiler or source has another file.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jax
import jaxlib

from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError, check_system, load
from jaxllm.utils.private_folder import VARIABLE, default_place, make_private, processor

FOLDER = Path(__file__).parent
TARGET, FEW_ROWS = "jaxllm_product", "jaxllm_few_rows"  # names of functions, under which XLA calls them
COMPILE_S = 120  # seconds after which the compiler is given up


@cache
def register(name: str) -> None:
    """Make a library callable by `jax.ffi.ffi_call(TARGET, ...)`. Raises NoLibraryError with the reason why not."""
    functions = load(name)
    code = _compiled("product", TARGET, "-O2")
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]  # type: ignore[arg-type]
    if code.jaxllm_setup(LIBRARIES[name].number, (ctypes.c_void_p * len(addresses))(*addresses)):
        raise NoLibraryError(f"{name} does not start on this processor")


@cache
def register_few_rows() -> None:
    """Make `jax.ffi.ffi_call(FEW_ROWS, ...)` callable. Raises NoLibraryError with the reason why not."""
    check_system()
    _compiled("few_rows", FEW_ROWS, "-O3", "-march=native")


@cache
def _compiled(name: str, target: str, *options: str) -> ctypes.CDLL:
    """The file `name`.c as a loaded library, whose function `target` is registered."""
    source = FOLDER / f"{name}.c"
    command = [*shlex.split(os.environ.get("CC", "cc")), *options, "-shared", "-fPIC", "-pthread"]
    if shutil.which(command[0]) is None:
        raise NoLibraryError(f"there is no C compiler {command[0]!r}; install one, or name yours in CC")
    texts = [path.read_text() for path in (source, FOLDER / "tasks.h")]
    made_from = [*texts, jax.__version__, jaxlib.__version__, platform.machine(), *command, *processor()]
    file = f"{name}-{hashlib.sha256(chr(10).join(made_from).encode()).hexdigest()[:16]}.so"
    if path := cached(file):
        return _load(path if path.is_file() else _compile(command, source, path), target)
    with tempfile.TemporaryDirectory() as folder:  # a loaded file may be deleted
        return _load(_compile(command, source, Path(folder, file)), target)


def cached(name: str) -> Path | None:
    """The path of a file in the private folder; None if VARIABLE is "off".

    Raises NoLibraryError where others can write into the folder, or it cannot be made.
    """
    place = os.environ.get(VARIABLE) or default_place()
    if place == "off":
        return None
    folder = Path(place, "native").absolute()
    if reason := make_private(folder.parent) or make_private(folder):
        raise NoLibraryError(f"compiled code cannot be kept: {reason}; choose a folder with {VARIABLE}")
    return folder / name


def _compile(command: list[str], source: Path, path: Path) -> Path:
    """Compile to a name of its own, then rename, because other processes may be doing the same."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        subprocess.run(
            [*command, "-o", str(own), str(source), f"-I{jax.ffi.include_dir()}"],
            check=True, capture_output=True, timeout=COMPILE_S,
        )  # fmt: skip
        os.replace(own, path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        raise NoLibraryError(f"{command[0]} cannot compile {source.name}: {lines[0]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(f"{command[0]} cannot compile {source.name}: {error}") from None
    finally:
        own.unlink(missing_ok=True)
    return path


def _load(path: Path, target: str) -> ctypes.CDLL:
    try:
        code = ctypes.CDLL(str(path))
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(code, target)), platform="cpu")
    except (OSError, AttributeError) as error:
        path.unlink(missing_ok=True)  # damaged; the next process compiles it again
        raise NoLibraryError(f"{path} cannot be loaded: {error}") from None
    return code
