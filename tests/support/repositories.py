"""A repository of a copy of this code, and workers without JAX in the place of its own."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A worker without JAX. It logs its name at each step; its losses have a relative error.
TRAINING = """
import time
from .peers.protocol import serve

class Side:
    weights_s = 0.0
    def __init__(self, job):
        assert "{name}" == "A" or job["load_weights"] is None, "an old worker cannot load weights"
        for path in filter(None, [job["save_weights"]]):
            open(path, "w").write("{name}")
        for path in filter(None, [job["load_weights"]]):
            assert open(path).read() == "B"
    def step(self, tokens, rate):
        open({log!r}, "a").write("{name}")
        time.sleep({seconds})
        return float(tokens.mean()) * (1 + {shift})
    def about(self, first_step_s):
        return dict(compile_s=0.5, device="cpu", platform="cpu", n_parameters=1, versions=dict(python="3"))
    def close(self):
        return dict(peak_bytes=2**20, product_flops_per_s=1e9)

if __name__ == "__main__":
    serve(Side)
"""
# Likewise. What ours answers to `compare` depends on the batch size.
GENERATING = """
import time
import numpy as np
from .peers.protocol import serve_generation

class Side:
    weights_s = 0.0
    def __init__(self, job):
        self.job, self.shape = job, (job["batch_size"], job["prompt_tokens"])
        if job["load_weights"]:
            assert "{name}" == "A" and open(job["load_weights"]).read() == "B" and job["sample"] is None
        else:
            open(job["save_weights"], "w").write("{name}")
    def write(self, prompts):
        assert prompts.shape == self.shape
        open({log!r}, "a").write("{name}")
        time.sleep(0.01)
        first_at = time.perf_counter()
        time.sleep(0.02)
        return np.zeros((self.shape[0], self.job["new_tokens"]), np.int32), first_at
    def logits(self, prompts):
        return np.zeros((self.shape[0], 32), np.float32)
    def about(self):
        sizes = dict(n_parameters=1, weight_bytes=1000, float32_weight_bytes=4000)
        return dict(device="cpu", platform="cpu", versions=dict(python="3"), **sizes)
    def answer(self, message):
        if "compare" in message:
            assert np.load(message["compare"])["tokens"].shape == (self.shape[0], self.job["new_tokens"])
            parted = [dict(row=0, token=1, gap={gap})] if self.shape[0] == 2 else []
            return dict(logits_difference=0.0, tokens=5, parted=parted)
        return dict(bytes_per_s=1e6)
    def close(self):
        return dict(peak_bytes=2**20)

if __name__ == "__main__":
    serve_generation(Side)
"""


def copy_code(place: Path) -> Path:
    """Copy this code into a folder in which git begins a repository; returns it."""
    for name in ("jaxllm", "train"):
        shutil.copytree(ROOT / name, place / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(place, "init", "-q")
    return place / "code"


def git(place: Path, *words: str) -> str:
    """What git prints in the repository."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=place / "code", check=True, capture_output=True, text=True).stdout


def commit(place: Path, subject: str) -> str:
    """Commit everything; returns the abbreviated hash."""
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", subject)
    return git(place, "rev-parse", "--short", "HEAD").strip()


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def training(place: Path, name: str, shift: str = "0.0", seconds: float = 0.01) -> None:
    """Put a worker without JAX in the place of ours."""
    text = TRAINING.format(name=name, shift=shift, seconds=seconds, log=str(place / "log.txt"))
    (place / "code/train/bench/train_worker.py").write_text(text)


def generating(place: Path, name: str, gap: float = 0.0) -> None:
    """Likewise for generating."""
    text = GENERATING.format(name=name, gap=gap, log=str(place / "log.txt"))
    (place / "code/train/bench/generate_worker.py").write_text(text)
