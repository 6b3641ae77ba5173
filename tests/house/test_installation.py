"""What is installed: two top-level names, every package and file, and a program that no file of a user's hides.

Users have files named `train.py`. The folder `train` is therefore installed as `jaxllm_train`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxllm import __version__

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]
RUN = "the user's train.py was run"
NO_BACKEND = {"JAX_PLATFORMS": "nonsense", "JAX_TRACEBACK_FILTERING": "off"}
CONFIG = "[model]\nvocab_size = 19\ncontext_length = 32\nd_model = 8\nn_layers = 1\nn_heads = 2\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pip install --target` fills, from a copy of the project."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools or pip is not installed")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("jaxllm", "train"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = "--no-deps --no-build-isolation --no-index --no-compile --disable-pip-version-check -q"
    command = [sys.executable, "-m", "pip", "install", *options.split(), "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder with a `train.py` and a config."""
    (tmp_path / "train.py").write_text(f'raise SystemExit("{RUN}")\n')
    (tmp_path / "tiny.toml").write_text(CONFIG)
    return tmp_path


def ran(command: list[str], folder: Path, *path: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """The command run in that folder, which comes first where Python searches for modules."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", *map(str, path)])} | more
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_package_is_listed() -> None:
    """setuptools cannot find packages whose folder has another name."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for top in ("jaxllm", "train") for path in (ROOT / top).rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert sorted(listed) == sorted("jaxllm_" + one if one.startswith("train") else one for one in packages)


def test_two_names_are_installed(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"bin", "jaxllm", "jaxllm_train"}


@pytest.mark.parametrize("top", ["jaxllm", "train"])
def test_every_file_is_installed(top: str, installed: Path) -> None:
    there = ROOT / top
    files = {path.relative_to(there) for path in there.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    names = installed / top.replace("train", "jaxllm_train")
    missing = {file for file in files if not (names / file).exists()}
    assert not {file for file in missing if file.suffix != ".md"}


def test_the_script_runs_beside_a_users_train(installed: Path, user: Path) -> None:
    script = str(installed / "bin" / "jaxllm")
    done = ran([script, "--version"], user, installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"jaxllm {__version__}\n", "")
    done = ran([script, "tokenizer", "--help"], user, installed)
    assert done.returncode == 0 and "usage: jaxllm tokenizer" in done.stdout, done.stderr
    done = ran([script, "config"], user, installed)
    assert done.returncode == 0 and "[checkpoint]" in done.stdout, done.stderr


def test_the_page_finds_its_template_when_installed(installed: Path, user: Path) -> None:
    code = """
import numpy as np
from jaxllm_train.commands.attention_page import attention_page
print(attention_page("run", np.ones((1, 1, 1, 1)), ["a"]))
"""
    done = ran([sys.executable, "-c", code], user, installed)
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["train", "generate"])
def test_a_bench_finds_its_process_when_installed(kind: str, installed: Path, user: Path) -> None:
    """It is JAX in that process that refuses, not the import of its module."""
    script = str(installed / "bin" / "jaxllm")
    done = ran([script, "bench", kind, "tiny.toml"], user, installed, **NO_BACKEND)
    assert done.returncode == 2 and RUN not in done.stderr
    assert "the process of jaxllm ended: RuntimeError: Unable to initialize backend 'nonsense'" in done.stderr


def test_a_checkout_runs_as_a_module_beside_a_users_train(user: Path) -> None:
    """From its folder; the processes of a bench too, wherever `.` comes first."""
    done = ran([sys.executable, "-m", "train", "--version"], ROOT)
    assert (done.returncode, done.stdout) == (0, f"jaxllm {__version__}\n")
    command = [sys.executable, "-m", "train", "bench", "train", str(user / "tiny.toml")]
    done = ran(command, ROOT, **NO_BACKEND)
    assert done.returncode == 2 and "Unable to initialize backend 'nonsense'" in done.stderr
