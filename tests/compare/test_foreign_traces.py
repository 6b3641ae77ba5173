"""Files of recordings: what is read of them, and a sentence for each that is none."""

import ast
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_traces import SUBJECTS, Arrays, adamw_of, numpy_arrays, write_trace

from jaxllm import InputError
from jaxllm.compare.foreign import record
from jaxllm.compare.foreign.trace import read_trace
from jaxllm.pretrained.safetensors import write_tensors

CONFIG, LAYOUT = SUBJECTS["GPT2LMHeadModel of transformers"]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    first = numpy_arrays(CONFIG, LAYOUT)
    return numpy_arrays(CONFIG, LAYOUT, adamw_of(first))


def test_a_recording_is_read_back(arrays: Arrays, tmp_path: Path) -> None:
    recording = read_trace(write_trace(tmp_path / "trace.npz", arrays))
    assert np.array_equal(recording.tokens, arrays["tokens"]) and recording.loss == float(arrays["loss"])
    for kind, named in (
        ("in", recording.inputs), ("out", recording.outputs), ("grad_out", recording.output_gradients),
        ("param", recording.params), ("grad", recording.gradients), ("after", recording.after),
    ):  # fmt: skip
        keys = {key for key in arrays if key.startswith(f"{kind}/")}
        assert {f"{kind}/{name}" for name in named} == keys and keys
        assert all(np.array_equal(x, arrays[f"{kind}/{name}"]) for name, x in named.items())
    assert recording.about.dtype == "float64" and recording.about.optimizer is not None
    assert recording.about.optimizer.class_ == "AdamW" and recording.about.optimizer.new


def test_a_safetensors_file_is_read_alike(arrays: Arrays, tmp_path: Path) -> None:
    tensors = {key: np.ascontiguousarray(x) for key, x in arrays.items() if key != "about"}
    write_tensors(tmp_path / "trace.safetensors", tensors, {"about": str(arrays["about"])})
    one, other = read_trace(tmp_path / "trace.safetensors"), read_trace(write_trace(tmp_path / "a.npz", arrays))
    assert one.about == other.about and one.loss == other.loss
    assert all(np.array_equal(x, other.outputs[name]) for name, x in one.outputs.items())


def test_the_whole_model_is_called_by_a_dot(arrays: Arrays, tmp_path: Path) -> None:
    recording = read_trace(write_trace(tmp_path / "a.npz", arrays | {"out/": arrays["out/lm_head"]}))
    assert np.array_equal(recording.outputs["."], arrays["out/lm_head"])


@pytest.mark.parametrize(("change", "message"), [
    (lambda a: a.pop("tokens"), "has no tokens; record it with the file that `jaxllm compare --write-recorder"),
    (lambda a: a.update(tokens=a["tokens"] * 1.0), "tokens of PATH are float64 [2, 6], but they must be integers [B, T]"),
    (lambda a: a.update(targets=a["targets"][0]), "targets of PATH are int64 [6], but"),
    (lambda a: a.update(targets=a["targets"][:, :-1]), "has tokens [2, 6] and targets [2, 5]; they must have the same"),
    (lambda a: [a.pop(key) for key in [*a] if key.startswith("param/")], "has no parameters (param/NAME)"),
    (lambda a: a.update({"output/x": np.zeros(3)}), "has the key 'output/x', which no recording has; "),
    (lambda a: a.update(about=np.array("{")), "`about` of PATH is not what record.py writes"),
    (lambda a: a.update(about=np.array(json.dumps({"classes": 3}))), "`about` of PATH is not what record.py writes"),
    (lambda a: a.update({"out/a\x7fb": np.zeros(3)}), "has the name 'out/a\\x7fb', with characters that cannot be printed"),
    (lambda a: a.update(about=np.array(json.dumps({"torch": "\x1b[2J"}))), "has the name '\\x1b[2J', with characters that"),
    (lambda a: a.update(about=np.array(json.dumps({"optimizer": {"class": "\n"}}))), "has the name '\\n', with char"),
    (lambda a: a.update({"out/x": np.array(["a text"])}), "'out/x.npy' holds '<U6', not numbers"),
])  # fmt: skip
def test_recordings_that_lack_something(
    change: Callable[[Any], Any], message: str, arrays: Arrays, tmp_path: Path
) -> None:
    changed, path = dict(arrays), tmp_path / "trace.npz"
    change(changed)
    with pytest.raises(InputError) as error:
        read_trace(write_trace(path, changed))
    assert message.replace("PATH", str(path)) in str(error.value) and "\n" not in str(error.value)


def member(content: bytes) -> bytes:
    """An archive with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tokens.npy", content)
    return file.getvalue()


def header(text: str) -> bytes:
    """The beginning of an .npy file with that header."""
    padded = text.ljust(118)
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is neither an .npz nor a .safetensors file"),
    (b"a text", "is neither an .npz nor a .safetensors file"),
    (b"PK a text", "is no valid .npz file: File is not a zip file"),
    (member(b"a text"), "is no valid .npz file"),
    (member(header("{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999,), }")), "another size than its header says"),
    (member(header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, -1), }")), "another size than its header says"),
    (member(PICKLED.getvalue()), "'tokens.npy' holds 'object', not numbers"),
])  # fmt: skip
def test_files_that_are_no_recordings(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read .*absent.npz: No such file"):
        read_trace(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="cannot read"):
        read_trace(tmp_path)


def test_a_damaged_archive(arrays: Arrays, tmp_path: Path) -> None:
    """Each cut and each flipped byte gives a sentence or the same arrays, and no other error."""
    path = write_trace(tmp_path / "trace.npz", arrays)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(len(whole), size=30):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(content)
            try:
                read_trace(path)
            except InputError as error:
                assert "\n" not in str(error)


def test_the_recorder_stands_alone() -> None:
    tree = ast.parse(Path(record.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"inspect", "json", "typing", "numpy", "torch"}
