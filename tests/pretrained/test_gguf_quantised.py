"""Quantised tensors: each type against a decoder in plain Python, against gguf-py, and from files of gguf-py."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf as peer
import headers
import ml_dtypes
import numpy as np
import pytest

from jaxllm import InputError
from jaxllm.pretrained import gguf
from jaxllm.pretrained import gguf_quantised as quantised
from jaxllm.pretrained.gguf_quantised import FLOATS, LAYOUTS, dequantise, read_float
from jaxllm.pretrained.tensor_file import StoredTensor

F = np.float32


def half(b: bytes, at: int) -> np.float32:
    return F(struct.unpack_from("<e", b, at)[0])


def nibble(byte: int, upper: int) -> int:
    return byte >> 4 if upper else byte & 15


def bit(byte: int, i: int) -> int:
    return byte >> i & 1


def two_bits(byte: int, i: int) -> int:
    return byte >> 2 * i & 3


def fifth_of_32(b: bytes, at: int, i: int) -> int:
    return bit(b[at + i // 8], i % 8)


def of_256(b: bytes, at: int, i: int) -> int:
    """The two bits of number i: 32 bytes hold those of 128 numbers."""
    return two_bits(b[at + 32 * (i // 128) + i % 32], i % 128 // 32)


def six_bits(b: bytes, group: int) -> tuple[int, int]:
    """Scale and minimum of one of eight groups; the 12 bytes of all begin at 4."""
    if group < 4:
        return b[4 + group] & 63, b[8 + group] & 63
    last = b[8 + group]
    return last & 15 | (b[group] >> 6) << 4, last >> 4 | (b[4 + group] >> 6) << 4


def q4_k(b: bytes, q: int, i: int) -> np.float32:
    scale, least = six_bits(b, i // 32)
    return half(b, 0) * F(scale) * F(q) - half(b, 2) * F(least)


def q3_k(b: bytes, i: int) -> np.float32:
    group = i // 16
    scale = nibble(b[96 + group % 8], group // 8) + 16 * two_bits(b[104 + group % 4], group // 4) - 32
    return half(b, 108) * F(scale) * F(of_256(b, 32, i) - (0 if bit(b[i % 32], i // 32) else 4))


def q6_k(b: bytes, i: int) -> np.float32:
    low = nibble(b[64 * (i // 128) + i % 64], i % 128 // 64)
    scale = struct.unpack_from("b", b, 192 + i // 16)[0]
    return half(b, 208) * F(scale) * F((low | of_256(b, 128, i) << 4) - 32)


# Number i of a block. (ggml-org/ggml, src/ggml-common.h for the offsets, src/ggml-quants.c for the bits)
NUMBER: dict[str, Callable[[bytes, int], np.float32]] = {
    "Q4_0": lambda b, i: half(b, 0) * F(nibble(b[2 + i % 16], i // 16) - 8),
    "Q4_1": lambda b, i: half(b, 0) * F(nibble(b[4 + i % 16], i // 16)) + half(b, 2),
    "Q5_0": lambda b, i: half(b, 0) * F((nibble(b[6 + i % 16], i // 16) | fifth_of_32(b, 2, i) << 4) - 16),
    "Q5_1": lambda b, i: half(b, 0) * F(nibble(b[8 + i % 16], i // 16) | fifth_of_32(b, 4, i) << 4) + half(b, 2),
    "Q8_0": lambda b, i: half(b, 0) * F(struct.unpack_from("b", b, 2 + i)[0]),
    "Q2_K": lambda b, i: half(b, 80) * F(b[i // 16] & 15) * F(of_256(b, 16, i)) - half(b, 82) * F(b[i // 16] >> 4),
    "Q3_K": q3_k,
    "Q4_K": lambda b, i: q4_k(b, nibble(b[16 + 32 * (i // 64) + i % 32], i // 32 % 2), i),
    "Q5_K": lambda b, i: q4_k(
        b, nibble(b[48 + 32 * (i // 64) + i % 32], i // 32 % 2) | bit(b[16 + i % 32], i // 32) << 4, i
    ),
    "Q6_K": q6_k,
}


def assert_same_bits(found: np.ndarray, right: np.ndarray) -> None:
    """Equal bits; a NaN may have any sign and payload."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right), strict=True)
    defined = ~np.isnan(right)
    np.testing.assert_array_equal(found[defined].view("u4"), right[defined].view("u4"), strict=True)


def test_every_type_is_tried() -> None:
    assert list(NUMBER) == list(LAYOUTS)
    for kind, layout in LAYOUTS.items():
        assert layout.itemsize == gguf.BY_NAME[kind][1]


@pytest.mark.parametrize("kind", NUMBER)
def test_number_by_number(kind: str, rng: np.random.Generator) -> None:
    """Random blocks, one of zeros, and one of ones, whose scales are NaN."""
    block, size, _ = gguf.BY_NAME[kind]
    blocks = np.stack(
        [*rng.integers(0, 256, (3, size), np.uint8), np.full(size, 0, np.uint8), np.full(size, 255, np.uint8)]
    )
    with np.errstate(invalid="ignore"):
        right = [NUMBER[kind](row.tobytes(), i) for row in blocks for i in range(block)]
    found = dequantise(blocks, kind, (5, block))
    assert np.isfinite(found[:4]).any() and np.isnan(found[4]).all()
    assert_same_bits(found, np.array(right, F).reshape(5, block))


@pytest.mark.parametrize("kind", NUMBER)
def test_the_numbers_of_gguf_py(kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random bytes, decoded in parts of which the last is smaller; some scales are infinite or NaN."""
    block, size, _ = gguf.BY_NAME[kind]
    blocks = rng.integers(0, 256, (3, 7, 1024 // block * size), np.uint8)
    for field in {"d", "dmin", "m"} & set(LAYOUTS[kind].names or ()):
        halves = blocks.reshape(-1).view(LAYOUTS[kind])[field]
        halves[:6] = np.array([0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x8000, 0x0001], np.uint16).view(np.float16)
        rng.shuffle(halves[:12])
    with np.errstate(invalid="ignore"):
        right = peer.dequantize(blocks, peer.GGMLQuantizationType[kind])
    assert np.isnan(right).any() and np.isinf(right).any()
    monkeypatch.setattr(quantised, "AT_ONCE", 5000)
    found = dequantise(blocks, kind, (3, 7, 1024))
    assert found.dtype == F and found.shape == (3, 7, 1024)
    assert_same_bits(found, right)
    apart = np.repeat(blocks.reshape(-1), 2)[::2]  # not contiguous
    assert_same_bits(dequantise(apart, kind, found.shape), right)


def written(path: Path, **tensors: tuple[np.ndarray, str]) -> None:
    """Write a file of gguf-py with these arrays, each in a type."""
    writer = peer.GGUFWriter(path, "llama")
    for name, (array, kind) in tensors.items():
        raw = peer.GGMLQuantizationType[kind]
        content = peer.quantize(array, raw) if kind in NUMBER else array
        writer.add_tensor(name, content, raw_dtype=raw if kind in (*NUMBER, "BF16") else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_of_gguf_py(tmp_path: Path, rng: np.random.Generator) -> None:
    """Each number is read to within one step of its type, into a new array."""
    path, x = tmp_path / "x.gguf", rng.uniform(-1, 1, (3, 5, 64)).astype(F)
    steps = {"Q4_0": 1 / 8, "Q4_1": 2 / 15, "Q5_0": 1 / 16, "Q5_1": 2 / 31, "Q8_0": 1 / 127}
    floats = {
        "F32": x,
        "F16": x.astype("<f2"),
        "BF16": x.astype(ml_dtypes.bfloat16).view(np.uint8),
        "F64": x.astype("<f8"),
    }
    written(path, **{kind: (floats.get(kind, x), kind) for kind in (*steps, *floats)})
    tensors = gguf.read_header(path).tensors
    assert list(tensors) == [*steps, *floats]
    for kind, error in (steps | {"F32": 0, "F16": 2**-12, "BF16": 2**-9, "F64": 0}).items():
        found = read_float(path, tensors[kind])
        assert tensors[kind].dtype == kind and found.flags.writeable
        np.testing.assert_allclose(found, x, rtol=0, atol=error, strict=True)


def test_floats_that_float32_has_not(tmp_path: Path) -> None:
    """They become infinite or 0, without a warning."""
    path, x = tmp_path / "x.gguf", np.array([1e300, -1e300, 1e-300, np.nan, np.inf])
    signalling = np.array([0x7C01, 0xFC00], "<u2")  # a NaN, and infinity
    tensors = [headers.tensor("x", [5], 28, 0), headers.tensor("y", [2], 1, 64)]
    path.write_bytes(headers.gguf([], tensors, x.tobytes().ljust(64, b"\0") + signalling.tobytes()))
    x, y = (read_float(path, tensor) for tensor in gguf.read_header(path).tensors.values())
    np.testing.assert_array_equal(x, np.array([np.inf, -np.inf, 0, np.nan, np.inf], F), strict=True)
    np.testing.assert_array_equal(y, np.array([np.nan, -np.inf], F), strict=True)


@pytest.mark.parametrize("kind", ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "\x1b"])
def test_other_types_are_refused(kind: str) -> None:
    supported = ", ".join((*FLOATS, *NUMBER))
    for read in (
        lambda: read_float("model.gguf", StoredTensor(kind, (256,), 0, 256)),
        lambda: dequantise(np.zeros(256, np.uint8), kind, (256,)),
    ):
        with pytest.raises(InputError) as caught:
            read()
        message = str(caught.value)
        assert repr(kind) in message and supported in message and message.isprintable() and "convert" in message


@pytest.mark.parametrize(
    ("blocks", "shape"),
    [
        (np.zeros(33, np.uint8), (32,)),
        (np.zeros(35, np.uint8), (32,)),
        (np.zeros(34, np.int8), (32,)),
        (np.zeros(34, np.uint8), (2, 16)),
        (np.zeros(34, np.uint8), (33,)),
        (np.zeros(34, np.uint8), ()),
        (np.zeros(0, np.uint8), (1,)),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_are_refused(blocks: np.ndarray, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="Q8_0 needs rows of a multiple of 32 numbers"):
        dequantise(blocks, "Q8_0", shape)


def test_no_numbers() -> None:
    assert dequantise(np.zeros((0, 34), np.uint8), "Q8_0", (0, 32)).shape == (0, 32)
    assert dequantise(np.zeros((3, 0), np.uint8), "Q6_K", (3, 0)).shape == (3, 0)
