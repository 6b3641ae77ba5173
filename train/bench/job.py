"""The config of a job, in the process that is timed."""

from dataclasses import asdict
from typing import Any

from jaxllm.config import GPTConfig

from ..config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from ..ideas import load_code, references, resolve
from ..tune.config import LoraConfig

SECTIONS = {"model": ModelConfig, "train": TrainConfig, "optimizer": OptimizerConfig, "lora": LoraConfig}


def config_of(job: dict[str, Any]) -> tuple[GPTConfig, RunConfig]:
    """The model and config of a job, with the functions of the file that `--code` named in place of their names."""
    config = RunConfig(**{name: of(**job[name]) for name, of in SECTIONS.items() if name in job})
    config = resolve(config, load_code(job["code"]) if any(references(config)) else None)
    return GPTConfig(**asdict(config.model)), config
