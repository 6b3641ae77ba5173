"""Exported GGUF files in llama.cpp itself: our log-probabilities and our ids. Needs `pip install xllamacpp`."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_files
import jax
import numpy as np
import pytest
from pretrained_files import LLAMA3

from jaxllm import GPT, GPTConfig, load_pretrained
from jaxllm.compare import random_parameters
from jaxllm.pretrained.gguf_save import save_gguf
from jaxllm.tokenizers import BPETokenizer

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:.*computes the activation gelu of a gptneox"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp, which holds llama.cpp"),
]

WORKER = Path(__file__).parents[1] / "support" / "llama_cpp_worker.py"
WIDE_HEADS = ("llama", "qwen3", "gemma", "smollm3", "gemma2", "gemma3")
TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. 123 1234\n\n  東京 "
TOKENS = BPETokenizer.train(TEXT * 2, 300, ()).tokens
WIDE = {"vocab_size": 320, "d_model": 64, "d_ff": 256, "context_length": 64}
BASE = {**WIDE, "d_head": None}
PATTERNS = {"llama": "llama3", "llama 3": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}  # of tokenizers; else gpt2
MODELS: dict[str, GPTConfig] = {name: replace(config, **BASE) for name, config in gguf_files.MODELS.items()} | {
    "llama 3": replace(LLAMA3, **WIDE),
    "linear": replace(gguf_files.MODELS["llama"], **BASE, rope_scaling="linear", rope_factor=4.0),
    "yarn": replace(gguf_files.MODELS["llama"], **BASE, rope_scaling="yarn", rope_factor=4.0, rope_original_context=16),
    "gptneox in turn": replace(gguf_files.MODELS["gptneox"], **BASE, parallel_residual=False),
    **{f"{name}, wide heads": replace(gguf_files.MODELS[name], **WIDE, d_head=24) for name in WIDE_HEADS},
}
# Of a log-probability. llama.cpp looks GELU up in float16, and rounds activations as it rounds the weights.
BOUNDS = {"float32": 1e-4, "float16": 0.02, "q8_0": 0.3}
GELU_BOUND = 5e-3


def in_llama_cpp(path: Path, ids: list[int]) -> dict[str, Any]:
    asked = json.dumps({"path": str(path), "ids": ids, "text": TEXT})
    done = subprocess.run([sys.executable, WORKER], input=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_log_probabilities_and_ids_of_llama_cpp(name: str, dtype: str, tmp_path: Path) -> None:
    config, pattern = MODELS[name], PATTERNS.get(name, "gpt2")
    tok = BPETokenizer(TOKENS, ["<|endoftext|>", "<|a|>"], pattern, "NFC" if pattern == "qwen2" else None)
    path, ids = tmp_path / "x.gguf", tok.encode(TEXT)[:35]
    save_gguf(path, config, jax.device_get(random_parameters(GPT(config))), tok, dtype=dtype)
    found, params = load_pretrained(path)
    if found.activation == "gelu":
        found = replace(found, activation="gelu_tanh")  # which llama.cpp computes
    logits = jax.jit(GPT(found).apply)({"params": params}, np.array([ids]))[0, -1]
    theirs = in_llama_cpp(path, ids)
    assert theirs["ids"] == tok.encode(TEXT)
    log_probs = dict(theirs["log_probs"])
    assert sorted(log_probs) == list(range(config.vocab_size))
    difference = np.array([log_probs[i] for i in range(config.vocab_size)]) - np.asarray(jax.nn.log_softmax(logits))
    bound = max(BOUNDS[dtype], GELU_BOUND if config.activation.startswith("g") else 0)
    assert abs(difference).max() < bound, abs(difference).max()
