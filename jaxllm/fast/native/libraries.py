"""The libraries of matrix products that an installed Python package brings, and the addresses of their functions."""

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

Functions = list[Callable[..., object]]
ONEDNN = (
    "dnnl_engine_create", "dnnl_stream_create", "dnnl_memory_desc_create_with_strides",
    "dnnl_matmul_primitive_desc_create", "dnnl_primitive_create", "dnnl_memory_create", "dnnl_memory_set_data_handle",
    "dnnl_primitive_execute", "dnnl_stream_wait", "dnnl_memory_desc_destroy", "dnnl_primitive_desc_destroy",
    "dnnl_memory_destroy", "dnnl_primitive_destroy",
)  # fmt: skip


@dataclass(frozen=True)
class Library:
    """A library, by which package and file it is found, and what it computes."""

    number: int  # of the attribute `library` in product.c
    packages: tuple[str, ...]
    file: str  # the start of the file's name
    dtypes: tuple[str, ...]
    functions: Callable[[ctypes.CDLL], Functions]


def _onednn(library: ctypes.CDLL) -> Functions:
    openmp = ctypes.CDLL("libgomp.so.1")  # the one that the library itself has loaded
    return [*(getattr(library, name) for name in ONEDNN), openmp.omp_get_max_threads, openmp.omp_set_num_threads]


def _mkl(library: ctypes.CDLL) -> Functions:
    library.MKL_Set_Interface_Layer(0)  # 32-bit sizes, whatever the environment says
    library.MKL_Set_Threading_Layer(1)  # sequential: product.c cuts a product into tasks of XLA's threads
    return [library.cblas_sgemm]


def _openblas(library: ctypes.CDLL) -> Functions:
    library.scipy_openblas_set_num_threads(1)  # of this copy only; NumPy's has another name
    return [library.scipy_cblas_sgemm]


LIBRARIES = {
    "onednn": Library(0, ("onednn-cpu-gomp",), "libdnnl.so.3", ("float32", "bfloat16"), _onednn),
    "mkl": Library(1, ("mkl",), "libmkl_rt.so", ("float32",), _mkl),
    "openblas": Library(2, ("scipy-openblas32",), "libscipy_openblas", ("float32",), _openblas),
}


class NoLibraryError(Exception):
    """A library cannot be used here; the message is the reason."""


def check_system() -> None:
    """Raises NoLibraryError if this is not Linux."""
    if sys.platform != "linux":
        raise NoLibraryError(f"it is used on Linux only, not on {platform.system()}")


@cache
def find(name: str) -> Path:
    """The file of a library. Raises NoLibraryError where its package is not installed, or this is not Linux."""
    check_system()
    library = LIBRARIES[name]
    for package in library.packages:
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            continue
        found = sorted(Path(str(path.locate())) for path in listed if path.name.startswith(library.file))
        if existing := [path for path in found if path.is_file()]:
            return existing[-1].resolve()
    raise NoLibraryError("it is not installed; pip install 'jaxllm[blas]' brings it where there is a package")


@cache
def load(name: str) -> Functions:
    """The functions that product.c calls, in its order. Raises NoLibraryError where the file cannot be loaded."""
    path = find(name)
    try:
        return LIBRARIES[name].functions(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:  # AttributeError: a function is missing from an older library
        raise NoLibraryError(f"{path} cannot be used: {error}") from None
