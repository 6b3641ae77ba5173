"""Models of transformers whose blocks have options of their own: their names are guessed, and a planted fault is found."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch_models import in_float64, random_model, torch

from jaxllm import GPTConfig
from jaxllm.compare.foreign.layouts import guess_names
from jaxllm.compare.foreign.matched import match
from jaxllm.compare.foreign.piece import SCALED
from jaxllm.compare.foreign.record import record
from jaxllm.compare.foreign.side_by_side import ForeignReport, compare_foreign
from jaxllm.compare.foreign.template import template
from jaxllm.compare.foreign.trace import read_trace
from jaxllm.pretrained.hf_config import read_hf_config

pytestmark = pytest.mark.newest

# Joined maps head by head and in parallel; joined maps of several widths; norms of results, of all heads at once; soft
# caps; two rotary bases and embeddings that are scaled.
FAMILIES = {
    "gpt neox": "GPTNeoXForCausalLM", "phi 3, partly rotated": "Phi3ForCausalLM", "olmo 2": "Olmo2ForCausalLM",
    "gemma 2": "Gemma2ForCausalLM", "gemma 3": "Gemma3ForCausalLM", "gpt neo": "GPTNeoForCausalLM",
}  # fmt: skip


def beside(
    name: str, folder: Path, plant: Callable[[Any], Any] = lambda model: None, ours: dict[str, Any] | None = None
) -> tuple[ForeignReport, GPTConfig, set[str]]:
    """A model recorded in float64 with a planted fault, beside its config with changes, and what of ours was found."""
    with in_float64():
        model = random_model(name)
        settings = model.config.to_dict() | {"architectures": [FAMILIES[name]]}
        config = replace(read_hf_config(settings, "config.json")[1], **(ours or {}))
        plant(model)
        ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        record(model, ids[:, :-1], ids[:, 1:], str(folder / "trace.npz"), optimizer=optimizer)
    recording = read_trace(folder / "trace.npz")
    guess = guess_names(config, recording)
    matched = match(config, recording, guess.names)
    assert guess.title == f"{FAMILIES[name]} of transformers" and not matched.absent and not matched.left_over
    return compare_foreign(matched, "float64"), config, set(guess.names.outputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_agrees(name: str, tmp_path: Path) -> None:
    """With every intermediate that a module makes, and every parameter with a gradient by itself and a step."""
    found, config, outputs = beside(name, tmp_path)
    assert found.report.passed and not found.faults and not found.notes, str(found.report)
    hidden = {"token_embedding"} if config.scale_embeddings else set()
    assert outputs == set(template(config).outputs) - hidden and (SCALED in outputs) == config.scale_embeddings
    stages = [row.stage for row in found.report.rows]
    assert stages.count("gradient") == stages.count("replayed gradient") == stages.count("optimizer step")


def at(path: str, **changed: Any) -> Callable[[Any], None]:
    """A change of attributes of a module."""

    def plant(model: Any) -> None:
        for name, value in changed.items():
            setattr(model.get_submodule(path), name, value)

    return plant


def heads(*blocks: int) -> list[str]:
    return [f"block_{i}/attention/heads" for i in blocks]


def nothing(model: Any) -> None:
    """Where ours is changed."""


FAULTS: list[tuple[str, Callable[[Any], Any], dict[str, Any], list[str], str]] = [
    ("gpt neox", nothing, {"rotary_fraction": 0.5}, heads(0, 1), "with 2 of 8 features of a head rotated, the first; in ours it is 4"),
    ("gpt neox", at("gpt_neox.layers.1", use_parallel_residual=False), {}, ["block_1"], "with the MLP after the attention"),
    ("olmo 2", at("model.layers.0.self_attn.k_norm", variance_epsilon=1e-3), {}, ["block_0/attention/key_norm"], "fits epsilon = 0.001 to"),
    ("gemma 2", at("model.layers.1.self_attn", attn_logit_softcapping=None), {}, heads(1), "without the cap of the scores, 2"),
    ("gemma 2", nothing, {"logits_softcap": 4.0}, ["logits"], "fits a cap of 3 to"),
    ("gemma 3", nothing, {"rope_local_base": 900.0}, heads(0, 1, 2, 3, 4, 6), "fits a rotary base of 300 to"),
    ("gemma 3", at("model.layers.5.self_attn", scaling=8**-0.5), {}, heads(5), "(1 / sqrt(d_head)) to"),
    ("gemma 3", at("model.embed_tokens", embed_scale=torch.ones(())), {}, [SCALED], "(1 / sqrt(d_model)) to"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plant", "ours", "where", "says"), FAULTS, ids=[f"{one[0]}-{one[3][0]}" for one in FAULTS]
)
def test_a_planted_fault_is_found_and_named(
    name: str, plant: Callable[[Any], Any], ours: dict[str, Any], where: list[str], says: str, tmp_path: Path
) -> None:
    found = beside(name, tmp_path, plant, ours)[0]
    assert [fault.name for fault in found.faults] == where
    assert all(says in fault.explanation for fault in found.faults), [str(fault) for fault in found.faults]
