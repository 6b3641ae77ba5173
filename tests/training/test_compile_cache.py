"""The compilation cache: its folder, its key for each machine, its size, and damaged files."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import train.runtime.compile_cache as compilation
from train.cli import main
from train.runtime.compile_cache import VARIABLE, doubts_its_own, drop_oldest, keep_compiled, machine_key, make_private

pytestmark = pytest.mark.newest

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def as_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """JAX without a configured folder; yields the user's folder for caches."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(compilation, "doubts_its_own", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "home"
    for name, value in before.items():
        jax.config.update(name, value)


def test_where_they_are_kept(as_new: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep_compiled()
    folder = as_new / "jaxllm" / "xla" / machine_key()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    for made in (folder, folder.parent):
        assert made.stat().st_mode & 0o777 == 0o700 and made.stat().st_uid == os.geteuid()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "elsewhere" / machine_key())


def test_off(as_new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None and not as_new.exists()


def test_a_folder_given_to_jax_is_left_alone(as_new: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", "/theirs")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == "/theirs" and not as_new.exists()


@pytest.mark.parametrize("which", ["xla", "xla/KEY"])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_into_is_refused(
    which: str, mode: int, as_new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = as_new / "jaxllm" / which.replace("KEY", machine_key())
    folder.mkdir(parents=True)
    for made in (folder.parent, folder):
        made.chmod(0o700)
    folder.chmod(mode)
    keep_compiled()
    error = capsys.readouterr().err
    assert f"others can write into {folder}; choose a folder with {VARIABLE}." in error and error.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "xla"
    assert make_private(folder) == ""
    someone = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: someone)
    assert make_private(folder) == f"{folder} belongs to another user"


@pytest.mark.parametrize("place", ["a_file", "x" * 300, "nul\0"])
def test_a_place_where_nothing_can_be_written(
    place: str, as_new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setattr(compilation, "default_place", lambda: str(tmp_path / place))
    keep_compiled()
    error = capsys.readouterr().err
    assert error.startswith("note: compiled programs are not kept: ") and error.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_each_machine_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {machine_key(), machine_key()}
    assert len(keys) == 1
    with monkeypatch.context() as patch:
        patch.setattr(jax, "__version__", "0.0")
        keys.add(machine_key())
    with monkeypatch.context() as patch:
        patch.setattr(compilation.platform, "machine", lambda: "abacus")
        keys.add(machine_key())
    cpuinfo = "processor : 0\nmodel name : Abacus 9\nflags : sse avx\ncpu MHz : 2000.1\n"
    for change in ("", "avx", "9", "2000.1"):
        text = cpuinfo.replace(change, "")
        monkeypatch.setattr(Path, "read_text", lambda *_, _text=text, **__: _text)
        keys.add(machine_key())
    assert len(keys) == 6  # all differ, except for the clock speed


def test_the_oldest_go_first(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    for i, name in enumerate(["c", "a", "key/d", "b"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + i, 0))  # written in 1970, used one second apart
    drop_oldest(tmp_path, 400)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 4
    drop_oldest(tmp_path, 250)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == ["b", "key/d"]


@pytest.mark.parametrize(
    ("version", "vendor", "doubts"),
    [
        ((0, 10, 1), "GenuineIntel", True), ((0, 10, 1), "AuthenticAMD", False),
        ((0, 11, 0), "GenuineIntel", False), ((0, 12, 0), "GenuineIntel", False),
    ],
)  # fmt: skip
def test_nothing_is_kept_that_jax_would_doubt(
    version: tuple[int, ...], vendor: str, doubts: bool, as_new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "doubts_its_own", doubts_its_own)
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(compilation, "processor", lambda: [f"vendor_id : {vendor}"])
    keep_compiled()
    assert (jax.config.jax_compilation_cache_dir is None) == doubts and as_new.exists() != doubts


def in_a_new_python(place: Path, code: str) -> tuple[list[str], str]:
    """Output and notes of a process whose cache is in `place`."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {VARIABLE: str(place)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return run.stdout.split(), run.stderr


@pytest.mark.skipif(doubts_its_own(), reason="JAX before 0.11 takes its own programs on Intel for another processor's")
def test_a_second_run_compiles_nothing_and_a_damaged_file_does_not_stop_it(tmp_path: Path) -> None:
    code = """
import jax, jax.monitoring
import train.cli, jaxllm.gpt
assert jax.config.jax_compilation_cache_dir is None  # importing does not enable the cache
from train.runtime.compile_cache import keep_compiled
keep_compiled()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
print(jax.jit(lambda x: jax.numpy.tanh(x) + 3)(0.5), len(hits))
"""
    first = in_a_new_python(tmp_path, code)
    assert first == ([first[0][0], "0"], "")
    assert in_a_new_python(tmp_path, code) == ([first[0][0], "1"], "")
    (entry,) = (path for path in tmp_path.rglob("*-cache"))
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    printed, note = in_a_new_python(tmp_path, code)
    assert printed == first[0]
    assert "one was damaged; all 1 are compiled again" in note and note.count("\n") == 1
    assert in_a_new_python(tmp_path, code) == ([first[0][0], "1"], "")


def test_which_commands_keep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[str] = []
    missing = str(tmp_path / "missing")
    for command in (
        "train CONFIG",
        "generate CONFIG --prompt a",
        "evaluate CONFIG",
        "compare CONFIG",
        "bench train CONFIG",
    ):
        monkeypatch.setattr(compilation, "keep_compiled", lambda command=command: kept.append(command.split()[0]))
        assert main(command.replace("CONFIG", missing).split()) == 2
    assert kept == ["train", "generate", "evaluate", "compare"]
