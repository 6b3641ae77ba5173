"""A few hundred hostile files for each loader, and a check that the fuzzing notices every kind of failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.newest
TOOLS = Path(__file__).parents[1] / "tools"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """In a new Python, because forks of this process would inherit its threads' locks."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=TOOLS, env=os.environ)


def test_no_loader_fails_on_hostile_files() -> None:
    ran = run("fuzz.py", "--inputs", "200")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "config", "overrides", "tokenizer", "exchange", "prompt", "shards", "metrics", "examples", "questions", "manifest", "safetensors", "adapter", "gguf",
        "quantised", "recording", "names",
    ]  # fmt: skip
    for line in lines:
        read, refused = (int(part.split()[0].replace(",", "")) for part in line.split(": ")[1].split(", ")[:2])
        assert read >= 3 and refused >= 3 and read + refused == 200, line


FAULTS = {
    "raises": ("1 / 0", "ZeroDivisionError"),
    "two lines": ("raise odd('a\\nb')", "the message, of 3 characters, is not one printable line"),
    "colours": ("raise odd('\\x1b[31m')", "is not one printable line"),
    "long": ("raise odd('x' * 3000)", "the message, of 3,000 characters"),
    "takes memory": ("bytearray(2**28)", "MemoryError"),
    "does not end": ("while True: pass", "Hang"),
    "catches all and does not end": ("while True:\n  try:\n   while True: pass\n  except Exception: pass", "Hang"),
    "dies": ("os.kill(os.getpid(), 9)", "the process ended with -9"),
}


CODE = """
import os
from pathlib import Path
import fuzz
from jaxllm import InputError

def odd(message):
    error = InputError("")
    error.args = (message,)  # unchanged, because InputError would make it printable
    return error

def use(folder):
    if (folder / "x").read_bytes() == b"3":
        exec(code)

fuzz.BATCH = 5
fuzz.TARGETS["x"] = fuzz.Target(lambda rng: {}, use)
fuzz.made = lambda name, seed, number: {"x": b"%d" % number}
for fault, (code, message) in FAULTS.items():
    keep = Path(FOLDER, fault)
    result = fuzz.fuzz("x", 0, range(8), keep)
    assert (result.inputs, result.loaded, list(result.failures)) == (8, 7, [3]), (fault, result)
    assert message in (keep / "x-3" / "fault.txt").read_text(), (fault, result)
    assert (keep / "x-3" / "x").read_bytes() == b"3"
"""


def test_every_kind_of_failure_is_seen(tmp_path: Path) -> None:
    """Input 3 of 8 fails and is kept; all others are read."""
    ran = run("-c", f"FAULTS, FOLDER = {FAULTS!r}, {str(tmp_path)!r}\n{CODE}")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_input_is_a_function_of_its_number() -> None:
    program = """
import fuzz
for name in ("gguf", "config", "prompt", "safetensors", "metrics", "overrides"):
    inputs = [fuzz.made(name, 0, number) for number in range(20)]
    assert inputs == [fuzz.made(name, 0, number) for number in range(20)]
    assert len({str(one) for one in inputs}) > 10 and inputs[:5] != [fuzz.made(name, 1, number) for number in range(5)]
"""
    ran = run("-c", program)
    assert ran.returncode == 0, ran.stderr
