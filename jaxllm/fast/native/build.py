"""Compile a file of C with the system's compiler, once for each processor and JAX, and register it with XLA.

The compiled file stays in the user's private folder (`jaxllm.utils.private_folder`). Its name is a hash of all that it
was made from, so another source, JAX, processor or compiler's command has another file.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import jax
import jaxlib

from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError, check_system, load
from jaxllm.utils.private_folder import NotPrivateError, private_file, processor

FOLDER = Path(__file__).parent
TARGET, FEW_ROWS = "jaxllm_product", "jaxllm_few_rows"  # names of functions, under which XLA calls them
COMPILE_S = 120  # seconds after which the compiler is given up
_lock = threading.RLock()


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


def _compiled(name: str, target: str, *options: str) -> ctypes.CDLL:
    """The file `name`.c as a loaded library, whose function `target` is registered."""
    with _lock:
        found = _compile_once(name, target, *options)
    if isinstance(found, NoLibraryError):
        raise found
    return found


@cache
def _compile_once(name: str, target: str, *options: str) -> ctypes.CDLL | NoLibraryError:
    """The library, or why there is none: a compiler that has failed is not started again."""
    try:
        return _find_or_compile(name, target, *options)
    except NoLibraryError as error:
        return error


def _find_or_compile(name: str, target: str, *options: str) -> ctypes.CDLL:
    source = FOLDER / f"{name}.c"
    try:
        command = [*shlex.split(os.environ.get("CC") or "cc"), *options, "-shared", "-fPIC", "-pthread"]
    except ValueError as error:
        raise NoLibraryError(f"CC is not a command: {error}") from None
    if shutil.which(command[0]) is None:
        raise NoLibraryError(f"there is no C compiler {command[0]!r}; install one, or name yours in CC")
    texts = [path.read_text() for path in (source, FOLDER / "tasks.h")]
    made_from = [*texts, jax.__version__, jaxlib.__version__, platform.machine(), *command, *processor()]
    file = f"{name}-{hashlib.sha256(chr(10).join(made_from).encode()).hexdigest()[:16]}.so"
    if path := _private(file):
        return _load(path if path.is_file() else _compile(command, source, path), target)
    with tempfile.TemporaryDirectory() as folder:  # a loaded file may be deleted
        return _load(_compile(command, source, Path(folder, file)), target)


def _private(name: str) -> Path | None:
    try:
        return private_file("native", name)
    except NotPrivateError as error:
        raise NoLibraryError(f"compiled code cannot be kept: {error}") from None


def _compile(command: list[str], source: Path, path: Path) -> Path:
    """Compile to a name of its own, then rename, because other processes may be doing the same."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
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
        with suppress(OSError):
            own.unlink(missing_ok=True)
    return path


def _load(path: Path, target: str) -> ctypes.CDLL:
    try:
        code = ctypes.CDLL(str(path))
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(code, target)), platform="cpu")
    except (OSError, AttributeError) as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # damaged; the next process compiles it again
        raise NoLibraryError(f"{path} cannot be loaded: {error}") from None
    return code
