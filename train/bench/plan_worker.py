"""What `jaxllm plan` spares, for `jaxllm bench plan`, in a process of its own: whole steps compiled, or taken."""

from dataclasses import replace
from typing import Any

from ..config_file import load_config
from ..plan.compiled import PlannedStep, compile_step, memory_of, plan, read
from ..plan.process import serve
from .scaling import step_cost

Job = dict[str, Any]  # of `train.plan.compiled.plan`, and `what`: "memory" or "step"


def memory_by_remat(job: Job) -> dict[str, tuple[float, int]]:
    """For remat false and true the bytes of a device: as planned, and of the step with all blocks."""
    found = {}
    for remat in ("false", "true"):
        one = job | {"kind": "h100", "overrides": [*job["overrides"], f"train.remat={remat}"]}  # none is measured
        subject: PlannedStep = read(one)
        found[remat] = (plan(one)["memory"], memory_of(compile_step(subject.lower(subject.model.n_layers), False)))
    return found


def step(job: Job) -> dict[str, Any]:
    """The time of a step of the job on one device."""
    config = load_config(job["config"], job["overrides"])
    return step_cost(replace(config, train=replace(config.train, products="xla")))


if __name__ == "__main__":
    serve(lambda job: memory_by_remat(job) if job["what"] == "memory" else step(job))
