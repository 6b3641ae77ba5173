"""The memory that a program needs by XLA's plan, the memory that is free, and the error where it runs out."""

from collections.abc import Iterator
from pathlib import Path

import jax
from jax.stages import Compiled

KNOBS = "raise train.grad_accumulation, set train.remat=true, or make model.context_length smaller"


def step_bytes(step: Compiled) -> int | None:
    """Bytes that a compiled step takes besides its arguments, gradients included, by XLA's plan; None if unknown.

    On a CPU, XLA allocates all of them in one piece.
    """
    plan = step.memory_analysis()
    if plan is None:
        return None
    return int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate: on the device, or on a CPU within the machine and its cgroups.

    None where the system does not report it, as on macOS and Windows. `root` is the folder of proc and sys.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        return known["bytes_limit"] - known["bytes_in_use"] if {"bytes_limit", "bytes_in_use"} <= set(known) else None
    found = _lines(root / "proc/meminfo").get("MemAvailable:", "").removesuffix(" kB")
    left = [int(found) * 1024] if found else []
    return min([*left, *_left_in_cgroups(root)], default=None)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes left in each cgroup with a limit that holds this process, in version 1 or 2, as `docker stats` counts them.

    File pages that were not used recently count as free, because the kernel reclaims them.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = "sys/fs/cgroup/memory"
        else:
            continue
        group = root / top / path.strip("/")
        for folder in (group, *group.parents):  # a parent's limit holds too
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])
            except (OSError, ValueError):  # absent, or "max"
                continue
            yield max(limit - used + int(_lines(folder / "memory.stat").get(names[2], 0)), 0)


def _lines(path: Path) -> dict[str, str]:
    """The lines of a file of names and values, as a dict; {} if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in lines)}


def describe_out_of_memory(error: BaseException) -> str | None:
    """One sentence for an out-of-memory error of Python, NumPy or XLA; None for any other error."""
    text = str(error).partition("\n")[0]
    from_xla = isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    )
    if not (from_xla or isinstance(error, MemoryError)):
        return None
    said = f" ({text.rstrip('.')})" if text else ""
    return f"there is not enough memory{said}; {KNOBS}, or model.d_model and model.n_layers."
