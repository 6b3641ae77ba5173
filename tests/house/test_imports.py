"""Imports have no side effects, and the reference needs NumPy alone. `test_layering.py` has the order of the rooms."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def in_a_new_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def imported(file: Path) -> set[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or ".")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_importing_jaxllm_has_no_side_effects() -> None:
    code = """
import logging, os, socket, sys
before, handlers = dict(os.environ), list(logging.root.handlers)
def refuse(*_): raise RuntimeError("network at import")
socket.socket.connect = refuse
import jaxllm
assert "jax" not in sys.modules
import jaxllm.gpt, jaxllm.attention, jaxllm.compare, jaxllm.data, jaxllm.generate, jaxllm.loss, jaxllm.sampling, jaxllm.tokenizers
import train.cli
import jax
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was opened at import"
assert dict(os.environ) == before and logging.root.handlers == handlers
"""
    in_a_new_python(code)


def test_the_reference_needs_only_numpy() -> None:
    code = """
import sys
import jaxllm.reference
third = {m.split(".")[0] for m in sys.modules} - set(sys.stdlib_module_names)
print(sorted(m for m in third if not m.startswith("_")))
"""
    loaded = set(ast.literal_eval(in_a_new_python(code)))
    assert not loaded & {"jax", "jaxlib", "flax", "optax", "msgspec"}
    for file in (ROOT / "jaxllm" / "reference").rglob("*.py"):
        for name in imported(file):
            assert name.split(".")[0] in {"numpy", *sys.stdlib_module_names} or name.startswith("jaxllm.reference")


def test_nothing_loads_what_it_should_not() -> None:
    for file in [*(ROOT / "jaxllm").rglob("*.py"), *(ROOT / "train").rglob("*.py")]:
        assert not imported(file) & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}, file
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"exec", "eval"}, file


def test_every_module_is_an_attribute_of_the_package() -> None:
    """Without an import of its own, and known to a type checker."""
    names = {m.name for m in pkgutil.iter_modules([str(ROOT / "jaxllm")])}
    code = "import sys, jaxllm; assert not {'jax', 'numpy'} & {*sys.modules}; print(dir(jaxllm))\n"
    shown = ast.literal_eval(in_a_new_python(code + "".join(f"jaxllm.{name}.__name__\n" for name in sorted(names))))
    assert names | {"GPT", "GPTConfig", "InputError", "load_pretrained", "save_pretrained"} <= {*shown}
    typed = {name for name in imported(ROOT / "jaxllm" / "__init__.py") if name.startswith("jaxllm.")}
    assert {name.removeprefix("jaxllm.") for name in typed} >= names, (
        "name it under TYPE_CHECKING in jaxllm/__init__.py"
    )


def test_lazy_names() -> None:
    import jaxllm
    import jaxllm.pretrained

    for package in (jaxllm, jaxllm.pretrained):
        for name in dir(package):
            getattr(package, name)
        with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nonsense'"):
            _ = package.nonsense
    assert jaxllm.load_pretrained is jaxllm.pretrained.load_pretrained is jaxllm.pretrained.load.load_pretrained


def test_pretrained_loads_nothing_heavy_before_use() -> None:
    loaded = in_a_new_python("import sys, jaxllm.pretrained; print({'jax', 'flax', 'numpy'} & {*sys.modules})")
    assert loaded.strip() == "set()"
    in_a_new_python("from jaxllm.pretrained import load_pretrained, save_pretrained")
