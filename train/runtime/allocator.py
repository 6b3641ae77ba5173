"""The memory of a training process on a CPU.

XLA on a CPU asks for the memory of a whole step at once and gives it back after it. By default glibc returns such a
block to the kernel, which must find and clear its pages again in the next step, 4 KiB at a time. PyTorch's many smaller
blocks stay in the process. Kept, and in pages of 2 MiB, a step of a small GPT took 44 ms where it had taken 71, and one
of 10 million parameters 2.5 s instead of 3.1 (2 cores, JAX 0.12). glibc reads the setting only as a process starts.

And it holds for the main thread alone: what another thread has can be no longer than 64 MiB in one piece, and longer
ones are mapped anew each time. So computations run in the thread that asks for them, not in one of JAX's own.
"""

import os
import platform
import sys
from collections.abc import Mapping

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"


def with_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with glibc's setting, or as it was where it has one already or the C library is another."""
    present = environment.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc." in present:
        return dict(environment)
    return {**environment, "GLIBC_TUNABLES": f"{present}:{TUNABLES}".lstrip(":")}


def restart_with_allocator() -> None:
    """Start this program anew under the setting; returns where it has it, or cannot have it."""
    environment = with_allocator(os.environ)
    if environment != dict(os.environ) and sys.executable:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def compute_in_this_thread() -> None:
    """Have JAX on a CPU compute where it is called, from now on; to be said before its first computation."""
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def compute_deterministically() -> None:
    """Have XLA on a GPU use only operations that give the same bits each time, and choose them without timing them.

    To be said before JAX's first computation. Elsewhere it changes nothing: on a CPU they are the only ones. The flag
    also implies `--xla_gpu_exclude_nondeterministic_ops` (openxla/xla#12520).
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".lstrip()
