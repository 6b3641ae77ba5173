"""Runs as `jaxllm import` leaves them, of a random model."""

from dataclasses import asdict, replace
from pathlib import Path

from models import TINY

from jaxllm import GPT, GPTConfig
from jaxllm.compare import random_parameters
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer
from train.config import ModelConfig, RunConfig, TrainConfig
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.tune.config import TuneConfig

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)
TOKENIZER = BPETokenizer([bytes([i]) for i in range(256)], ["<s>", "</s>"])
CONFIG = replace(TINY, vocab_size=260, context_length=64, n_layers=1, norm="rms_norm", position="rotary")


def imported(
    path: Path, config: GPTConfig = CONFIG, chat: ChatFormat | None = None, tune: TuneConfig | None = None
) -> Path:
    """A run folder at the path, with random parameters and TOKENIZER; returns the path."""
    folder = RunFolder(path)
    path.mkdir()
    (chat or ChatFormat(256, (257,), "<s>", "</s>", TEMPLATE)).save(folder.pretrained)
    write_weights(folder.weights, random_parameters(GPT(config)))
    model, train = ModelConfig(**asdict(config)), TrainConfig(batch_size=1)
    folder.create(RunConfig(model=model, train=train, tune=tune or TuneConfig()), TOKENIZER)
    return path
