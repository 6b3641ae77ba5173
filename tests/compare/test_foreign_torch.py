"""Models of PyTorch, recorded by record.py and compared: all agrees, and a planted fault is found where it is."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_models import in_float64, random_model, torch

from jaxllm import GPTConfig
from jaxllm.compare.foreign.layouts import guess_names
from jaxllm.compare.foreign.matched import match
from jaxllm.compare.foreign.record import record
from jaxllm.compare.foreign.side_by_side import ForeignReport, compare_foreign
from jaxllm.compare.foreign.trace import Recording, read_trace

from nano_torch import NanoGPT  # isort: skip  # after `torch_models`, which skips without PyTorch

SIZES: dict[str, Any] = {"vocab_size": 61, "context_length": 40, "d_model": 32, "n_layers": 2, "n_heads": 4}
CONFIGS = {
    "gpt2": GPTConfig(**SIZES),
    "llama": GPTConfig(
        **SIZES, n_kv_heads=2, d_ff=48, position="rotary", rope_base=300.0, norm="rms_norm", norm_epsilon=1e-6,
        activation="swiglu", use_bias=False, tie_embeddings=False,
    ),
}  # fmt: skip
NANO: dict[str, Any] = {"vocab": 17, "context": 9, "width": 12, "heads": 3}
OURS = GPTConfig(vocab_size=17, context_length=9, d_model=12, n_layers=2, n_heads=3, d_ff=24, activation="gelu")


def batch(vocab: int, length: int) -> tuple[Any, Any]:
    ids = torch.randint(vocab, (2, length + 1), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def recorded(model: Any, path: Path, vocab: int, optimizer: Any = None, length: int = 8) -> Recording:
    record(model, *batch(vocab, length), str(path / "trace.npz"), optimizer=optimizer)
    return read_trace(path / "trace.npz")


def beside(config: GPTConfig, recording: Recording, title: str, dtype: str) -> ForeignReport:
    guess = guess_names(config, recording)
    matched = match(config, recording, guess.names)
    assert guess.title == title and not matched.absent and not matched.left_over
    return compare_foreign(matched, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "title"), [
    ("gpt2", "GPT2LMHeadModel of transformers"), ("llama", "LlamaForCausalLM of transformers"),
])  # fmt: skip
def test_a_model_of_transformers(name: str, title: str, dtype: str, tmp_path: Path) -> None:
    with in_float64() if dtype == "float64" else nullcontext():
        model = random_model(name)
        recording = recorded(model, tmp_path, 61, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1))
    assert recording.about.dtype == dtype
    found = beside(CONFIGS[name], recording, title, dtype)
    assert found.report.passed and not found.faults and not found.notes, str(found.report)
    stages = {row.stage for row in found.report.rows}
    assert stages == {"forward", "backward", "gradient", "replay", "replayed gradient", "optimizer step"}
    names = {row.name for row in found.report.rows if row.stage == "replay"}
    assert {f"block_{i}/{part}" for i in (0, 1) for part in ("attention/heads", "mlp/activation", "norm_2")} <= names


def nano(dtype: Any = None, **faults: Any) -> Any:
    return NanoGPT(**NANO, **faults).to(dtype or torch.float64)


@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD"])
def test_a_model_like_nanogpt(rule: str, tmp_path: Path) -> None:
    """Dropout is off, the loss is the model's own, the head is tied, and the step is that of PyTorch's optimizer."""
    model = nano()
    settings = {"lr": 1e-2, "weight_decay": 0.1} | ({"momentum": 0.9} if rule == "SGD" else {})
    recording = recorded(model, tmp_path, 17, getattr(torch.optim, rule)(model.parameters(), **settings))
    assert recording.about.tied == {"lm_head.weight": "transformer.wte.weight"}
    found = beside(OURS, recording, "nanoGPT", "float64")
    assert found.report.passed and not found.faults and not found.notes, str(found.report)
    assert model.training


@pytest.mark.parametrize(("fault", "where"), [
    ({"epsilon": 1e-6}, "block_1/norm_2"), ({"ahead": 1}, "block_0/attention/heads"),
])  # fmt: skip
def test_a_planted_fault_is_found_where_it_is(fault: dict[str, Any], where: str, tmp_path: Path) -> None:
    found = beside(OURS, recorded(nano(**fault), tmp_path, 17), "nanoGPT", "float64")
    assert [one.name for one in found.faults] == [where]
    assert [row.name for row in found.report.rows if row.jump] == [where.removesuffix("/heads")]


def test_an_epsilon_is_found_in_float32(tmp_path: Path) -> None:
    """It changes the result by a millionth, which rounding does not hide."""
    found = beside(OURS, recorded(nano(torch.float32, epsilon=1e-4), tmp_path, 17), "nanoGPT", "float32")
    assert [one.name for one in found.faults] == ["block_1/norm_2"]


class Twice(torch.nn.Module):
    """A map that is used twice, one that is frozen, a result in a dict and one that is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.map, self.frozen = torch.nn.Embedding(17, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 17)
        self.frozen.requires_grad_(False)

    def forward(self, tokens: Any) -> Any:
        x = self.map(self.table(tokens))
        x += 1
        return {"logits": self.frozen(self.map(x))}


def test_what_is_recorded(tmp_path: Path) -> None:
    """The first call of a module, its own result and the gradient there; no gradient of what is frozen."""
    model = Twice().double().eval()
    tokens, targets = batch(17, 5)
    recording = recorded(model, tmp_path, 17, length=5)
    first = model.map(model.table(tokens))
    first.retain_grad()
    logits = model.frozen(model.map(first + 1))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    assert np.allclose(recording.outputs["map"], first.detach(), rtol=1e-12, atol=0)
    assert np.allclose(recording.output_gradients["map"], first.grad, rtol=1e-12, atol=1e-16)
    assert np.allclose(recording.inputs["map"], model.table(tokens).detach(), rtol=1e-12, atol=0)
    assert recording.loss == pytest.approx(loss.item(), rel=1e-12)
    assert np.allclose(recording.outputs["."], logits.detach(), rtol=1e-12, atol=0)
    assert {"map.weight", "map.bias", "table.weight"} == set(recording.gradients) and not recording.after
    assert "frozen.weight" in recording.params
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training


def test_narrow_floats_are_widened(tmp_path: Path) -> None:
    recording = recorded(Twice().bfloat16(), tmp_path, 17)
    assert recording.about.dtype == "bfloat16" and recording.outputs["map"].dtype == np.float32


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    record(
        Twice(),
        *batch(17, 5),
        str(tmp_path / "a.npz"),
        loss=lambda model, tokens, targets: model(tokens)["logits"].sum(),
    )
    recording = read_trace(tmp_path / "a.npz")
    assert recording.loss == pytest.approx(float(recording.outputs["."].sum()), rel=1e-5)


@dataclass
class Result:
    """What a model returns that keeps more than its logits."""

    loss: Any
    logits: Any
    more: Any = None


class Returns(Twice):
    def forward(self, tokens: Any) -> Any:
        result = Result(Result, super().forward(tokens)["logits"])
        result.more = result
        return result


class ReturnsLoss(Returns):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, tokens: Any, targets: Any) -> Any:
        logits = super().forward(tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return self.kind(loss=2 * loss, logits=logits)


def test_a_result_may_be_a_dataclass(tmp_path: Path) -> None:
    """Also one that holds a class or itself; a loss in it is the model's own."""
    recording = recorded(Returns(), tmp_path, 17, length=5)
    np.testing.assert_array_equal(recording.outputs["."], recording.outputs["frozen"])
    for kind in (Result, dict):
        torch.manual_seed(0)
        twice = recorded(ReturnsLoss(kind), tmp_path, 17, length=5)
        torch.manual_seed(0)
        assert twice.loss == pytest.approx(2 * float(recorded(Twice(), tmp_path, 17, length=5).loss or 0))


def test_a_step_that_fails_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = Twice().train()
    model.frozen.eval()
    with pytest.raises(ZeroDivisionError):
        record(model, *batch(17, 5), str(tmp_path / "a.npz"), loss=lambda model, tokens, targets: 1 / 0)
    assert model.training and model.map.training and not model.frozen.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
