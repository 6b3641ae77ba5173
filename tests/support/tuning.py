"""Files of examples for tests of tuning, and what a run knows of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jaxllm.tokenizers import BPETokenizer
from train.config import EvalConfig, OptimizerConfig, TrainConfig
from train.tune.config import LoraConfig, TuneConfig
from train.tune.data import TuneData, read_tune_data

TOKENIZER = BPETokenizer([bytes([i]) for i in b"abcdefg .?\n"], ["<|endoftext|>"])
LINES: dict[str, list[dict[str, str]]] = {
    "instruct": [{"prompt": "a" * (2 + i % 3), "answer": "b" * (1 + i % 4)} for i in range(30)],
    "classify": [{"text": "abc"[i % 3] * (1 + i % 4), "label": ("one", "two", "three")[i % 3]} for i in range(40)],
    "prefer": [{"prompt": "a" * (2 + i % 3), "chosen": "b" * (1 + i % 4), "rejected": "cd"} for i in range(40)],
}


def examples(folder: Path, kind: Any, window: int = 16) -> TuneData:
    """The examples of LINES, of which the last tenth is for validation."""
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[kind]))
    return read_tune_data(str(path), kind, TOKENIZER, None, window)


def run_of(data: TuneData, kind: Any, rows: int = 3, **tune: Any) -> Any:
    """What `train.tune.measures` reads of a run."""
    config = SimpleNamespace(
        tune=TuneConfig(kind=kind, **tune), lora=LoraConfig(), eval=EvalConfig(), optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=rows),
    )  # fmt: skip
    return SimpleNamespace(config=config, examples=data)
