"""A run small enough to be trained within a test."""

import json
from pathlib import Path

TEXT = "the cat sat on the mat. " * 60
TINY = """
[tokenizer]
kind = "char"
[model]
context_length = 8
d_model = 16
n_layers = 1
n_heads = 2
dropout = 0.1
[train]
steps = 12
batch_size = 4
grad_accumulation = 2
[optimizer]
warmup_steps = 2
learning_rate = 1e-2
[eval]
every = 4
sample_tokens = 12
[checkpoint]
every = 5
"""


def write_config(folder: Path) -> Path:
    """A text of its own and the config, in that folder."""
    (folder / "text.txt").write_text(TEXT)
    config = folder / "tiny.toml"
    config.write_text(f'[data]\nsource = "{folder}/text.txt"\n{TINY}')
    return config


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
