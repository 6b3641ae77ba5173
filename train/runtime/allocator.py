"""The memory of a training process on a CPU.

XLA on a CPU allocates the memory of a whole step in one block and frees it afterwards. By default glibc returns such a
block to the kernel, which must find and clear its pages again in the next step, 4 KiB at a time. Our setting keeps the
block in the process, in pages of 2 MiB. glibc reads the setting only when a process starts.

The setting applies to the main thread only: other threads hold no block of more than 64 MiB, and map larger ones again
each time. So computations run in the thread that calls them, not in one of JAX's threads.

Other C libraries (musl, macOS, Windows) have no such setting and are left as they are.
"""

import os
import platform
import sys
from collections.abc import Mapping

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"


def with_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with glibc's setting; unchanged if it has one already or the C library is not glibc."""
    present = environment.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc." in present:
        return dict(environment)
    return {**environment, "GLIBC_TUNABLES": f"{present}:{TUNABLES}".lstrip(":")}


def restart_with_allocator() -> None:
    """Restart this program with the setting; returns if it has the setting, or cannot have it."""
    environment = with_allocator(os.environ)
    if environment != dict(os.environ) and sys.executable:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def compute_in_this_thread() -> None:
    """Have JAX on a CPU compute in the calling thread. Call it before the first computation."""
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def compute_deterministically() -> None:
    """Have XLA on a GPU use deterministic operations only, chosen without timing them.

    Call it before JAX's first computation. It changes nothing on a CPU, whose operations are all deterministic. The
    flag implies `--xla_gpu_exclude_nondeterministic_ops` (openxla/xla#12520).
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".lstrip()
