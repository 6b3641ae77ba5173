"""The machine and the versions that a bench ran on."""

import platform
from typing import Any


def processor() -> str:
    """The name of the machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions_lines(figures: dict[str, Any]) -> list[str]:
    """`jaxllm 0.1.0, python 3.12.1, ... on cpu`, and a line for the peer."""
    versions, against = figures["versions"], figures["against"]
    ours = {name: version for name, version in versions.items() if name != against}
    lines = [f"{_listed(ours)} on {figures['machine']['device']}"]
    return lines + ([f"{against}: {_listed(versions[against])}"] if figures["peer"] else [])


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
