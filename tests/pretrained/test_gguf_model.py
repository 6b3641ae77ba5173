"""Models from GGUF files: the same as from Hugging Face folders with the same weights; files that are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import headers
import numpy as np
import pytest
from gguf_files import MODELS, both, keys_of, write_gguf
from pretrained_files import GPT2, LLAMA, LLAMA3, assert_same, refusal

from jaxllm import GPTConfig, load_pretrained
from jaxllm.config_rules import rotated_width
from jaxllm.pretrained.families import FAMILIES
from jaxllm.pretrained.gguf_config import config_of_keys
from jaxllm.pretrained.hf_config import numeric_fields
from jaxllm.pretrained.rope_scaling import write_gguf_scaling
from train.cli import main

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 9}


def frequency_factors(config: GPTConfig) -> np.ndarray:
    """The divisor of each frequency in Llama 3's scaling, as llama.cpp's converter writes it."""
    factors = []
    for i in range(config.head_dim // 2):
        turns = config.rope_original_context * config.rope_base ** (-2 * i / config.head_dim) / (2 * np.pi)
        smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
        factors.append(1 / ((1 - smooth) / config.rope_factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gguf_file_is_the_folder(architecture: str, dtype: str, tmp_path: Path) -> None:
    config = MODELS[architecture]
    folder, keys, tensors = both(tmp_path, config, architecture)
    narrow = {name: x.astype(dtype) for name, x in tensors.items()}
    got, params = load_pretrained(write_gguf(tmp_path / "x.gguf", architecture, keys, narrow))
    want, theirs = load_pretrained(folder)
    assert numeric_fields(got) == numeric_fields(want) == numeric_fields(config)
    assert_same(params, theirs)


def test_the_scaling_of_llama_3(tmp_path: Path) -> None:
    folder, keys, tensors = both(tmp_path, LLAMA3, "llama")
    factors = frequency_factors(LLAMA3)
    assert {1, 8} < set(factors)  # and some in between
    path = write_gguf(tmp_path / "x.gguf", "llama", keys, {**tensors, "rope_freqs.weight": factors})
    config, params = load_pretrained(path)
    assert numeric_fields(config) == numeric_fields(LLAMA3)
    assert_same(params, load_pretrained(folder)[1])
    for other in (factors**0.9, factors[1:], factors * np.nan, factors.reshape(1, -1)):
        write_gguf(path, "llama", keys, {**tensors, "rope_freqs.weight": other.astype(np.float32)})
        assert "in another way than Llama 3" in refusal(lambda: load_pretrained(path))


YARN = replace(LLAMA, rope_scaling="yarn", rope_factor=4.0, rope_original_context=9)
SCALINGS = {
    "a factor without a type": ({"rope.scaling.factor": 4.0}, replace(LLAMA, rope_scaling="linear", rope_factor=4.0)),
    "the old key": ({"rope.scale_linear": 4.0}, replace(LLAMA, rope_scaling="linear", rope_factor=4.0)),
    "a factor of 0": ({"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}, LLAMA),
    "YaRN": (YARN_KEYS, YARN),
    "YaRN of its own": (
        {**YARN_KEYS, "rope.scaling.yarn_beta_fast": 20.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.attn_factor": 1.5},
        replace(YARN, rope_high_frequency=20.0, rope_low_frequency=2.0, rope_attention_factor=1.5 * (1 + 0.1 * np.log(4.0))),
    ),
    "YaRN of the model's context": (
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, replace(YARN, rope_original_context=LLAMA.context_length),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_scalings_in_keys(name: str, tmp_path: Path) -> None:
    """Reading the keys gives the config, and so does reading those that are written for it."""
    scaling, config = SCALINGS[name]
    _, keys, tensors = both(tmp_path, LLAMA, "llama")
    for written in (scaling, write_gguf_scaling(config)):
        read, _ = load_pretrained(write_gguf(tmp_path / "x.gguf", "llama", keys | written, tensors))
        got, want = numeric_fields(read), numeric_fields(config)
        for fields in (got, want):
            fields["rope_attention_factor"] = pytest.approx(fields.get("rope_attention_factor", 1.0), rel=1e-6)
        assert got.keys() == want.keys() and all(got[field] == want[field] for field in want)


def test_scalings_without_keys() -> None:
    assert write_gguf_scaling(LLAMA3) == {}  # but a tensor
    assert "model.rope_truncate = false" in refusal(lambda: write_gguf_scaling(replace(YARN, rope_truncate=False)))


def test_two_scalings_are_refused(tmp_path: Path) -> None:
    _, keys, tensors = both(tmp_path, LLAMA3, "llama")
    factors = {"rope_freqs.weight": frequency_factors(LLAMA3)}
    path = write_gguf(tmp_path / "x.gguf", "llama", keys | YARN_KEYS, {**tensors, **factors})
    assert "in another way than Llama 3" in refusal(lambda: load_pretrained(path))


def test_a_table_that_is_there_twice_is_tied(tmp_path: Path) -> None:
    _, keys, tensors = both(tmp_path, GPT2, "gpt2")
    path = write_gguf(tmp_path / "x.gguf", "gpt2", keys, {**tensors, "output.weight": tensors["token_embd.weight"]})
    config, params = load_pretrained(path)
    assert config.tie_embeddings and "head" not in params
    write_gguf(path, "gpt2", keys, {**tensors, "output.weight": tensors["token_embd.weight"] + 1})
    config, params = load_pretrained(path)
    assert not config.tie_embeddings
    np.testing.assert_array_equal(params["head"]["kernel"], params["token_embedding"]["table"].T + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context_length": None, "embedding_length": None}, "context_length is missing, embedding_length is missing"),
        ({"attention.head_count_kv": [2, 1]}, "attention.head_count_kv differs from layer to layer"),
        ({"attention.key_length": 5}, "a head is 5 wide"),
        ({"attention.value_length": 8}, "attention.value_length is 8, not 4"),
        ({"rope.dimension_count": 2}, "rope.dimension_count is 2, not 4"),
        ({"rope.dimension_count": [4, 2]}, "rope.dimension_count is array([4, 2]"),
        ({"attention.sliding_window": 4096}, "attention.sliding_window is 4096"),
        ({"attention.sliding_window": [0, 1]}, "attention.sliding_window is array([0, 1]"),
        ({"expert_count": 8, "logit_scale": 0.5}, "expert_count is 8, logit_scale is 0.5"),
        ({"rope.scaling.factor": 0.5}, "model.rope_factor is 0.5"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ({"rope.scaling.attn_factor": 1.5, "rope.scaling.factor": 2.0}, "rope.scaling.attn_factor is 1.5"),
        ({**YARN_KEYS, "rope.scaling.attn_factor": -1.0}, "rope.scaling.attn_factor is -1.0"),
        ({**YARN_KEYS, "rope.scaling.yarn_ext_factor": 0.5}, "rope.scaling.yarn_ext_factor is 0.5"),
        ({**YARN_KEYS, "rope.scaling.yarn_log_multiplier": 0.1}, "rope.scaling.yarn_log_multiplier is 0.1"),
        ({"block_count": 1001}, "model.n_layers is 1001"),
        ({"embedding_length": True}, "model.d_model is True"),
    ],
    ids=str,
)  # fmt: skip
def test_keys_that_would_change_numbers_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    table = np.zeros((13, 16), np.float32)
    path = write_gguf(tmp_path / "x.gguf", "llama", keys_of(LLAMA) | change, {"token_embd.weight": table})
    assert words in refusal(lambda: load_pretrained(path))


@pytest.mark.parametrize(
    ("architecture", "change", "words"),
    [
        ("gemma2", {"attention.sliding_window_pattern": 3}, "attention.sliding_window_pattern is 3"),
        ("gemma2", {"rope.freq_base_swa": 500.0}, "rope.freq_base_swa is 500.0"),
        ("gemma3", {"rope.freq_base_swa": 500.0}, "rope.freq_base_swa is 500.0"),
        ("gemma3", {"attention.sliding_window": None}, "attention.sliding_window is missing"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("gptneox", {"use_parallel_residual": None}, "use_parallel_residual is missing"),
        ("gptneox", {"rope.dimension_count": 3}, "a head is 8 wide, of which 3 features are rotated"),
        ("gptneox", {"rope.dimension_count": 10}, "model.rotary_fraction is 1.25"),
        ("olmo2", {"attention.sliding_window": 3}, "attention.sliding_window is 3"),
        ("smollm3", {"rope.dimension_count": 2}, "rope.dimension_count is 2, not 4"),
    ],
    ids=str,
)  # fmt: skip
def test_keys_of_one_architecture_are_refused(architecture: str, change: Any, words: str, tmp_path: Path) -> None:
    config, table = MODELS[architecture], np.zeros((13, 16), np.float32)
    keys = keys_of(config, architecture) | change
    path = write_gguf(tmp_path / "x.gguf", architecture, keys, {"token_embd.weight": table})
    assert words in refusal(lambda: load_pretrained(path))


def config_of(architecture: str, change: Any, **fields: Any) -> GPTConfig:
    """The config of the keys of a model with other fields, with some keys changed; without tensors."""
    keys = keys_of(replace(MODELS[architecture], **fields), architecture) | change
    metadata = {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}
    family, its = next((one, one.gguf) for one in FAMILIES if one.gguf and one.gguf.architecture == architecture)
    return config_of_keys(metadata, family, its, {"vocab_size": 13, "tie_embeddings": True}, "x")


def test_what_llama_cpp_takes_for_omitted_keys() -> None:
    """The defaults of a Gemma 2 (src/models/gemma2.cpp), whole heads, and no window for a number 0."""
    omitted = ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
    gemma = config_of("gemma2", dict.fromkeys(omitted))
    assert (gemma.sliding_window, gemma.score_softcap, gemma.logits_softcap) == (4096, 50.0, 30.0)
    assert config_of("gptneox", {"rope.dimension_count": None}).rotary_fraction == 1
    assert config_of("phi3", {"attention.sliding_window": 0}).sliding_window is None
    assert config_of("phi3", {"attention.sliding_window": 5}).sliding_window == 5


def test_every_rotated_width_has_a_fraction() -> None:
    """Such as 58 features of 100, although int(100 * 0.58) is 57."""
    for rotated in range(2, 101, 2):
        config = config_of("gptneox", {"rope.dimension_count": rotated}, d_model=200)
        assert rotated_width(config.head_dim, config.rotary_fraction) == rotated


@pytest.mark.parametrize(("architecture", "n_layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_scales_scores_by_its_width(architecture: str, n_layers: int) -> None:
    """By sqrt(d_model / n_heads), not by the width of a head. (llama.cpp, src/models/gemma2.cpp, gemma3.cpp)"""
    sizes: dict[str, Any] = {"d_model": 144 * 4, "d_head": 128}
    assert config_of(architecture, {}, n_layers=n_layers, **sizes).attention_scale == 144**-0.5
    assert config_of(architecture, {}, n_layers=n_layers - 1, **sizes).attention_scale is None


def test_one_number_for_all_layers(tmp_path: Path) -> None:
    _, keys, tensors = both(tmp_path, LLAMA, "llama")
    path = write_gguf(tmp_path / "x.gguf", "llama", keys | {"feed_forward_length": [12, 12]}, tensors)
    assert load_pretrained(path)[0].d_ff == 12


def test_keys_of_unused_rotary_positions_are_ignored(tmp_path: Path) -> None:
    """A GPT-2 has no rotary positions, and a scaling of type "none" has no factor. (llama.cpp, src/llama-context.cpp)"""
    config = replace(GPT2, d_model=6)
    folder, keys, tensors = both(tmp_path, config, "gpt2")
    rope = {"rope.dimension_count": 64, "rope.scaling.factor": 4.0, "rope.scaling.attn_factor": 2.0}
    got, params = load_pretrained(write_gguf(tmp_path / "x.gguf", "gpt2", keys | rope, tensors))
    assert numeric_fields(got) == numeric_fields(config)
    assert_same(params, load_pretrained(folder)[1])
    _, keys, tensors = both(tmp_path / "llama", LLAMA, "llama")
    rope = {"rope.scaling.type": "none", "rope.scaling.factor": 4.0, "rope.scale_linear": 4.0}
    assert numeric_fields(
        load_pretrained(write_gguf(tmp_path / "y.gguf", "llama", keys | rope, tensors))[0]
    ) == numeric_fields(LLAMA)
    words = "rope.scaling.attn_factor is 2.0"
    write_gguf(tmp_path / "y.gguf", "llama", keys | rope | {"rope.scaling.attn_factor": 2.0}, tensors)
    assert words in refusal(lambda: load_pretrained(tmp_path / "y.gguf"))


def split(path: Path, *keys: tuple[str, str, int]) -> Path:
    path.write_bytes(headers.gguf([headers.scalar(f"split.{name}", kind, value) for name, kind, value in keys]))
    return path


def test_one_part_of_a_split_file_is_not_the_model(tmp_path: Path) -> None:
    """The keys that llama-gguf-split writes into each part. (llama.cpp, tools/gguf-split)"""
    part = split(tmp_path / "m-00002-of-00003.gguf", ("no", "u2", 1), ("count", "u2", 3), ("tensors.count", "i4", 9))
    assert refusal(lambda: load_pretrained(part)) == (
        f"{part} is part 2 of the 3 parts of a model; join them with llama.cpp's `llama-gguf-split --merge "
        "m-00001-of-00003.gguf JOINED.gguf` and give JOINED.gguf."
    )
    assert main(["import", str(part), "--out", str(tmp_path / "run")]) == 2
    assert "--merge FIRST.gguf JOINED.gguf" in refusal(
        lambda: load_pretrained(split(tmp_path / "renamed.gguf", ("no", "u2", 0), ("count", "u2", 2)))
    )
    whole = split(tmp_path / "whole.gguf", ("no", "u2", 0), ("count", "u2", 1))
    assert "is of the architecture None" in refusal(lambda: load_pretrained(whole))


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    _, keys, tensors = both(tmp_path, replace(LLAMA, tie_embeddings=True), "llama")
    path = tmp_path / "x.gguf"
    write_gguf(path, "mamba", keys, tensors)
    words = "'mamba', but this jaxllm reads gpt2, llama, qwen2, qwen3, qwen3moe, gemma, smollm3, "
    assert words in refusal(lambda: load_pretrained(path))
    write_gguf(path, "llama", keys, {})
    assert "no table of token embeddings, token_embd.weight" in refusal(lambda: load_pretrained(path))
    write_gguf(path, "llama", keys, {**tensors, "blk.0.attn_q.bias": np.zeros(16, np.float32)})
    assert "'blk.0.attn_q.bias' is not known" in refusal(lambda: load_pretrained(path))
    write_gguf(path, "llama", keys, {**tensors, "output_norm.weight": np.zeros(16, np.int8)})
    assert "of type 'I8'" in refusal(lambda: load_pretrained(path))
    del tensors["output_norm.weight"]
    write_gguf(path, "llama", keys, tensors)
    assert "'output_norm.weight' is missing" in refusal(lambda: load_pretrained(path))
