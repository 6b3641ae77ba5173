"""What a learner's file can do wrong besides wrong numbers: one sentence with the piece's name, and nothing is hurt."""

import time
from pathlib import Path

import pytest
from learn.folders import RIGHT, attention, checked, folder

from train.cli import main

pytestmark = pytest.mark.newest

Capture = pytest.CaptureFixture[str]
NAME = "scaled_dot_product_attention"
DEF = f"def {NAME}(q, k, v, mask=None):\n    "
SENTENCES = {  # the body, and the sentence
    "raises": ("return q @ np.zeros((9, 9))", f"{NAME} raises ValueError: matmul"),
    "raises in a library": ("return np.linalg.inv(np.zeros((2, 2)))", f"{NAME} raises LinAlgError"),
    "returns None": ("pass", f"{NAME} returns None, not an array."),
    "a list": ("return q.tolist()", f"{NAME} returns a list, not an array."),
    "a tuple": ("return q, k", f"{NAME} returns a tuple, not an array."),
    "an object": ("return object()", f"{NAME} returns a value of the type object, not an array."),
    "an array of objects": ("return q.astype(object)", f"{NAME} returns an array of objects, not an array."),
    "a class": ("return type", f"{NAME} returns a value of the type type, not an array."),
    "a shape": ("return np.zeros(7)", f"{NAME} returns an array of the shape (7,), not ("),
    "large": ("return np.zeros((3000, 3000))", f"{NAME} returns an array of the shape (3000, 3000), not an array."),
    "far too large": ("return np.ones((10**6, 10**6))", f"{NAME} raises MemoryError: Unable to allocate"),
    "a long list": ("return [0.0] * 2**22", f"{NAME} returns a value of the type list, not an array."),
    "a nested list": ("x = []\n    for _ in range(10**5): x = [x]\n    return x", f"{NAME} returns a value nested too deeply, not an array."),
    "recursion": (f"return {NAME}(q, k, v, mask)", f"{NAME} raises RecursionError: maximum recursion depth"),
    "sys.exit": ("import sys; sys.exit(3)", f"{NAME} ends the program (sys.exit)."),
    "os._exit": ("import os; os._exit(3)", f"{NAME} ended the process, with exit code 3."),
    "exit code 0": ("import os; os._exit(0)", f"{NAME} ended the process, with exit code 0."),
    "a crash": ("import ctypes; ctypes.string_at(0)", f"{NAME} ended the process, by signal 11."),
    "input": ("return float(input())", f"{NAME} raises EOFError"),
    "reads": ("return open('/etc/hostname').read()", f"{NAME} reads the file /etc/hostname."),
    "reads beside itself": ("return open('course.json').read()", f"{NAME} reads the file course.json."),
    "writes": ("open('out.txt', 'w').write('x')", f"{NAME} writes the file out.txt."),
    "writes by NumPy": ("np.save('out.npy', q)", f"{NAME} writes the file out.npy."),
    "hides that it writes": ("try: open('a', 'w')\n    except OSError: return q", f"{NAME} writes the file a."),
    "removes": ("import os; os.remove('course.json')", f"{NAME} removes a file."),
    "a socket": ("import socket; socket.create_connection(('127.0.0.1', 9))", f"{NAME} opens a socket."),
    "a process": ("import subprocess; subprocess.run(['ls'])", f"{NAME} starts a process."),
    "a shell": ("import os; os.system('ls')", f"{NAME} starts a process."),
    "a fork": ("import os; os.fork()", f"{NAME} starts a process."),
}  # fmt: skip


@pytest.mark.parametrize("what", SENTENCES)
def test_one_sentence_with_the_name_of_the_piece(what: str, tmp_path: Path, capsys: Capture) -> None:
    body, sentence = SENTENCES[what]
    attention(tmp_path, f"import numpy as np\n\n\n{DEF}{body}\n")
    code, out = checked(tmp_path, capsys)
    assert code == 1
    assert f"\np10_scaled_dot_product: {sentence}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["course.json", "p10_scaled_dot_product.py"]


def test_the_traceback_has_the_learners_lines_only(tmp_path: Path, capsys: Capture) -> None:
    body = (
        "import numpy as np\n\n\ndef inverse(x):\n    return np.linalg.inv(0 * x[:1, :1])\n\n\n"
        + DEF
        + "return inverse(q)\n"
    )
    out = checked(attention(tmp_path, body), capsys)[1]
    lines = [line.strip() for line in out.splitlines() if ", line " in line]
    assert lines == [
        "p10_scaled_dot_product.py, line 9, in scaled_dot_product_attention",
        "p10_scaled_dot_product.py, line 5, in inverse",
    ]
    assert "return np.linalg.inv(0 * x[:1, :1])" in out and "Traceback" not in out and "linalg.py" not in out


def test_an_exception_on_other_inputs_is_not_hidden(tmp_path: Path, capsys: Capture) -> None:
    """`q @ k` works where there are as many keys as features, and is wrong there."""
    code, out = checked(attention(tmp_path, RIGHT.replace("np.swapaxes(k, -1, -2)", "k")), capsys)
    assert code == 1 and "The smallest input that shows it:" in out and "No usual mistake" not in out
    assert "\n  On other inputs it raises ValueError: matmul" in out and "scores = q @ k / np.sqrt" in out


def test_garbage_in_the_answers_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    body = "import json\n\n\n" + DEF + "json.dumps = lambda *_, **__: 'x'\n    return q\n"
    code, out = checked(attention(tmp_path, body), capsys)
    assert code == 1 and f"p10_scaled_dot_product: {NAME} damaged the connection to the check" in out


def test_a_recursion_is_cut(tmp_path: Path, capsys: Capture) -> None:
    out = checked(attention(tmp_path, f"{DEF}return {NAME}(q, k, v)\n"), capsys)[1]
    assert 2 <= out.count(", line 2, in") <= 10


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:\n", "the file is not Python: invalid syntax."),
        ("x = 1\n\tif x:\n", "the file is not Python: unexpected indent."),
        ("import nowhere\n", "the file raises ModuleNotFoundError: No module named 'nowhere'."),
        ("import sys\nsys.exit()\n", "the file ends the program (sys.exit)."),
        ("open('/etc/hostname')\n", "the file reads the file /etc/hostname."),
        ("while True: pass\n", "the file does not end within 1 seconds."),
        ("", f"the function {NAME} is missing; write `def {NAME}(...)` as in the lesson."),
        (f"{NAME} = 3\n", f"the function {NAME} is missing"),
    ],
)
def test_a_file_that_cannot_be_imported(text: str, sentence: str, tmp_path: Path, capsys: Capture) -> None:
    code, out = checked(attention(tmp_path, text), capsys, "10", "--seconds", "1")
    assert code == 1 and f"p10_scaled_dot_product: {sentence}" in out


def test_the_line_of_a_syntax_error(tmp_path: Path, capsys: Capture) -> None:
    out = checked(attention(tmp_path, "import numpy\n\nx = = 3\n"), capsys)[1]
    assert "p10_scaled_dot_product.py, line 3\n      x = = 3" in out


def test_bytes_that_are_no_text(tmp_path: Path, capsys: Capture) -> None:
    attention(tmp_path, "")
    (tmp_path / "p10_scaled_dot_product.py").write_bytes(b"\xff\xfe\x00")
    code, out = checked(tmp_path, capsys)
    assert code == 1 and "p10_scaled_dot_product: the file is not Python" in out


def test_a_function_that_never_ends_leaves_the_others(tmp_path: Path, capsys: Capture) -> None:
    folder(tmp_path, p10_scaled_dot_product=RIGHT, p08_simple_attention="""
import numpy as np
def softmax(x):
    while True:
        try:
            print("x" * 10**6)
        except BaseException:
            pass
def simple_attention_weights(x):
    raise NotImplementedError
def simple_attention(x):
    return x
""")  # fmt: skip
    start = time.monotonic()
    code = main(["learn", "check", "--seconds", "1", "--dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 1 and time.monotonic() - start < 100
    assert "p08_simple_attention: softmax does not end within 1 seconds." in out
    assert "p08_simple_attention: simple_attention is wrong." in out
    assert "Scaled dot-product attention  right" in out


def test_printing_is_a_note(tmp_path: Path, capsys: Capture) -> None:
    body = RIGHT.replace("    scores", "    print('scores', q)\n    scores", 1) + "\nprint('hello')\n"
    code, out = checked(attention(tmp_path, body), capsys)
    assert code == 0
    assert f"note: {NAME} prints 'scores [[" in out
    assert "note: it prints 'hello\\n' when it is imported." in out


def test_a_change_in_place_is_a_note(tmp_path: Path, capsys: Capture) -> None:
    body = RIGHT.replace("    scores", "    k *= 2\n    k = k / 2\n    q *= 2\n    q /= 2\n    scores", 1)
    code, out = checked(attention(tmp_path, body), capsys)
    assert code == 0 and f"note: {NAME} changes k in place, which the caller still uses." in out


def test_missing_files_and_folders(tmp_path: Path, capsys: Capture) -> None:
    folder(tmp_path)
    for words, sentence in (
        (["10", "--dir", str(tmp_path)], "p10_scaled_dot_product.py is missing; `jaxllm learn start"),
        (["--dir", str(tmp_path / "none")], "is no folder; `jaxllm learn start"),
        (
            ["causal_atention", "--dir", str(tmp_path)],
            "there is no piece 'causal_atention'; did you mean causal_attention",
        ),
        (["20", "--dir", str(tmp_path)], "there is no piece '20'; the course has the pieces 1 to 19."),
        (["0", "--dir", str(tmp_path)], "there is no piece '0'"),
        (["--seed", "-1", "--dir", str(tmp_path)], "--seed -1 is not between 0 and 2^63."),
        (["--seconds", "0", "--dir", str(tmp_path)], "--seconds 0.0 is not between 0 and 3600."),
    ):
        assert main(["learn", "check", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("jaxllm learn: ") and sentence in error and error.count("\n") == 1
    assert main(["learn", "check", "--dir", str(tmp_path)]) == 0
    assert (
        "p10_scaled_dot_product: the file is missing; `jaxllm learn start` writes it again" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is damaged"),
        ("[1]", "is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": true, "language": "numpy"}', "is damaged"),
        ('{"version": 1, "language": "julia"}', "is damaged"),
        (
            '{"version": 2, "language": "numpy"}',
            "is of version 2 of the course, and this jaxllm has version 1; install",
        ),
        ("\xff", "is damaged"),
        ("[" * 10**5, "is damaged"),
        (None, "is no course folder, because it has no course.json; `jaxllm learn start"),
    ],
)
def test_folders_that_are_none(text: str | None, sentence: str, tmp_path: Path, capsys: Capture) -> None:
    if text is not None:
        (tmp_path / "course.json").write_text(text, encoding="latin-1")
    assert main(["learn", "check", "--dir", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_names_of_other_functions_do_no_harm(tmp_path: Path, capsys: Capture) -> None:
    """A terminal's control characters in a message or a line are not sent to the terminal."""
    code, out = checked(attention(tmp_path, DEF + "raise ValueError('\\x1b[31m[red]\\n')\n"), capsys)
    assert code == 1 and "\x1b" not in out and "raises ValueError: \\x1b[31m[red]" in out
