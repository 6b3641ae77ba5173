"""Tensors of a GGUF file that is written: Q8_0 to the bits of gguf-py and of plain Python, and the other types."""

import math
import struct
from typing import Any

import gguf as peer
import ml_dtypes
import numpy as np
import pytest
from pretrained_files import refusal

from jaxllm.pretrained import gguf_encode
from jaxllm.pretrained.gguf_encode import check_dtype, encoded, quantise_q8_0, stored_bytes, stored_type
from jaxllm.pretrained.gguf_quantised import dequantise

F = np.float32
Q8_0 = peer.GGMLQuantizationType.Q8_0
BELOW_HALF = np.nextafter(F(0.5), F(0))


def in_plain_python(block: np.ndarray) -> bytes:
    """One block of 32 numbers, one after another. (ggml-org/ggml, src/ggml-quants.c, quantize_row_q8_0_ref)"""
    d = max(abs(x) for x in block) / F(127)
    inverse = F(1) / d if d else F(0)
    integers = []
    for x in block:
        product = float(x * inverse)  # in float32, and then exact
        integers.append(int(math.copysign(math.floor(abs(product) + 0.5), product)))
    return struct.pack("<e32b", d, *integers)


def blocks(rng: np.random.Generator) -> np.ndarray:
    """Numbers [14, 64] of many sizes: of zeros, of one sign, ties, and scales that are small in float16, or 0 there."""
    x = rng.normal(size=(14, 64)) * 10.0 ** rng.integers(-12, 5, (14, 1))
    x[0], x[1, 32:], x[2] = 0, 0, abs(x[2])
    x[3, :32] = np.arange(32) * 8 + 0.5 - 127 + 4  # halves, as |x| is at most 127
    x[3, 0] = x[4, 0] = x[4, 32] = 127
    x[4, 1:3], x[4, 33:35] = [BELOW_HALF, -BELOW_HALF], [0.5, -0.5]
    x[5], x[6] = x[5] / abs(x[5]).max() * 1e-30, np.sign(x[6]) * 8.3e6
    return x.astype(F)


def test_the_bits_of_gguf_py(rng: np.random.Generator) -> None:
    x = blocks(rng)
    np.testing.assert_array_equal(quantise_q8_0(x), peer.quantize(x, Q8_0), strict=True)
    np.testing.assert_array_equal(
        quantise_q8_0(x.reshape(2, 7, 64)), peer.quantize(x.reshape(2, 7, 64), Q8_0), strict=True
    )


def test_number_by_number(rng: np.random.Generator) -> None:
    x = blocks(rng).reshape(-1, 32)
    found = quantise_q8_0(x)
    assert [row.tobytes() for row in found] == [in_plain_python(block) for block in x]
    integers = found[:, 2:].view(np.int8)
    assert integers[8, :3].tolist() == [127, 0, 0] and integers[9, :3].tolist() == [127, 1, -1]  # row 4
    assert abs(integers).max() == 127 and not found[0].any()


def test_each_number_is_within_half_a_step(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 96)).astype(F)
    back = dequantise(quantise_q8_0(x), "Q8_0", x.shape)
    step = abs(x).reshape(-1, 32).max(axis=1, keepdims=True) / 127
    # The scale is rounded to 11 bits, after the integers are chosen.
    assert (abs(back - x).reshape(-1, 32) <= step * (0.5 + 127 * 2**-11)).all() and abs(back - x).max() > 1e-3


def test_numbers_too_small_for_an_inverse_become_0() -> None:
    """1 / d is infinite below 2^-128, where gguf-py's integers depend on the processor."""
    x = np.full((1, 32), 1e-40, F)
    assert not quantise_q8_0(x).any()


@pytest.mark.parametrize("shape", [(33,), (2, 16), (3, 0, 31), ()])
def test_other_rows_are_refused(shape: tuple[int, ...]) -> None:
    assert "Q8_0 needs rows of a multiple of 32 numbers" in refusal(lambda: quantise_q8_0(np.zeros(shape, F)))


def test_no_numbers() -> None:
    assert quantise_q8_0(np.zeros((0, 32), F)).shape == (0, 34) and quantise_q8_0(np.zeros((3, 0), F)).shape == (3, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_any_float_dtype_in_parts(
    dtype: Any, kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transposed tensor, in parts of two rows, is that of gguf-py."""
    x = rng.normal(size=(64, 5)).astype(dtype).T
    monkeypatch.setattr(gguf_encode, "AT_ONCE", 150)
    parts = [part.copy() for part in encoded(x, kind, "x")]
    assert [part.dtype for part in parts] == [np.uint8] * 3
    want = peer.quantize(x.astype(F), peer.GGMLQuantizationType[kind])
    assert b"".join(part.tobytes() for part in parts) == want.tobytes()
    assert sum(part.size for part in parts) == stored_bytes(x.shape, kind)


def test_one_dimension_is_one_row() -> None:
    x = np.arange(3, dtype=F)
    assert np.concatenate([*encoded(x, "F32", "x")]).tobytes() == x.tobytes()


@pytest.mark.parametrize(
    ("dtype", "shape", "name", "kind"),
    [
        ("float32", (3, 64), "w", "F32"),
        ("float16", (3, 64), "w", "F16"),
        ("float16", (64,), "w", "F32"),
        ("float16", (3, 64), "position_embd.weight", "F32"),
        ("q8_0", (3, 64), "w", "Q8_0"),
        ("q8_0", (64, 3), "w", "F16"),
        ("q8_0", (3, 48), "w", "F16"),
        ("q8_0", (64,), "w", "F32"),
        ("q8_0", (3, 64), "position_embd.weight", "F32"),
        ("float16", (3, 64), "blk.0.ffn_gate_inp.weight", "F32"),
        ("q8_0", (2, 3, 64), "blk.0.ffn_up_exps.weight", "Q8_0"),
    ],
)
def test_which_tensor_gets_which_type(dtype: str, shape: tuple[int, ...], name: str, kind: str) -> None:
    assert stored_type(name, shape, dtype) == kind


@pytest.mark.parametrize("dtype", ["bfloat16", "Q8_0", "q4_k", ""])
def test_other_dtypes_are_refused(dtype: str) -> None:
    words = f"--dtype is {dtype!r}, but a GGUF file is written in float32, float16, q8_0."
    assert refusal(lambda: check_dtype(dtype)) == words


@pytest.mark.parametrize(
    ("kind", "fits", "beyond"), [("F16", 65519.0, 65520.0), ("Q8_0", 65504.0 * 127, 65520.0 * 127)]
)
def test_numbers_beyond_float16_are_refused(kind: str, fits: float, beyond: float) -> None:
    x = np.zeros((2, 32), F)
    x[1, 3] = -fits
    assert [*encoded(x, kind, "w")]
    x[1, 3] = -beyond
    assert f"the tensor 'w' holds {beyond:.3g}, which {kind} cannot hold" in refusal(lambda: [*encoded(x, kind, "w")])
