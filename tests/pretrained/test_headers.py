"""Headers of safetensors and GGUF: valid files are read, each broken rule is reported in one sentence."""

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import headers
import ml_dtypes
import numpy as np
import pytest
from headers import array, entry, pair, scalar, string, tensor

from jaxllm import InputError
from jaxllm.pretrained import gguf, safetensors

pytestmark = pytest.mark.newest

F32, F16, Q8_0, BF16 = 0, 1, 8, 30


def refused(read: Any, path: Path, content: bytes) -> str:
    """The message that refuses the file."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable() and message.endswith(".") and str(path) in message and len(message) < 600
    return message


def by_message(value: object) -> str:
    """The name of a case; its file may be long."""
    return value if isinstance(value, str) else ""


# ---- safetensors


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.array(1.5, ml_dtypes.bfloat16)
    c = np.array([[1, 0, 1]], bool)
    header = {
        "__metadata__": {"format": "pt"}, "b": entry("BF16", [], 24, 26), "a": entry("F32", [2, 3], 0, 24),
        "none": entry("F64", [0, 5], 26, 26), "c": entry("BOOL", [1, 3], 26, 29),
    }  # fmt: skip
    path.write_bytes(headers.safetensors(header, a.tobytes() + b.tobytes() + c.tobytes()))
    read = safetensors.read_header(path)
    assert read.metadata == {"format": "pt"} and list(read.tensors) == ["a", "b", "none", "c"]
    assert read.tensors["b"].stop - read.tensors["b"].start == 2
    for name, right in {"a": a, "b": b, "c": c, "none": np.empty((0, 5))}.items():
        array = safetensors.read_tensor(path, read.tensors[name])
        np.testing.assert_array_equal(array, right, strict=True)
        assert array.size == 0 or not array.flags.writeable


@pytest.mark.parametrize("dtype", safetensors.DTYPES)
def test_every_dtype_of_safetensors(tmp_path: Path, dtype: str) -> None:
    path, right = tmp_path / "x", np.array([0, 1, 1], safetensors.DTYPES[dtype])
    path.write_bytes(headers.safetensors({"x": entry(dtype, [3], 0, right.nbytes)}, right.tobytes()))
    read = safetensors.read_tensor(path, safetensors.read_header(path).tensors["x"])
    np.testing.assert_array_equal(read, right, strict=True)


F = entry("F32", [2], 0, 8)
TWICE = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a header of 0 bytes does not fit into a file of 0"),
        (b"\0" * 7, "does not fit into a file of 7"),
        (struct.pack("<Q", 2**64 - 1), "a header of 18,446,744,073,709,551,615 bytes does not fit"),
        (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes does not fit into a file of 10"),
        (headers.safetensors(b"{}" + b" " * 2**23), "its header has 8,388,610 bytes, more than the 8,388,608"),
        (headers.safetensors(b'{"\xff": {}}'), "its header is malformed"),
        (headers.safetensors(b"{"), "its header is malformed"),
        (headers.safetensors(b"[]"), "does not begin with {"),
        (headers.safetensors(b"[" * 100_000), "its header is malformed"),
        (headers.safetensors(b'{"a":' * 50_000), "its header is malformed"),
        (headers.safetensors(TWICE), "'a' occurs twice"),
        (headers.safetensors(b'{"__metadata__":{"k":"","k":""}}'), "'k' occurs twice"),
        (headers.safetensors({"__metadata__": {"k": 1}}), "Expected"),
        (headers.safetensors({"__metadata__": {"k": [1]}}), "Expected `str`"),
        (headers.safetensors({"a": F | {"more": "x"}}, bytes(8)), "unknown field `more`"),
        (headers.safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "missing required field `data_offsets`"),
        (headers.safetensors({"a": F | {"dtype": "F31"}}, bytes(8)), "the dtype 'F31', but this jaxllm reads BOOL, "),
        (headers.safetensors({"a": F | {"dtype": "x" * 9999}}, bytes(8)), r"the dtype 'xxx.*\.\.\."),
        (headers.safetensors({"a": F | {"shape": [-2]}}, bytes(8)), "Expected `int` >= 0"),
        (headers.safetensors({"a": F | {"shape": [True]}}, bytes(8)), "Expected `int`"),
        (headers.safetensors({"a": F | {"shape": [1.5]}}, bytes(8)), "Expected `int`"),
        (headers.safetensors({"a": F | {"shape": [1] * 8 + [2]}}, bytes(8)), "length <= 8"),
        (headers.safetensors({"a": F | {"shape": [3]}}, bytes(8)), r"tensor 'a' of shape \[3\] and dtype F32 has 8 bytes"),
        (headers.safetensors({"a": entry("F32", [2**62, 4], 0, 0)}), "tensor 'a' of shape .* has 0 bytes"),
        (headers.safetensors({"a": entry("F32", [0, 2**62, 2**62], 0, 0)}), "tensor 'a' of shape .* has 0 bytes"),
        (headers.safetensors({"a": entry("F32", [2], 8, 0)}, bytes(8)), "has -8 bytes"),
        (headers.safetensors({"a": entry("F32", [2], 4, 12)}, bytes(12)), "tensor 'a' begins at 4, but the one before ends at 0"),
        (headers.safetensors({"a": F, "b": entry("F32", [2], 4, 12)}, bytes(12)), "'b' begins at 4, but the one before ends at 8"),
        (headers.safetensors({"a": F, "b": entry("F32", [2], 12, 20)}, bytes(20)), "'b' begins at 12, but the one before ends at 8"),
        (headers.safetensors({"a": F, "b": F}, bytes(8)), "begins at 0, but the one before ends at 8"),
        (headers.safetensors({"a": F}, bytes(7)), r"its tensors end at byte \d+, but it has"),
        (headers.safetensors({"a": F}, bytes(9)), r"its tensors end at byte \d+, but it has"),
        (headers.safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'), "header is malformed"),
    ],
    ids=by_message,
)  # fmt: skip
def test_every_rule_of_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused(safetensors.read_header, tmp_path / "model.safetensors", content))


# ---- GGUF

EXAMPLE = [
    pair("general.architecture", headers.STRING, string("gpt2")),
    scalar("general.alignment", "u4", 64),
    *(scalar(f"a.{kind}", kind, 1) for kind in headers.TYPES),
    pair("a.numbers", headers.ARRAY, array(headers.TYPES["f4"], [struct.pack("<f", i / 2) for i in range(3)])),
    pair("a.strings", headers.ARRAY, array(headers.STRING, [string("é"), string("")])),
    pair("a.nested", headers.ARRAY, array(headers.ARRAY, [array(0, [b"\1"]), array(headers.STRING, [string("x")])])),
]


def test_gguf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.array([1.5, 2], ml_dtypes.bfloat16)
    blocks = np.arange(136, dtype=np.uint8).reshape(2, 68)  # of two rows of 64 numbers in Q8_0
    tensors = [tensor("q", [64, 2], Q8_0, 128), tensor("a", [3, 2], F32, 0), tensor("b", [2], BF16, 64)]
    data = a.tobytes().ljust(64, b"\0") + b.tobytes().ljust(64, b"\0") + blocks.tobytes()
    for version in (2, 3):
        path.write_bytes(headers.gguf(EXAMPLE, tensors, data, alignment=64, version=version))
        read = gguf.read_header(path)
        assert read.version == version and list(read.tensors) == ["q", "a", "b"]
        for name, right in {"a": a, "b": b, "q": blocks}.items():
            found = gguf.read_tensor(path, read.tensors[name])
            np.testing.assert_array_equal(found, right, strict=True)
            assert not found.flags.writeable
        assert read.tensors["q"].shape == (2, 64) and read.tensors["a"].start % 64 == 0
    assert read.metadata["general.architecture"] == "gpt2" and read.metadata["a.bool"] is True
    assert read.metadata["a.i8"] == 1 and type(read.metadata["a.f4"]) is float
    np.testing.assert_array_equal(read.metadata["a.numbers"], np.array([0, 0.5, 1], "<f4"), strict=True)
    assert read.metadata["a.strings"] == ["é", ""] and read.metadata["a.nested"][1] == ["x"]


@pytest.mark.parametrize("kind", gguf.TYPES)
def test_every_type_of_gguf(tmp_path: Path, kind: int) -> None:
    name, block, size, dtype = gguf.TYPES[kind]
    path = tmp_path / "x.gguf"
    path.write_bytes(headers.gguf([], [tensor("x", [2 * block, 3], kind, 0)], bytes(6 * size)))
    read = gguf.read_header(path).tensors["x"]
    shape = (3, 2) if dtype else (3, 2 * size)
    assert read.dtype == name and gguf.read_tensor(path, read).shape == shape
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="ends at byte"):
        gguf.read_header(path)


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", headers.ARRAY, 1) * depth + array(0, [b"\0"])


def one(*tensors: bytes, data: int = 64) -> bytes:
    return headers.gguf([], tensors, bytes(data))


A = tensor("a", [8], F32, 0)
HUGE = 2**63 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first word has 4 bytes and goes beyond the end of the file"),
        (b"GGUX" + bytes(100), "it does not begin with GGUF"),
        (headers.gguf(version=1), "is of version 1, but this jaxllm reads GGUF of version 2 or 3"),
        (headers.gguf(version=4), "is of version 4,"),
        (headers.gguf(version=3 << 24), "is of version 50,331,648,"),
        (headers.gguf()[:20], "goes beyond the end of the file"),
        (headers.gguf(counts=(0, HUGE)), "it declares 9,223,372,036,854,775,809 keys, more than fit into the"),
        (headers.gguf(counts=(HUGE, 0)), "it declares 9,223,372,036,854,775,809 tensors, more than fit into the"),
        (headers.gguf(counts=(1, 0)) + bytes(15), "it declares 1 tensors, more than fit into the 23 bytes that follow"),
        (headers.gguf(counts=(0, 1)) + bytes(4), "it declares 1 keys, more than fit into the 12 bytes that follow"),
        (headers.gguf([scalar("k", "u1", 0)] * 2), "the key 'k' is empty or occurs twice"),
        (headers.gguf([scalar("", "u1", 0)]), "the key '' is empty"),
        (headers.gguf([scalar("k" * 2**16, "u1", 0)]), "a key has 65,536 bytes, more than 65,535"),
        (headers.gguf([pair(b"\xff", 0, b"\0")]), "a key is not UTF-8"),
        (headers.gguf([pair("k", headers.STRING, string(b"\xff"))]), "the value of 'k' is not UTF-8"),
        (headers.gguf([pair("k", headers.STRING, struct.pack("<Q", 99))]), "the value of 'k' has 99 bytes and goes beyond"),
        (headers.gguf([pair("k", headers.STRING, struct.pack("<Q", HUGE))]), "the value of 'k' has 9,.* more than 67,108,864"),
        (headers.gguf([pair("k", 13, bytes(9))]), "the value of 'k' is of the unknown type 13"),
        (headers.gguf([pair("k", 7, b"\2")]), "the value of 'k' is neither true nor false"),
        (headers.gguf([pair("k", headers.ARRAY, array(7, [b"\2"]))]), "the value of 'k' is neither true nor false"),
        (headers.gguf([pair("k", headers.ARRAY, array(13, []))]), "has elements of the unknown type 13"),
        (headers.gguf([pair("k", headers.ARRAY, struct.pack("<IQ", 0, HUGE))]), "declares 9,.* elements of the value of 'k', more than"),
        (headers.gguf([pair("k", headers.ARRAY, struct.pack("<IQ", headers.STRING, 9))]), "declares 9 elements of the value of 'k', more than"),
        (headers.gguf([pair("k", headers.ARRAY, struct.pack("<IQ", headers.ARRAY, 9))]), "declares 9 elements of the value of 'k', more than"),
        (headers.gguf([pair("k", headers.ARRAY, nested(4))]), "nested more than 4 deep"),
        (headers.gguf([pair("k", headers.ARRAY, nested(5000))]), "nested more than 4 deep"),
        *(
            (headers.gguf([scalar("general.alignment", "u4", n)]), f"general.alignment is {n}, but must be a power")
            for n in (0, 4, 48, 2**17)
        ),
        (headers.gguf([scalar("general.alignment", "i8", 32)]), "general.alignment is 32, but must be .* a uint32"),
        (headers.gguf([pair("general.alignment", headers.STRING, string("x"))]), "general.alignment is 'x', but must be"),
        (one(A, tensor("a", [8], F32, 32)), "only 1 of its 2 tensors have different names"),
        (one(tensor("n" * 65, [8], F32, 0)), "a tensor's name has 65 bytes, more than 64"),
        (one(tensor(b"\xff", [8], F32, 0)), "a tensor's name is not UTF-8"),
        (one(tensor("a", [1] * 5, F32, 0)), "the tensor 'a' has 5 dimensions, more than 4"),
        (one(string("a") + struct.pack("<I", 2**32 - 1)), "it declares 1 tensors|has 4,294,967,295 dimensions"),
        (one(tensor("a", [8], 4, 0)), "the tensor 'a' of .* is of type 4, but this jaxllm reads F32, F16"),
        (one(tensor("a", [33], Q8_0, 0)), "of Q8_0 has rows of 33, not a multiple of 32"),
        (one(tensor("a", [], Q8_0, 0)), "of Q8_0 has rows of 1, not a multiple of 32"),
        (one(tensor("a", [2**63, 2**63], F32, 0)), "is too large"),
        (one(tensor("a", [0, 2**63, 2**63], F32, 0)), "is too large"),
        (one(tensor("a", [8], F32, 8)), "the tensor 'a' begins at 8, which is not a multiple of 32"),
        (one(A, tensor("b", [16], F32, 0)), "the tensor 'b' begins at 0, .* or is within another tensor"),
        (one(tensor("a", [9], F32, 0), tensor("b", [7], F32, 32)), "the tensor 'b' begins at 32, .* or is within another tensor"),
        (one(tensor("a", [17], F32, 0)), r"the tensor 'a' ends at byte \d+, but the file has"),
        (one(tensor("a", [8], F32, 2**64 - 32)), "the tensor 'a' ends at byte"),
    ],
    ids=by_message,
)  # fmt: skip
def test_every_rule_of_gguf(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused(gguf.read_header, tmp_path / "model.gguf", content))


def test_a_header_of_gguf_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MOST_HEADER", 100)
    content = headers.gguf([pair("k", headers.STRING, string("x" * 80))])
    message = refused(gguf.read_header, tmp_path / "model.gguf", content)
    assert "the value of 'k' has 80 bytes and goes beyond the 100 bytes of a header" in message


def test_a_file_cut_short_while_it_is_read() -> None:
    with pytest.raises(InputError, match="x is not a valid GGUF file: it was truncated while it was read"):
        gguf._Reader(io.BytesIO(headers.gguf()[:10]), 24, "x").header()


# ---- both


@pytest.mark.parametrize("format", [safetensors, gguf])
def test_what_cannot_be_read(tmp_path: Path, format: Any) -> None:
    with pytest.raises(InputError, match="cannot read .*: No such file"):
        format.read_header(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read .*: Is a directory"):
        format.read_header(tmp_path)


def test_a_file_cut_short_after_its_header_was_read(tmp_path: Path) -> None:
    """Reading mapped bytes beyond the end of a file would kill the process."""
    path = tmp_path / "x"
    path.write_bytes(headers.safetensors({"a": F}, bytes(8)))
    read = safetensors.read_header(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="was truncated after its header was read"):
        safetensors.read_tensor(path, read.tensors["a"])
    path.unlink()
    with pytest.raises(InputError, match="cannot read"):
        safetensors.read_tensor(path, read.tensors["a"])


SIZE = 2**17  # bytes of a file, approximately
COSTLY: dict[str, tuple[Any, bytes]] = {
    "empty arrays": (gguf, headers.gguf([pair("k", headers.ARRAY, array(headers.ARRAY, [array(0, [])] * (SIZE // 12)))])),
    "empty lists": (gguf, headers.gguf([pair("k", headers.ARRAY, array(headers.ARRAY, [array(headers.STRING, [])] * (SIZE // 12)))])),
    "short strings": (gguf, headers.gguf([pair("k", headers.ARRAY, array(headers.STRING, [string("ab")] * (SIZE // 10)))])),
    "keys": (gguf, headers.gguf([scalar(f"{i:x}", "u1", 0) for i in range(SIZE // 18)])),
    "places": (gguf, headers.gguf([], [tensor(f"{i:x}", [], 24, 0) for i in range(SIZE // 29)])),
    "tensors": (safetensors, headers.safetensors({f"{i:x}": entry("U8", [], 0, 0) for i in range(SIZE // 54)})),
    "empty objects": (safetensors, headers.safetensors({f"{i:x}": {} for i in range(SIZE // 12)})),
    "metadata": (safetensors, headers.safetensors({"__metadata__": {f"{i:x}": "" for i in range(SIZE // 13)}})),
    "a shape": (safetensors, headers.safetensors({"a": {"shape": [0] * (SIZE // 3)}})),
}  # fmt: skip


@pytest.mark.parametrize("what", COSTLY)
def test_memory_is_a_small_multiple_of_the_header(tmp_path: Path, what: str) -> None:
    format, content = COSTLY[what]
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        format.read_header(tmp_path / "x")
    except InputError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * len(content)
