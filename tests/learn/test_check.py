"""`jaxllm learn check`: what it prints of right, wrong and unwritten pieces, in processes of their own."""

import os
import sys
from pathlib import Path

import pytest
from learn.folders import RIGHT, attention, checked, folder

from train.cli import main

Capture = pytest.CaptureFixture[str]
NO_SCALE = RIGHT.replace(" / np.sqrt(q.shape[-1])", "")
JAX = """
import jax
import jax.numpy as jnp


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = q @ jnp.swapaxes(k, -1, -2) / jnp.sqrt(q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores) @ v
"""
TORCH = """
import torch


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1) @ v
"""


def test_a_right_piece(tmp_path: Path, capsys: Capture) -> None:
    code, out = checked(attention(tmp_path, RIGHT), capsys)
    assert code == 0 and "Scaled dot-product attention  right" in out and "1 of 1 pieces are right" in out
    assert "p10" not in out


def test_a_slip_is_named_beside_the_numbers(tmp_path: Path, capsys: Capture) -> None:
    code, out = checked(attention(tmp_path, NO_SCALE), capsys, "scaled_dot_product", "--seed", "3")
    assert code == 1
    for line in (
        "Your scaled_dot_product_attention equals attention without the division by sqrt(K).",
        "q = [[2., 0., 0., 0.]]",  # the smallest of all cases
        ">8.8080  2.3841     >7.3106  5.3788",
        "The first difference is at [0, 0], marked >.",
        "Hint: ",
        "The inputs were made from --seed 3.",
    ):
        assert line in out
    assert "\x1b" not in out  # colours are for terminals
    assert checked(tmp_path, capsys, "10", "--seed", "3") == (code, out)


def test_fresh_inputs_at_each_check(tmp_path: Path, capsys: Capture) -> None:
    attention(tmp_path, NO_SCALE)
    last = [checked(tmp_path, capsys)[1].splitlines()[-1] for _ in range(2)]
    assert last[0] != last[1]


def test_an_unknown_fault_gets_no_guess(tmp_path: Path, capsys: Capture) -> None:
    code, out = checked(attention(tmp_path, RIGHT.replace("e / e.sum", "e**1.37 / e.sum")), capsys)
    assert code == 1 and "No usual mistake explains the results." in out and "Your scaled" not in out


def test_unwritten_pieces_are_no_error(tmp_path: Path, capsys: Capture) -> None:
    body = "def scaled_dot_product_attention(q, k, v, mask=None):\n    raise NotImplementedError\n"
    code, out = checked(attention(tmp_path, body), capsys)
    assert code == 0 and "not written" in out and "next: p10_scaled_dot_product.py" in out


def test_an_earlier_piece_that_is_not_written(tmp_path: Path, capsys: Capture) -> None:
    folder(
        tmp_path,
        p08_simple_attention="def softmax(x):\n    raise NotImplementedError\n",
        p10_scaled_dot_product=RIGHT.replace("return e / e.sum(-1, keepdims=True) @ v", "return softmax(scores) @ v")
        + "from p08_simple_attention import softmax\n",
    )
    code, out = checked(tmp_path, capsys)
    assert "p10_scaled_dot_product: scaled_dot_product_attention needs softmax of p08_simple_attention, which is" in out


@pytest.mark.newest
def test_jax_with_gradients(tmp_path: Path, capsys: Capture) -> None:
    assert checked(attention(tmp_path, JAX, "jax"), capsys)[0] == 0
    attention(tmp_path, JAX.replace("softmax(scores)", "softmax(jax.lax.stop_gradient(scores))"), "jax")
    code, out = checked(tmp_path, capsys)
    assert code == 1 and "returns the right value, but its gradient is wrong" in out
    assert "its gradient with respect to q, k is zero." in out
    attention(tmp_path, JAX.replace("softmax(scores)", "softmax(np.asarray(scores))") + "import numpy as np\n", "jax")
    code, out = checked(tmp_path, capsys)
    assert code == 1 and "has no gradient: it raises TracerArrayConversionError" in out
    assert "softmax(np.asarray(scores))" in out


def test_torch_with_gradients(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("torch")
    assert checked(attention(tmp_path, TORCH, "torch"), capsys)[0] == 0
    attention(tmp_path, TORCH.replace("softmax(scores", "softmax(scores.detach()"), "torch")
    code, out = checked(tmp_path, capsys)
    assert code == 1 and "its gradient with respect to q, k is zero." in out
    attention(tmp_path, TORCH.replace("@ v", "@ v * 1.0 + (v.mean(-2) - v.mean(-2).detach()).sum()"), "torch")
    assert checked(tmp_path, capsys)[0] == 1


def test_a_right_result_in_float32(tmp_path: Path, capsys: Capture) -> None:
    attention(
        tmp_path,
        RIGHT.replace("return e / e.sum(-1, keepdims=True) @ v", "return np.float32(e / e.sum(-1, keepdims=True) @ v)"),
    )
    code, out = checked(tmp_path, capsys)
    assert code == 1 and "returns the right numbers as float32, not float64." in out and "is wrong" not in out


def test_a_part_in_float32(tmp_path: Path, capsys: Capture) -> None:
    code, out = checked(attention(tmp_path, RIGHT.replace("@ v", "@ v.astype(np.float32)")), capsys)
    assert code == 1 and "is right to about 5 digits only, as if a part were computed in float32." in out


def test_nothing_is_written_into_the_folder(tmp_path: Path, capsys: Capture) -> None:
    attention(tmp_path, RIGHT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    checked(tmp_path, capsys)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "p10_scaled_dot_product" not in sys.modules and str(tmp_path) not in sys.path


def test_the_folder_is_by_default_the_working_one(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Files with the names of Python's own modules do not hide these."""
    attention(tmp_path, RIGHT)
    for name in ("json", "numpy", "train"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.chdir(tmp_path)
    assert main(["learn", "check", "10"]) == 0


def test_an_earlier_wrong_piece_comes_first(tmp_path: Path, capsys: Capture) -> None:
    softmax = "import numpy as np\n\n\ndef softmax(x):\n    e = np.exp(x - x.max(-1, keepdims=True))\n    return e / e.sum({})\n"
    uses = "from p08_simple_attention import softmax\n" + RIGHT.replace(
        "e / e.sum(-1, keepdims=True)", "softmax(scores)"
    )
    folder(tmp_path, p08_simple_attention=softmax.format("0"), p10_scaled_dot_product=uses)
    code, out = checked(tmp_path, capsys)
    assert code == 1
    assert "p10_scaled_dot_product imports p08_simple_attention, which is not right yet; begin there." in out
    assert out.index("p08_simple_attention: softmax") < out.index("p10_scaled_dot_product imports")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_colours_on_a_terminal(tmp_path: Path) -> None:
    import pty
    import subprocess

    attention(tmp_path, RIGHT)
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "train", "learn", "check", "10", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=child, stderr=child, env=os.environ | {"TERM": "xterm-256color"})
    process.wait()
    assert b"\x1b[32mright" in os.read(parent, 10_000)
    os.close(parent)
    os.close(child)
