"""`jaxllm learn start`: writes what is missing, in one of three languages, and overwrites nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from train.cli import main
from train.learn.course import ORDER, file_name, piece
from train.learn.folder import LANGUAGES, LearnFolder
from train.learn.start import lesson, start

pytestmark = pytest.mark.newest

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_folder(language: str, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "new" / "course"
    assert main(["learn", "start", str(folder), "--language", language]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["course.json", *(file_name(name) for name in ORDER)]
    assert json.loads((folder / "course.json").read_text()) == {"version": 1, "language": language}
    assert capsys.readouterr().out.startswith(f"19 files written to {folder}, in {language}.\n")


@pytest.mark.parametrize("name", ORDER)
def test_a_lesson_has_the_functions_of_the_piece_with_empty_bodies(name: str) -> None:
    for language in LANGUAGES:
        found = {
            node.name: node for node in ast.parse(lesson(name, language)).body if isinstance(node, ast.FunctionDef)
        }
        assert list(found) == [function.name for function in piece(name).functions]
        for function in piece(name).functions:
            assert tuple(one.arg for one in found[function.name].args.args) == function.parameters
            assert ast.unparse(found[function.name].body[-1]) == "raise NotImplementedError"
            assert len(found[function.name].body) == 2 and ast.get_docstring(found[function.name])


def test_a_new_course_has_nothing_written_and_no_fault(tmp_path: Path, capsys: Capture) -> None:
    start(tmp_path, "numpy")
    assert main(["learn", "check", "--dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("not written") == 19 and "0 of 19 pieces are right; next: p01_word_tokenizer.py" in out


def test_what_cannot_be_a_course(tmp_path: Path, capsys: Capture) -> None:
    """Folders where files should be, files where folders should be, and names that are none: one sentence, exit code 2."""
    course = tmp_path / "my llm"
    assert main(["learn", "start", str(course)]) == 0
    assert f"jaxllm learn check 1 --dir '{course}'" in capsys.readouterr().out
    (course / "p07_linear_map.py").unlink()
    (course / "p07_linear_map.py").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other" / "course.json").mkdir(parents=True)
    for words, sentence in (
        (["check", "7", "--dir", str(course)], "p07_linear_map.py is no file; move it away"),
        (["check", "--dir", str(tmp_path / "notes.txt")], "notes.txt is a file, but a course is a folder"),
        (["check", "--dir", str(tmp_path / "other")], "course.json is no file; move it away"),
        (["start", str(tmp_path / "notes.txt" / "new")], "notes.txt/new: Not a directory; name another folder."),
        (["start", ""], "the name of the folder is empty"),
        (["check", "LINEAR_MOP", "--dir", str(course)], "linear_map"),
    ):
        assert main(["learn", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path, capsys: Capture) -> None:
    """A folder of an older version, which had fewer pieces."""
    (tmp_path / "course.json").write_text('{"version": 1, "language": "jax"}')
    (tmp_path / "p07_linear_map.py").write_text("mine")
    assert main(["learn", "start", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert (
        "18 files written" in out
        and "1 files were there already and are kept as they are. Those that it had not:" in out
    )
    assert (tmp_path / "p07_linear_map.py").read_text() == "mine"
    assert "import jax.numpy as jnp" in (tmp_path / "p08_simple_attention.py").read_text()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["learn", "start", str(tmp_path), "--language", "jax"]) == 0
    assert "19 files were there already and are kept as they are. Nothing was missing." in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_a_folder_that_is_no_course_are_kept(tmp_path: Path) -> None:
    (tmp_path / "p01_word_tokenizer.py").write_text("mine")
    assert start(tmp_path).kept == ("p01_word_tokenizer.py",)
    assert (tmp_path / "p01_word_tokenizer.py").read_text() == "mine"
    assert LearnFolder.open(tmp_path).language == "numpy"


def test_what_is_refused(tmp_path: Path, capsys: Capture) -> None:
    start(tmp_path / "course", "torch")
    (tmp_path / "file").write_text("")
    for words, sentence in (
        ((tmp_path / "course", "--language", "jax"), "is a course in torch, not in jax; leave out --language, or name"),
        ((tmp_path / "file",), "is a file; give the name of a folder."),
    ):
        assert main(["learn", "start", *map(str, words)]) == 2
        assert sentence in capsys.readouterr().err


def test_no_library_is_imported(tmp_path: Path) -> None:
    """Neither to start nor, in the process of the command, to check; and no file of the learner's."""
    code = f"""
import sys
from train.cli import main
main(["learn", "start", {str(tmp_path)!r}])
main(["learn", "check", "1", "--dir", {str(tmp_path)!r}])
assert not {{"jax", "torch", "flax", "p01_word_tokenizer"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
