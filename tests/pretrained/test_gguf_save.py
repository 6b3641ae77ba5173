"""Models in GGUF files: gguf-py's reader gives our numbers, our own reader the same config, parameters and logits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as peer
import gguf_files
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from gguf_files import converted, keys_of
from imported_runs import TOKENIZER
from pretrained_files import CONFIGS, GPT2, LLAMA, LLAMA3, QWEN2, QWEN3, assert_same, random_params, refusal

import jaxllm.reference as reference
from jaxllm import GPT, GPTConfig, load_pretrained, save_pretrained
from jaxllm.compare import random_parameters
from jaxllm.pretrained import gguf_encode, gguf_save
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.gguf import read_header
from jaxllm.pretrained.gguf_quantised import dequantise
from jaxllm.pretrained.gguf_save import save_gguf
from jaxllm.pretrained.gguf_write_config import config_keys
from jaxllm.pretrained.hf_config import numeric_fields
from jaxllm.pretrained.parameter_map import nested

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.newest,
    pytest.mark.filterwarnings("ignore:.*computes the activation gelu of a gptneox"),
]

F = np.float32
WIDE = {"vocab_size": 260, "d_model": 64, "d_ff": 40}  # rows of 64 are whole blocks of Q8_0, rows of 40 are not
MODELS = {name: replace(config, **WIDE) for name, config in gguf_files.MODELS.items()} | {
    "gpt2 untied": replace(GPT2, **WIDE, tie_embeddings=False),
    "llama tied": replace(LLAMA, **WIDE, tie_embeddings=True),
    "llama interleaved": replace(LLAMA, **WIDE, position="rotary_interleaved"), "llama 3": replace(LLAMA3, **WIDE),
    "qwen3 linear": replace(QWEN3, **WIDE, rope_scaling="linear", rope_factor=4.0),
    "qwen3 yarn": replace(QWEN3, **WIDE, rope_scaling="yarn", rope_factor=4.0, rope_original_context=8),
    "gptneox in turn, interleaved": replace(
        CONFIGS["GPTNeoXForCausalLM"], **WIDE, parallel_residual=False, position="rotary_interleaved"
    ),
}  # fmt: skip
TYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "q8_0": ("Q8_0", 7)}
ROUNDED = "ignore:.*tensors stay F16"


def save(path: Path, config: GPTConfig, params: Any = None, dtype: str = "float32", **more: Any) -> dict[str, str]:
    return save_gguf(path, config, random_params(config) if params is None else params, TOKENIZER, dtype=dtype, **more)


def decoded(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by gguf-py: its reader and its decoder."""
    return {
        one.name: peer.dequantize(one.data, one.tensor_type).reshape(one.shape[::-1])
        for one in peer.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("name", MODELS)
def test_gguf_py_reads_what_llama_cpp_expects(name: str, tmp_path: Path) -> None:
    """The tensors of a folder of the same model, under llama.cpp's names and in its order of rows."""
    config, architecture = MODELS[name], name.replace(",", "").split()[0]
    save(tmp_path / "x.gguf", config)
    save_pretrained(tmp_path / "folder", config, random_params(config))
    want, found = converted(tmp_path / "folder", config, architecture), decoded(tmp_path / "x.gguf")
    found.pop("rope_freqs.weight", None)
    assert found.keys() == want.keys()
    for tensor, x in want.items():
        np.testing.assert_array_equal(found[tensor], x, err_msg=tensor, strict=True)


@pytest.mark.filterwarnings(ROUNDED)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_file_round_trips(name: str, dtype: str, tmp_path: Path) -> None:
    """The parameters come back as gguf-py's quantizer and decoder leave them; those of few bits to the bit."""
    config, path = MODELS[name], tmp_path / "x.gguf"
    types, params = save(path, config, dtype=dtype), random_params(config)
    found, back = load_pretrained(path)
    assert numeric_fields(found) == numeric_fields(config)
    kind = TYPES[dtype][0]
    assert set(types.values()) == {"F32", kind} | ({"F16"} if dtype == "q8_0" else set())
    assert types["token_embd.weight"] == kind and types["output_norm.weight"] == "F32"
    if dtype != "q8_0":
        save_pretrained(tmp_path / "folder", config, params)  # with interleaved rows in half-split order
        assert_same(back, load_pretrained(tmp_path / "folder")[1])
    assert {one.name: one.tensor_type.name for one in peer.GGUFReader(path).tensors} == types


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_a_file(name: str, tmp_path: Path) -> None:
    """Those of the model that was written, also of one in interleaved order, by the NumPy reference."""
    config, params = MODELS[name], random_parameters(GPT(MODELS[name]))
    save(tmp_path / "x.gguf", config, jax.device_get(params))
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.context_length))
    want = reference.gpt.forward(config, params, tokens)
    got = reference.gpt.forward(*load_pretrained(tmp_path / "x.gguf"), tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * abs(want).max())


@pytest.mark.filterwarnings(ROUNDED)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_q8_0_is_the_quantizer_of_gguf_py(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """The bytes of each tensor, of weights of many bits; and the tensors that stay F16."""
    config = MODELS[name]
    shapes = flatten_dict(random_params(config), sep="/")
    params = nested({path: rng.normal(size=x.shape).astype(F) for path, x in shapes.items()})
    types = save(tmp_path / "q.gguf", config, params, "q8_0")
    save(tmp_path / "x.gguf", config, params)
    whole = decoded(tmp_path / "x.gguf")
    tensors = {one.name: one for one in peer.GGUFReader(tmp_path / "q.gguf").tensors}
    for tensor, kind in types.items():
        want = peer.quantize(whole[tensor], peer.GGMLQuantizationType[kind])
        assert tensors[tensor].data.tobytes() == want.tobytes(), tensor
    matrices = {tensor for tensor, x in whole.items() if x.ndim == 2 and tensor != "position_embd.weight"}
    assert {tensor for tensor, kind in types.items() if kind != "F32"} == matrices
    assert {tensor for tensor, kind in types.items() if kind == "F16"} == {
        one for one in matrices if whole[one].shape[-1] % 32
    }
    ours, theirs = read_header(tmp_path / "q.gguf").tensors, decoded(tmp_path / "q.gguf")
    raw = (tmp_path / "q.gguf").read_bytes()
    for tensor, at in ours.items():
        if at.dtype == "Q8_0":
            x = dequantise(np.frombuffer(raw[at.start : at.stop], np.uint8), "Q8_0", at.shape)
            np.testing.assert_array_equal(x, theirs[tensor], err_msg=tensor)


@pytest.mark.filterwarnings(ROUNDED)
@pytest.mark.parametrize("name", gguf_files.MODELS)
def test_the_keys_of_llama_cpp(name: str, tmp_path: Path) -> None:
    config, path = replace(MODELS[name], d_ff=64), tmp_path / "x.gguf"
    dtype, (_, number) = [*TYPES.items()][[*MODELS].index(name) % 3]
    save(path, config, dtype=dtype, name="a name")
    fields = {key: field.contents() for key, field in peer.GGUFReader(path).fields.items()}
    assert fields["general.architecture"] == name and fields["general.type"] == "model"
    assert fields["general.file_type"] == number and fields["general.quantization_version"] == 2
    assert fields["general.name"] == "a name" and fields["tokenizer.ggml.model"] == "gpt2"
    assert fields.get(f"{name}.vocab_size", 260) == 260
    found = {key.removeprefix(f"{name}."): value for key, value in fields.items() if key.startswith(f"{name}.")}
    want = keys_of(config, name)
    assert {key: found[key] for key in want} == pytest.approx(want)
    assert found.keys() - want.keys() <= {"vocab_size", "attention.key_length", "attention.value_length"}


def test_the_scaling_of_llama_3_is_a_tensor(tmp_path: Path) -> None:
    path, config = tmp_path / "x.gguf", MODELS["llama 3"]
    assert next(iter(save(path, config))) == "rope_freqs.weight"
    factors = decoded(path)["rope_freqs.weight"]
    assert factors.shape == (8,) and factors.min() == 1 and factors.max() == 8 and len({*factors.tolist()}) > 2
    assert numeric_fields(load_pretrained(path)[0]) == numeric_fields(config)


def test_every_tensor_begins_at_the_alignment(tmp_path: Path) -> None:
    """Also after one whose bytes are no multiple of it, and up to the end of the file."""
    path = tmp_path / "x.gguf"
    save(path, replace(MODELS["gpt2"], d_model=10))
    tensors = read_header(path).tensors.values()
    assert any((one.stop - one.start) % 32 for one in tensors)
    assert all(one.start % 32 == 0 for one in tensors) and path.stat().st_size % 32 == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, "bfloat16"])
def test_parameters_in_other_dtypes(dtype: Any, tmp_path: Path) -> None:
    config = MODELS["llama"]
    params = random_params(config, jax.numpy.bfloat16 if dtype == "bfloat16" else dtype)
    save(tmp_path / "x.gguf", config, params)
    assert_same(load_pretrained(tmp_path / "x.gguf")[1], random_params(config))


def test_tensors_that_stay_float16_are_noted(tmp_path: Path) -> None:
    config = replace(MODELS["llama"], d_ff=40, n_layers=5)
    with pytest.warns(UserWarning) as caught:
        save(tmp_path / "x.gguf", config, dtype="q8_0")
    assert [str(one.message) for one in caught] == [
        "5 tensors stay F16, because their rows are no multiple of 32 numbers: blk.0.ffn_down.weight, "
        "blk.1.ffn_down.weight, blk.2.ffn_down.weight and 2 more; 32 tensors are Q8_0."
    ]


def test_another_form_of_gelu_is_noted(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="GGUF: llama.cpp computes the activation gelu of a gptneox as gelu_tanh, which"
    ):
        save(tmp_path / "x.gguf", MODELS["gptneox"])


def test_mup_goes_into_the_final_norm(tmp_path: Path) -> None:
    config = replace(MODELS["llama"], mup_base_width=16)
    save(tmp_path / "x.gguf", config)
    found = load_pretrained(tmp_path / "x.gguf")[1]["norm_final"]["scale"]
    np.testing.assert_array_equal(found * 4, random_params(config)["norm_final"]["scale"])


SMOLLM3, OLMO2, GEMMA2, GEMMA3, PHI3 = (MODELS[name] for name in ("smollm3", "olmo2", "gemma2", "gemma3", "phi3"))
NEOX = MODELS["gptneox"]
REFUSED = {
    "a window": (replace(LLAMA, sliding_window=3), "is nearest, but has no model.sliding_window = 3; export"),
    "ReLU": (replace(GPT2, activation="relu"), "gpt2 is nearest, but has no model.activation = 'relu'; export"),
    "scaled Qwen": (replace(QWEN3, rope_factor=4.0), "qwen3 is nearest, but has no model.rope_factor = 4.0; export"),
    "another scaling": (
        replace(LLAMA3, rope_high_frequency=5.0), "llama is nearest, but has no model.rope_high_frequency = 5.0; export",
    ),
    "a scaling beyond the slowest pair": (
        replace(LLAMA3, rope_base=100.0), "llama is nearest, but has no model.rope_factor = 8.0; export",
    ),
    "a window and norms": (replace(QWEN3, sliding_window=3), "qwen3 is nearest, but has no model.sliding_window = 3; ex"),
    "an untied Gemma": (
        replace(MODELS["gemma"], tie_embeddings=False), "gemma is nearest, but has no model.tie_embeddings = False; exp",
    ),
    "YaRN without rounding": (
        replace(QWEN3, rope_scaling="yarn", rope_factor=4.0, rope_truncate=False), "no key for model.rope_truncate = false",
    ),
    "experts as they are": (replace(MODELS["qwen3moe"], normalise_experts=False), "qwen3moe is nearest, but has no model.normalise_ex"),
    "every second layer rotary": (replace(SMOLLM3, rotary_pattern="RN"), "smollm3 is nearest, but has no model.rotary_pa"),
    "a tied OLMo": (replace(OLMO2, tie_embeddings=True), "olmo2 is nearest, but has no model.tie_embeddings = True; exp"),
    "an OLMo of wide heads": (replace(OLMO2, d_head=24), "olmo2 is nearest, but has no model.d_head = 24; export"),
    "a Qwen of wide heads": (replace(QWEN2, d_head=24), "qwen2 is nearest, but has no model.d_head = 24; export"),
    "no cap": (replace(GEMMA2, score_softcap=None), "gemma2 is nearest, but has no model.score_softcap = None; export"),
    "another scale": (replace(GEMMA2, attention_scale=0.2), "gemma2 is nearest, but has no model.attention_scale = 0.2"),
    "two local layers": (replace(GEMMA2, layer_pattern="LLG"), "gemma2 is nearest, but has no model.layer_pattern = 'LLG'"),
    "another local base": (replace(GEMMA3, rope_local_base=50.0), "gemma3 is nearest, but has no model.rope_local_base = "),
    "an even pattern": (replace(GEMMA3, layer_pattern="LG"), "gemma3 is nearest, but has no model.layer_pattern = 'LG'; "),
    "a cap of logits": (replace(GEMMA3, logits_softcap=9.0), "gemma3 is nearest, but has no model.logits_softcap = 9.0"),
    "no window": (
        replace(GEMMA3, layer_pattern=None, rope_local_base=None, sliding_window=None),
        "gemma3 is nearest, but has no model.sliding_window = None; export",
    ),
    "tanh": (replace(NEOX, activation="gelu_tanh"), "gptneox is nearest, but has no model.activation = 'gelu_tanh'; exp"),
    "a tied NeoX": (replace(NEOX, tie_embeddings=True), "gptneox is nearest, but has no model.tie_embeddings = True; exp"),
    "a Phi with a window": (replace(PHI3, sliding_window=3), "phi3 is nearest, but has no model.sliding_window = 3; expo"),
    "GPT-Neo": (CONFIGS["GPTNeoForCausalLM"], "llama.cpp has no architecture for a GPTNeoForCausalLM with these settings"),
    "classes": (replace(GPT2, n_classes=3), "has no model.n_classes = 3"),
    "no family": (replace(GPT2, position="sinusoidal"), "has no model.position = 'sinusoidal'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_models_that_gguf_cannot_express(what: str, tmp_path: Path) -> None:
    config, words = REFUSED[what]
    config = replace(config, vocab_size=260)
    message = refusal(lambda: save(tmp_path / "x.gguf", config))
    assert words in message and not [*tmp_path.iterdir()]
    assert "classes" in what or "no family" in what or "export a folder with --out FOLDER instead" in message


def test_other_bad_input(tmp_path: Path) -> None:
    config, path = MODELS["llama"], tmp_path / "x.gguf"
    params = random_params(config)
    assert "--dtype is 'q4_0', but a GGUF file is written in" in refusal(lambda: save(path, config, params, "q4_0"))
    assert "params does not fit its config: " in refusal(lambda: save(path, replace(config, n_layers=1), params))
    small = replace(config, vocab_size=257)
    assert "the tokenizer has 258 ids, but the model only 257" in refusal(lambda: save(path, small))
    params["norm_final"]["scale"][3] = np.nan
    assert "params holds NaN or an infinite number" in refusal(lambda: save(path, config, params))
    assert "cannot write " in refusal(lambda: save(tmp_path / "none" / "x.gguf", config))
    assert not [*tmp_path.iterdir()]


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight beyond float16 is found when half of the file is written, a wrong file when all of it is."""
    config, path = MODELS["llama"], tmp_path / "x.gguf"
    path.write_bytes(b"old")
    params = random_params(config)
    params["head"]["kernel"][0, 0] = 7e4
    assert "the tensor 'output.weight' holds 7e+04, which F16" in refusal(lambda: save(path, config, params, "float16"))
    with monkeypatch.context() as patch:
        wrong = {"llama.rope.freq_base": 7.0}
        patch.setattr(gguf_save, "config_keys", lambda *arguments: config_keys(*arguments) | wrong)
        assert "would be read without model.rope_base = 500.0" in refusal(lambda: save(path, config))
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]
    save(path, config, params)
    assert load_pretrained(path)[1]["head"]["kernel"][0, 0] == 7e4 and [*tmp_path.iterdir()] == [path]


def test_content_of_another_size_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxllm.pretrained.gguf_save.encoded", lambda x, kind, name: iter([np.zeros(3, np.uint8)]))
    with pytest.raises(ValueError, match="the content of token_embd.weight has 3 bytes, not"):
        save(tmp_path / "x.gguf", MODELS["gpt2"])


def test_a_tensor_is_converted_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest part that is in memory beside the parameters, also of a tensor that is transposed."""
    sizes: list[int] = []
    whole = gguf_encode._encoded_rows

    def noted(rows: np.ndarray, kind: str, name: str) -> np.ndarray:
        sizes.append(rows.size)
        return whole(rows, kind, name)

    monkeypatch.setattr(gguf_encode, "_encoded_rows", noted)
    monkeypatch.setattr(gguf_encode, "AT_ONCE", 640)
    save(tmp_path / "x.gguf", MODELS["llama"], dtype="float16")
    assert max(sizes) == 640 and sizes.count(640) > 100


def test_the_chat_format_is_in_the_file(tmp_path: Path) -> None:
    chat = ChatFormat(256, (257,), "<s>", "</s>", "{{ bos_token }}{{ messages[0].content }}")
    save_gguf(tmp_path / "x.gguf", MODELS["llama"], random_params(MODELS["llama"]), TOKENIZER, chat)
    fields = {key: field.contents() for key, field in peer.GGUFReader(tmp_path / "x.gguf").fields.items()}
    assert fields["tokenizer.chat_template"] == chat.chat_template and fields["tokenizer.ggml.add_bos_token"] is True
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (256, 257)
