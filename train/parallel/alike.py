"""What must be alike in all processes of a run. Each of them says in one sentence what is not."""

import platform

import jax
import jaxlib

from jaxllm import __version__

from ..config import RunConfig
from ..config_file import as_dict
from ..ideas import Code
from ..runs.checkpoint import Checkpoints
from ..runs.folder import RunFolder
from .processes import Processes

SHARED = "put the run folder on a file system that all processes share"


def compare_runs(processes: Processes, when: str, folder: RunFolder, config: RunConfig, code: Code | None) -> None:
    """Raises InputError where they have different versions, options, code or, once the config is resolved, data."""
    versions = {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    processes.compare(f"versions {when}", versions | {"jaxllm": __version__}, "install the same for every process")
    given = {"--out": str(folder.path.absolute()), "the sha256 of --code": code and code.sha256}
    fields = {f"{section}.{key}": value for section, keys in as_dict(config).items() for key, value in keys.items()}
    processes.compare(when, given | fields, "start every process with the same options, files and data")


def compare_devices(processes: Processes) -> None:
    """Raises InputError where they have different devices."""
    devices = {"the number of devices": jax.local_device_count(), "their kind": jax.devices()[0].device_kind}
    processes.compare("devices", devices, "give every process as many devices of one kind")


def compare_checkpoints(processes: Processes, checkpoints: Checkpoints) -> None:
    """Raises InputError where one would go on from another step."""
    processes.compare("checkpoint", {"the newest checkpoint": checkpoints.latest_step()}, SHARED)


def check_shared(processes: Processes, folder: RunFolder) -> None:
    """Raises InputError where one does not see the folder that process 0 has made."""
    processes.compare("made", {}, "")  # all have come here
    seen = "the run" if folder.config.exists() else "no run"
    processes.compare("seen", {f"what is in {folder.path}": seen}, SHARED)
