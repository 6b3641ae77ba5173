"""Where `fetch` finds a model: paths, packages, names on Hugging Face."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretrained_files import refusal

from jaxllm.pretrained.fetch import fetch, fetched

pytestmark = pytest.mark.newest


def test_a_local_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fetch("gpt2") == Path("gpt2")


def test_a_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "absent/model":
            raise OSError("no such model\nand more")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    assert fetch("HuggingFaceTB/SmolLM2-135M-Instruct") == tmp_path
    assert asked[0][0] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(asked[0][1])
    assert not [pattern for pattern in asked[0][1] if pattern.endswith((".bin", ".py", "*"))]
    message = refusal(lambda: fetch("absent/model"))
    assert "(OSError: no such model)" in message and "https://huggingface.co/absent/model into a folder" in message
    for bad in ("a/b/c", "../up", "https://huggingface.co/gpt2", "a b", "", "x\0"):
        assert "nor the name of a model" in refusal(lambda bad=bad: fetch(bad))
    assert len(asked) == 2
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed
    message = refusal(lambda: fetch("gpt2"))
    assert 'pip install "jaxllm[hub]"' in message and "https://huggingface.co/gpt2 into a folder" in message


def test_what_is_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        assert local_files_only and "config.json" in allow_patterns
        if name != "gpt2":
            raise OSError("not here")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    assert (fetched(str(tmp_path / "..")), fetched("gpt2"), fetched("gpt3")) == (tmp_path / "..", tmp_path, None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fetched("gpt2") is None


def test_a_package_that_holds_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, *files: str) -> None:
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
        for file in files:
            (tmp_path / file).touch()

    install("tiny_model", "tiny_model/__init__.py", "tiny_model/model.Q8_0.gguf")
    install("two_models", "two_models/a.gguf", "two_models/b.gguf")
    install("no_model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fetch("package:tiny_model") == tmp_path / "tiny_model/model.Q8_0.gguf"
    assert "holds 2 GGUF files" in refusal(lambda: fetch("package:two_models"))
    assert "holds 0 GGUF files" in refusal(lambda: fetch("package:no_model"))
    assert "no package 'absent' is installed" in refusal(lambda: fetch("package:absent"))
    assert "no package '' is installed" in refusal(lambda: fetch("package:"))


def test_the_library_itself_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra `hub`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(lambda: fetch("absent-owner/absent-model"))
    assert "could not be downloaded (LocalEntryNotFoundError" in message
