"""The peak memory of loading and saving is that of the model and one tensor."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import pytest
from flax.traverse_util import flatten_dict
from pretrained_files import GPT2, LLAMA, random_params

from jaxllm import GPTConfig, load_pretrained, save_pretrained

LLAMA_WIDE = replace(LLAMA, vocab_size=16384, d_model=64, d_ff=8)  # two tensors of 4 MiB
GPT2_WIDE = replace(GPT2, vocab_size=16384, d_model=64)


def peak(act: Callable[[], Any]) -> int:
    tracemalloc.start()
    act()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.newest
@pytest.mark.parametrize("config", [LLAMA_WIDE, GPT2_WIDE], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16], ids=str)
def test_one_tensor_more(config: GPTConfig, dtype: Any, tmp_path: Path) -> None:
    params = random_params(config, dtype)
    table = params["token_embedding"]["table"].nbytes
    wide = 4 * sum(x.size for x in flatten_dict(params).values())
    rest = 2**20  # for Python, and for the small tensors of GPT-2 that are joined
    assert peak(lambda: save_pretrained(tmp_path / "a", config, params)) < table + rest
    assert peak(lambda: load_pretrained(tmp_path / "a")) < wide + 4 * 2**20 + rest
