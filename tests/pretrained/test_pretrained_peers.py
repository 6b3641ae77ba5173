"""Logits against Hugging Face's transformers on PyTorch: folders of transformers read, our folders opened there.

Needs the extra `peers`. transformers computes norms, softmax and rotary angles in float32 at any dtype of the model. For
a bound of 1e-10 its float32 is raised to float64 (`in_float64`); another test leaves it as it is. Every parameter is
random, because a scale of 1 or a bias of 0 would hide an error.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from chat_templates import SPECIAL, TEMPLATES, histories
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_runs import TOKENIZER, imported
from torch_models import THEIRS, in_float64, random_model, torch, transformers

from jaxllm import GPT, GPTConfig, load_pretrained, save_pretrained
from jaxllm.compare import arithmetic, random_parameters
from jaxllm.compare.trees import in_dtype
from jaxllm.gpt import Block
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.pretrained.hf_config import numeric_fields
from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer
from train.cli import main
from train.runs.load import load_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("quick_compilation"),
]
CHATS = BPETokenizer([bytes([i]) for i in range(256)], SPECIAL)
TOKENS = np.random.default_rng(0).integers(61, size=(2, 24)).astype(np.int32)
ROTARY = GPTConfig(
    vocab_size=61, context_length=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, position="rotary",
    norm="rms_norm", activation="swiglu", use_bias=False,
)  # fmt: skip
OURS = {
    "gpt2": (GPTConfig(61, 40, 32, 2, 4, activation="relu", separator=3), "GPT2LMHeadModel"),
    "gpt2, heads of an odd width": (GPTConfig(61, 40, 20, 2, 4, activation="squared_relu"), "GPT2LMHeadModel"),
    "interleaved": (replace(ROTARY, position="rotary_interleaved", rope_base=300.0), "LlamaForCausalLM"),
    "scaled": (
        replace(ROTARY, rope_factor=8.0, rope_original_context=20, tie_embeddings=False, d_head=10),
        "LlamaForCausalLM",
    ),
    "linear scaling": (replace(ROTARY, rope_scaling="linear", rope_factor=2.5), "LlamaForCausalLM"),
    "YaRN": (
        replace(ROTARY, rope_scaling="yarn", rope_factor=4.0, rope_original_context=10, rope_base=100.0, rope_high_frequency=2.0, rope_low_frequency=0.1),
        "LlamaForCausalLM",
    ),
    "YaRN, interleaved": (
        replace(ROTARY, rope_scaling="yarn", rope_factor=2.0, rope_original_context=20, rope_base=100.0, rope_truncate=False, rope_attention_factor=1.3, position="rotary_interleaved"),
        "LlamaForCausalLM",
    ),
    "window": (replace(ROTARY, sliding_window=5, activation="geglu"), "MistralForCausalLM"),
    "biases of queries, keys and values, interleaved": (
        replace(ROTARY, qkv_bias=True, position="rotary_interleaved", d_head=6), "Qwen2ForCausalLM",
    ),
    "qk norm, interleaved": (
        replace(ROTARY, qk_norm=True, position="rotary_interleaved", sliding_window=4, d_head=6), "Qwen3ForCausalLM",
    ),
    "experts": (
        replace(ROTARY, qk_norm=True, d_head=6, n_experts=5, n_experts_per_token=3, normalise_experts=False),
        "Qwen3MoeForCausalLM",
    ),
    "some layers without positions": (replace(ROTARY, rotary_pattern="RN", n_layers=3), "SmolLM3ForCausalLM"),
    "norms after, interleaved": (
        replace(ROTARY, norm_place="after", qk_norm="whole", position="rotary_interleaved"), "Olmo2ForCausalLM",
    ),
    "local and global layers": (replace(ROTARY, qk_norm=True, layer_pattern="LG", sliding_window=4), "Qwen3ForCausalLM"),
    "soft caps": (
        replace(
            ROTARY, norm_place="both", scale_embeddings=True, activation="geglu", attention_scale=1 / 3, score_softcap=2.0,
            logits_softcap=3.0, layer_pattern="LG", sliding_window=4,
        ),
        "Gemma2ForCausalLM",
    ),
    "two bases": (
        replace(
            ROTARY, norm_place="both", scale_embeddings=True, activation="geglu", qk_norm=True, n_layers=4, d_head=16,
            layer_pattern="LLG", sliding_window=4, rope_base=500.0, rope_local_base=300.0, rope_factor=4.0,
            rope_original_context=10, rope_scaling="yarn", rope_high_frequency=2.0, rope_low_frequency=0.1,
        ),
        "Gemma3ForCausalLM",
    ),
    "partly rotated in parallel, interleaved": (
        GPTConfig(
            61, 40, 32, 2, 4, position="rotary_interleaved", rotary_fraction=0.5, rope_base=300.0, parallel_residual=True,
            activation="gelu", tie_embeddings=False,
        ),
        "GPTNeoXForCausalLM",
    ),
    "local layers without scaled scores": (
        GPTConfig(61, 40, 32, 3, 4, qkv_bias=False, attention_scale=1.0, layer_pattern="GL", sliding_window=5),
        "GPTNeoForCausalLM",
    ),
    "partly rotated, grouped": (replace(ROTARY, rotary_fraction=0.75, sliding_window=6), "Phi3ForCausalLM"),
    "scaled embeddings": (
        replace(ROTARY, scale_embeddings=True, activation="geglu", d_head=16), "GemmaForCausalLM",
    ),
}  # fmt: skip


@contextmanager
def silence() -> Iterator[None]:
    """Fails if transformers logs a warning."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    transformers.logging.add_handler(handler)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.remove_handler(handler)
    assert not messages


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens.astype(np.int64))).logits.numpy()


def our_logits(config: GPTConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(GPT(config, block=nn.jit(Block)).apply)({"params": params}, tokens))


def assert_near(got: np.ndarray, want: np.ndarray, bound: float) -> None:
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=bound * np.abs(want).max())


@pytest.mark.parametrize("name", THEIRS)
def test_folders_of_transformers_are_read(name: str, tmp_path: Path) -> None:
    with in_float64():
        model = random_model(name)
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        want = their_logits(model, TOKENS)
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    config, params = load_pretrained(tmp_path)
    with arithmetic("float64"):
        assert_near(our_logits(config, params, TOKENS), want, 1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama 3, tied, wide heads", "gemma"])
def test_logits_in_float32(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    model.save_pretrained(tmp_path)
    config, params = load_pretrained(tmp_path)
    assert_near(our_logits(config, params, TOKENS), their_logits(model, TOKENS), 1e-5)


def test_the_layout_of_transformers_4(tmp_path: Path) -> None:
    """transformers 4 keeps in two places what is in rope_parameters since 5; transformers reads both layouts alike."""
    model = random_model("llama 3, tied, wide heads")
    model.save_pretrained(tmp_path)
    config, _ = load_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    scaling = content.pop("rope_parameters")
    file.write_text(json.dumps(content | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}))
    assert load_pretrained(tmp_path)[0] == config
    with silence():
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(their_logits(again, TOKENS), their_logits(model, TOKENS))


@pytest.mark.parametrize("name", OURS)
def test_transformers_opens_our_folders(name: str, tmp_path: Path) -> None:
    config, architecture = OURS[name]
    tokens = np.where(TOKENS == config.separator, 0, TOKENS)  # transformers has no separator
    with arithmetic("float64"):
        params = in_dtype(random_parameters(GPT(config)), "float64")
        want = our_logits(config, params, tokens)
        save_pretrained(tmp_path, config, jax.device_get(params))
    with in_float64(), silence():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(model).__name__ == architecture
        assert_near(their_logits(model, tokens), want, 1e-10)
    back, again = load_pretrained(tmp_path)
    assert numeric_fields(back) == numeric_fields(config)
    if back.position == config.position:
        jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(params))


@pytest.mark.parametrize("name", ["qwen 3 experts", "llama, YaRN"])
def test_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Of the summed logits times random numbers, at every parameter, in float64."""
    seeds = np.random.default_rng(1).normal(size=(*TOKENS.shape, 61))
    with in_float64():
        model = random_model(name).eval()
        model.save_pretrained(tmp_path / "model")
        (model(torch.tensor(TOKENS.astype(np.int64))).logits * torch.tensor(seeds)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.grad)
        model.save_pretrained(tmp_path / "gradients")
    config, params = load_pretrained(tmp_path / "model")
    _, want = load_pretrained(tmp_path / "gradients")
    with arithmetic("float64"):
        loss = jax.jit(lambda p: (GPT(config).apply({"params": p}, TOKENS) * seeds).sum())
        got = jax.device_get(jax.grad(loss)(params))
    jax.tree.map(lambda a, b: assert_near(a, b, 1e-10), got, want)


def test_transformers_opens_an_exported_run(tmp_path: Path) -> None:
    """Model, tokenizer, chat template and end tokens, without a warning."""
    config = replace(ROTARY, vocab_size=260)
    run = imported(tmp_path / "run", config)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    with silence():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        text = "hi <s>there</s>\n"
        assert tokenizer(text, add_special_tokens=False).input_ids == TOKENIZER.encode(text, ["<s>", "</s>"])
        asked = [{"role": "user", "content": "Why?"}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert ids == [256, *b"user:Why?", 257, 256]
        assert model.generation_config.eos_token_id == [257]
        assert_near(their_logits(model, TOKENS), our_logits(config, load_run(run).params, TOKENS), 1e-5)


def test_the_loss_of_a_text_is_that_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each window begins with the token that their tokenizer puts before a text."""
    config, text = replace(ROTARY, vocab_size=260), "0123456789" * 13
    run = imported(tmp_path / "run", config)
    (tmp_path / "text.txt").write_text(text)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(tmp_path / "text.txt")]) == 0
    loss = next(line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("validation loss"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    begin, *ids = tokenizer(text).input_ids
    assert begin == 256
    total = 0.0
    for start in range(0, len(ids), config.context_length):
        labels = [-100, *ids[start : start + config.context_length]]
        tokens = torch.tensor([[begin, *labels[1:]]])
        with torch.no_grad():
            total += float(model(tokens, labels=torch.tensor([labels])).loss) * (len(labels) - 1)
    assert float(loss) == pytest.approx(total / len(ids), abs=1e-4)


@pytest.mark.parametrize("kind", TEMPLATES)
@settings(max_examples=25)
@given(histories(), st.booleans())
def test_conversations_are_those_of_transformers(kind: str, messages: Any, prompt: bool) -> None:
    """With reasoning and results of tools, for several templates."""
    chat = ChatFormat(None, (), "<s>", "</s>", TEMPLATES[kind])
    theirs = their_tokenizer(kind)
    text = theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    assert chat.render(messages, prompt) == text
    ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert encode_chat(CHATS, chat, messages, prompt) == ids


@cache
def their_tokenizer(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer_files(folder, CHATS, ChatFormat(None, (), "<s>", "</s>", TEMPLATES[kind]))
        return transformers.AutoTokenizer.from_pretrained(folder)
