"""`jaxllm export --out FILE.gguf`: a file that `jaxllm import` makes the same run of, or nothing and one sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as peer
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import CONFIG, TEMPLATE, imported

from jaxllm import GPTConfig
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.gguf_save import save_gguf
from jaxllm.pretrained.hf_config import numeric_fields
from train.cli import main
from train.commands import export_gguf
from train.outputs import new_file
from train.runs.load import load_run
from train.tune.config import TuneConfig

LLAMA = replace(CONFIG, activation="swiglu", use_bias=False)
Capture = pytest.CaptureFixture[str]

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return imported(tmp_path / "run", LLAMA)


@pytest.mark.parametrize(
    ("dtype", "held", "verified"),
    [
        (None, "11 tensors in F32", "within 0.0e+00 of the largest, in float32 (bound 0.0001)"),
        ("float32", "11 tensors in F32", "within 0.0e+00 of the largest, in float32 (bound 0.0001)"),
        ("float16", "8 tensors in F16, 3 tensors in F32", "(bound 0.1)"),
        ("q8_0", "3 tensors in F32, 8 tensors in Q8_0", "(bound 0.1)"),
    ],
)
def test_what_is_exported_is_imported_again(
    dtype: str | None, held: str, verified: str, tmp_path: Path, capsys: Capture
) -> None:
    path = imported(tmp_path / "run", replace(LLAMA, d_model=32, d_ff=64))
    out = tmp_path / "model.gguf"
    words = ["export", str(path), "--out", str(out), "--verify", *(["--dtype", dtype] if dtype else [])]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(f"parameters as llama, {held}: {out}")
    assert printed[1].startswith("verified: jaxllm.load_pretrained opens it, and computes our logits of 128 random")
    assert printed[1].endswith(verified) and ("0.0e+00" in printed[1]) == (held == "11 tensors in F32")
    assert printed[2] == "the model has 260 ids, its tokenizer uses 258 of them"
    assert main(["import", str(out), "--out", str(tmp_path / "again")]) == 0
    ours, again = load_run(path), load_run(tmp_path / "again")
    assert numeric_fields(again.model.config) == numeric_fields(ours.model.config) and again.chat == ours.chat
    assert again.chat is not None and again.chat.chat_template == TEMPLATE
    assert again.tokenizer.encode("hi</s>", ["</s>"]) == ours.tokenizer.encode("hi</s>", ["</s>"])
    assert_close(again.params, ours.params, {"float16": 2**-11, "q8_0": 0.1}.get(dtype or "", 0))
    assert peer.GGUFReader(out).fields["general.name"].contents() == "run"


def assert_close(found: Any, want: Any, relative: float) -> None:
    """Within that share of the largest number of each array."""
    for path, x in flatten_dict(want).items():
        np.testing.assert_allclose(flatten_dict(found)[path], x, rtol=0, atol=relative * abs(np.asarray(x)).max())


def test_what_a_reader_does_in_another_way_is_said(tmp_path: Path, capsys: Capture) -> None:
    path = imported(tmp_path / "run", replace(LLAMA, separator=256))
    assert main(["export", str(path), "--out", str(tmp_path / "M.GGUF"), "--dtype", "q8_0"]) == 0
    printed = capsys.readouterr()
    assert "llama.cpp lets a text attend to documents before it; this model was trained without" in printed.out
    assert "note: 7 tensors stay F16, because their rows are no multiple of 32 numbers: token_embd" in printed.err
    assert (tmp_path / "M.GGUF").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--out", "new.gguf", "--dtype", "q4_k"], "--dtype is 'q4_k', but a GGUF file is written in float32, float16, q8_0."),
        (["run", "--out", "new", "--dtype", "q8_0"], "--dtype is 'q8_0', but a folder keeps the dtypes of the run; give --out FILE.gguf, or leave --dtype out."),
        (["run", "--out", "new.gguf", "--adapter"], "--adapter writes a folder that PEFT opens, but --out names a GGUF file; leave --adapter out to add"),
        (["run", "--out", "old.gguf"], "old.gguf exists already; choose another name with --out."),
        (["run", "--out", "none/new.gguf"], "there is no folder none; make it first."),
        (["run", "--out", "new.gguf", "--step", "3"], "was imported and has no steps; leave it out."),
        (["old.gguf", "--out", "new.gguf"], "old.gguf is no run folder"),
        (["window", "--out", "new.gguf"], "no architecture of GGUF can express this model: smollm3 is nearest, but has no model.sliding_window = 3"),
        (["classes", "--out", "new.gguf"], "has no model.n_classes = 3"),
        (["chat", "--out", "new.gguf"], "texts begin with the id 256, but bos_token is '</s>', the id 257"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_runs(words[0])
    Path("old.gguf").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before and Path("old.gguf").read_bytes() == b"old"


def make_runs(name: str) -> None:
    """The run of that name in the current folder."""
    labels = TuneConfig(kind="classify", labels=("a", "b", "c"))
    runs: dict[str, tuple[GPTConfig, Any]] = {
        "run": (LLAMA, {}), "window": (replace(LLAMA, sliding_window=3), {}),
        "classes": (replace(LLAMA, n_classes=3), {"tune": labels}),
        "chat": (LLAMA, {"chat": ChatFormat(256, bos_token="</s>")}),
    }  # fmt: skip
    if name in runs:
        config, more = runs[name]
        imported(Path(name), config, **more)


def test_no_run_is_read_for_a_file_that_exists(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "old.gguf").touch()
    assert main(["export", str(tmp_path / "no run"), "--out", str(tmp_path / "old.gguf")]) == 2
    assert "old.gguf exists already" in capsys.readouterr().err


def test_a_file_of_other_weights_is_not_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def saving(path: Path, config: GPTConfig, params: Any, *more: Any) -> dict[str, str]:
        return save_gguf(path, config, jax.tree.map(lambda x: x * np.float32(1.001), params), *more)

    monkeypatch.setattr(export_gguf, "save_gguf", saving)
    assert main(["export", str(run), "--out", str(tmp_path / "new.gguf"), "--verify"]) == 1
    error = capsys.readouterr().err
    assert "the logits of jaxllm.load_pretrained differ from this model's by" in error and error.count("\n") == 1
    assert [*tmp_path.iterdir()] == [run]


def test_a_new_file_appears_at_the_end(tmp_path: Path) -> None:
    with new_file(tmp_path / "file") as aside:
        aside.write_text("x")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "x"
    with pytest.raises(KeyboardInterrupt), new_file(tmp_path / "other") as aside:
        aside.write_text("y")
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
