"""Headers of safetensors and GGUF at their limits of length, depth and number, and the alignment of data."""

import struct
from pathlib import Path

import headers
import numpy as np
import pytest
from headers import array, pair, scalar, tensor

from jaxllm.pretrained import gguf, safetensors

pytestmark = pytest.mark.newest

F32 = 0


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", headers.ARRAY, 1) * depth + array(0, [b"\0"])


def test_limits_of_gguf_are_within(tmp_path: Path) -> None:
    """A header at every limit is read."""
    longest = [
        scalar("k" * (2**16 - 1), "u1", 7),
        pair("n", headers.ARRAY, nested(3)),
        scalar("general.alignment", "u4", 8),
    ]
    content = headers.gguf(longest, [tensor("n" * 64, [1, 1, 1, 1], F32, 0)], bytes(4), alignment=8)
    (tmp_path / "x.gguf").write_bytes(content)
    read = gguf.read_header(tmp_path / "x.gguf")
    assert read.metadata["k" * (2**16 - 1)] == 7 and read.tensors["n" * 64].shape == (1, 1, 1, 1)


@pytest.mark.parametrize("n", range(9))
def test_data_of_safetensors_begin_at_a_multiple_of_8(n: int, tmp_path: Path) -> None:
    """At any length of the header, as in files of the safetensors library, so that tensors can be mapped."""
    path = tmp_path / "x.safetensors"
    safetensors.write_tensors(path, {"x" * n: np.arange(3.0)}, {})
    tensor = safetensors.read_header(path).tensors["x" * n]
    assert tensor.start % 8 == 0 and tensor.stop - tensor.start == 24
    np.testing.assert_array_equal(safetensors.read_tensor(path, tensor), [0, 1, 2])
