"""Files are data: nothing in the code can run what a file holds, and files that try are refused."""

import ast
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxllm import InputError
from jaxllm.data.shards import open_split, read_index, verify
from jaxllm.pretrained import gguf, safetensors
from jaxllm.tokenizers import BPETokenizer, load_tokenizer
from jaxllm.tokenizers.formats import from_hugging_face, from_tiktoken
from train.config_file import build_config, load_config
from train.runs.manifest import read_manifest
from train.runs.metrics import read_metrics

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]

# ---- what the code may not do

MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "tarfile",
    "zipfile",
    "yaml",
    "code",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    "unpack_archive",
    "read_pickle",
    "import_module",
    "exec_module",
    "load_module",
}  # of any object
NAMES = {"torch.load", "builtins.eval", "builtins.exec", "os.system", "os.popen", "subprocess.getoutput"}
EXPECTED = {
    ("jaxllm/__init__.py", "importlib.import_module"),  # of this package's own modules, by a list in the code
    ("jaxllm/pretrained/__init__.py", "importlib.import_module"),  # likewise
    ("train/cli.py", "importlib.import_module"),  # of this package's own commands, by a list in the code
    ("train/commands/export_verify.py", "importlib.import_module"),  # transformers or PEFT, by names in the code
    ("train/runs/sinks.py", "importlib.import_module"),  # of one of three packages, by a list in the code
    ("train/learn/course.py", "importlib.import_module"),  # of this package's own pieces, by a list in the code
    ("train/ideas.py", "spec.loader.exec_module"),  # the file that the user names by --code, which is to be run
    ("train/bench/peers/nanogpt.py", "spec.loader.exec_module"),  # the user's checkout of nanoGPT, which is to be run
    ("train/bench/peers/nanogpt_losses.py", "torch.load"),  # tensors only, of files that the timed process has written
    ("train/learn/course.py", "importlib.import_module"),  # of this package's own modules, by a list in the code
    ("train/learn/checking/runner.py", "importlib.import_module"),  # a learner's file, in a process of its own
    ("train/learn/training/callbacks.py", "importlib.import_module"),  # PyTorch
    ("train/learn/training/loading.py", "spec.loader.exec_module"),  # a learner's file, which they ask to train
    ("jaxllm/fast/__init__.py", "importlib.import_module"),  # of this package's own modules, by a function's home
    (
        "jaxllm/compare/array_file.py",
        "zipfile",
    ),  # arrays of .npz, whose headers are read first; nothing is unpacked to disk
}
LOADS = {"np.load", "numpy.load", "jnp.load", "jax.numpy.load"}


def dangers(source: str) -> list[tuple[int, str]]:
    """The line and name of all that can run a file's content in a Python source, comments and strings aside."""
    return [(getattr(node, "lineno", 0), what) for node in ast.walk(ast.parse(source)) for what in _of_node(node)]


def _of_node(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_dangerous(alias.name))
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        found = [name for name in names if name in NAMES | LOADS or name.split(".")[-1] in METHODS]
        yield from [node.module] if _is_dangerous(node.module) else found
    elif isinstance(node, ast.Name) and node.id in CALLS and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        if name in NAMES or node.attr in METHODS:
            yield name
    elif isinstance(node, ast.Call):
        yield from _of_call(node)


def _is_dangerous(module: str) -> bool:
    return module.split(".")[0] in MODULES


def _of_call(node: ast.Call) -> Iterator[str]:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    name = ast.unparse(node.func)
    if given.get("allow_pickle", "False") != "False" or name in LOADS and "allow_pickle" not in given:
        yield f"{name} with pickles"
    if given.get("shell", "False") != "False":
        yield f"{name} with a shell"


def test_nothing_in_the_code_runs_what_a_file_holds() -> None:
    found = {
        (str(path.relative_to(ROOT)), what): line
        for folder in ("jaxllm", "train")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, what in dangers(path.read_text(encoding="utf-8"))
    }
    assert EXPECTED <= found.keys(), "an exception that is no longer needed"
    assert not {place: line for place, line in found.items() if place not in EXPECTED}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "def f():\n    import marshal", "import shelve",
        "import tarfile", "from zipfile import ZipFile", "import yaml", "import joblib.memory", "import dill",
        "np.load(p)", "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=x)", "f(allow_pickle=True)",
        "from numpy import load", "eval(x)", "exec(x)", "run = eval", "f(exec)", "compile(x, '', 'exec')", "__import__(x)",
        "importlib.import_module(x)", "from importlib import import_module", "shutil.unpack_archive(x)", "torch.load(p)",
        "torch.load(p, weights_only=False)", "subprocess.run(x, shell=True)", "run(x, shell=y)", "os.system(x)",
        "from os import system", "from torch import load", "pandas.read_pickle(x)", "builtins.eval(x)",
    ],
)  # fmt: skip
def test_what_would_run_it_is_found(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""import pickle"""', "# eval(x)", "x = 'exec(x)'", "np.load(p, allow_pickle=False)", "import json", "model.eval()",
        "re.compile(x)", "lowered.compile()", "subprocess.run(x, shell=False)", "msgspec.json.decode(x)", "unpickled = 1",
    ],
)  # fmt: skip
def test_what_is_harmless_is_not(source: str) -> None:
    assert not dangers(source)


# ---- files that try

TOKENIZER = BPETokenizer([bytes([i]) for i in range(256)])


class Payload:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return open, (str(self.sentinel), "w")


def forms(sentinel: Path) -> dict[str, bytes]:
    """The pickle itself, in the archives of PyTorch (new and old), and in NumPy's file of objects."""
    raw, archive, old, array = pickle.dumps({"weight": Payload(sentinel)}), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", raw)
        file.writestr("archive/version", "3\n")
    with tarfile.open(fileobj=old, mode="w") as file:
        for name in ("pickle", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))
    np.save(array, np.array([Payload(sentinel)], object), allow_pickle=True)
    text = pickle.dumps({"weight": Payload(sentinel)}, protocol=0)
    return {"pickle": raw, "text": text, "zip": archive.getvalue(), "tar": old.getvalue(), "numpy": array.getvalue()}


FORMS = tuple(forms(Path("x")))


def open_shards(path: Path) -> None:
    read_index(path.parent)


# The files that a user opens: their names and their readers.
OPENED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "tokenizer": ("tokenizer.json", load_tokenizer),
    "config": ("config.toml", load_config),
    "index": ("index.json", open_shards),
    "manifest": ("manifest.json", lambda path: read_manifest(path.parent)),
    "metrics": ("metrics.jsonl", read_metrics),
    "tiktoken": ("x.tiktoken", from_tiktoken),
    "hugging face": ("tokenizer.json", from_hugging_face),
    "safetensors": ("model.safetensors", safetensors.read_header),
    "gguf": ("model.gguf", gguf.read_header),
}


def test_the_payload_works(tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    for name, content in forms(tmp_path / "sentinel").items():
        if name in ("pickle", "text"):
            pickle.loads(content)["weight"].close()
            assert (tmp_path / "sentinel").exists()
            (tmp_path / "sentinel").unlink()
        else:
            assert b"sentinel" in content


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", OPENED)
def test_a_pickle_in_place_of_a_file_is_refused(tmp_path: Path, what: str, form: str) -> None:
    name, read = OPENED[what]
    (tmp_path / name).write_bytes(forms(tmp_path / "sentinel")[form] + b"\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "sentinel").exists()


def hugging_face(vocabulary: dict[str, Any], **more: Any) -> str:
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False}
    return json.dumps({"model": {"vocab": vocabulary, "merges": []}, "pre_tokenizer": pre_tokenizer} | more)


@pytest.mark.parametrize(
    ("what", "content", "message"),
    [
        ("config", "[train]\nsteps = 0x" + "f" * 5000, "train.steps is a number of thousands of digits, but"),
        ("config", "[train]\nsteps = " + "[" * 200 + "]" * 200, r"train.steps is \[\[.*\.\.\..*\]\], but"),
        ("config", '[tokenizer]\nkind = "' + "x" * 9000 + '"', r"tokenizer.kind is 'xxx.*\.\.\.xxx.*', but"),
        ("config", "[data.source]\na = inf", "data.source is {'a': inf}, but it must be a finite number"),
        ("tokenizer", json.dumps({"format": "jaxllm tokenizer", "version": "x" * 9000}), r"version 'xxx.*\.\.\."),
        (
            "tokenizer",
            json.dumps(TOKENIZER.to_dict() | {"format": "jaxllm tokenizer", "version": 1, "kind": "bpe", "special_tokens": {"\ud800": 0}}),
            "lone surrogate",
        ),
        ("hugging face", hugging_face({"a": 0, "b": "1"}), "the ids in .* are not 0 to 1, each once"),
        ("hugging face", hugging_face({"a": 0, "b": 1.0}), "the ids in .* are not 0 to 1, each once"),
        ("hugging face", hugging_face({"a": 0, "\x1b" * 999: 1}), r"token '\\x1b.*\.\.\."),
        ("tiktoken", "AA== " + "9" * 4000, r"has rank 999.*\.\.\.9*, where 0 is expected"),
        ("index", json.dumps({"\x1b[31m": 1}), r"Object contains unknown field `\\x1b\[31m`"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_fuzzing_has_found(tmp_path: Path, what: str, content: str, message: str) -> None:
    """Inputs that once raised another exception than InputError, or gave a message too long or with control characters."""
    name, read = OPENED[what]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_bytes_that_are_no_text_in_a_setting() -> None:
    """Bytes as the command line has them, from `--set data.source={"\\xff"=1}`."""
    with pytest.raises(InputError, match="data.source is .*, which is no valid text"):
        build_config({"data": {"source": {"\udcff": 1.0}}})


def write_index(folder: Path, file: str, content: bytes) -> None:
    """An index of one shard that fits the content."""
    digest = hashlib.sha256(content).hexdigest()
    shard = {"file": file, "count": len(content) // 2, "sha256": digest}
    index = {
        "format": "jaxllm shards", "version": 1, "dtype": "uint16", "tokenizer": TOKENIZER.fingerprint(), "vocab_size": 257,
        "separator": 256, "characters": 1, "documents": {"train": 1}, "splits": {"train": [shard]},
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_in_place_of_a_shard_is_read_as_ids(tmp_path: Path, form: str) -> None:
    content = forms(tmp_path / "sentinel")[form]
    content += bytes(len(content) % 2)
    (tmp_path / "train-00000.bin").write_bytes(content)
    write_index(tmp_path, "train-00000.bin", content)
    index = read_index(tmp_path)
    verify(tmp_path, index)
    np.testing.assert_array_equal(open_split(tmp_path, index, "train")[:], np.frombuffer(content, "<u2"))
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "inside/x", "..\\x", "a\\..\\x", "C:x", "C:\\x", "..", ".", "", "x\0", "x\n", "~", "x" * 101])  # fmt: skip
def test_an_index_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "inside"):
        (place / "x").write_bytes(b"ab")
    absolute = str(tmp_path / "x") if name == "/x" else name
    write_index(folder, absolute, b"ab")
    with pytest.raises(InputError, match="it names a shard") as caught:
        read_index(folder)
    assert str(caught.value).isprintable()
    write_index(folder, "x", b"ab")
    assert len(open_split(folder, read_index(folder), "train")) == 1
