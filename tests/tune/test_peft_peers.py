"""Adapters beside Hugging Face's PEFT on PyTorch: ours opened there, theirs read here, the same logits.

Needs the extra `peers`. All numbers are random, so that no zero hides an error.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from adapters import shapes_of
from models import random_like
from pretrained_files import CONFIGS, GPT2, GPT_NEOX, LLAMA, TIED

from jaxllm import GPT, GPTConfig, load_pretrained, lora, save_pretrained
from jaxllm.compare import random_parameters
from jaxllm.pretrained.families import FAMILIES
from jaxllm.pretrained.peft import PeftAdapter, read_adapter, write_adapter
from jaxllm.pretrained.save import save_as

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other packages
    torch = pytest.importorskip("torch", reason="needs the extra `peers`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of PEFT: about tied tables, and settings that it corrects itself
    pytest.mark.usefixtures("quick_compilation"),
]
TOKENS = np.random.default_rng(0).integers(13, size=(2, 12)).astype(np.int32)


def saved_base(folder: Path, config: GPTConfig) -> Any:
    """A model of random parameters in a folder; returns the parameters."""
    params = random_parameters(GPT(config))
    save_pretrained(folder, config, params)
    return params


def theirs(base: Path, adapter: Path | None = None) -> Any:
    """transformers' model of a folder, with PEFT's of another around it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()


def logits_there(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS).long()).logits.numpy()


def logits_here(config: GPTConfig, params: Any, read: PeftAdapter) -> np.ndarray:
    from flax.traverse_util import flatten_dict, unflatten_dict

    whole = unflatten_dict(flatten_dict(params) | flatten_dict(read.full))
    attached = lora.attach(whole, read.adapter, read.alpha / read.rank)
    return np.asarray(jax.jit(GPT(config).apply)({"params": attached}, TOKENS))


def assert_near(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", [*(name for name in CONFIGS if "Moe" not in name), "tied"])
def test_peft_opens_our_adapters(tmp_path: Path, name: str) -> None:
    """With parameters trained in full beside them; without the adapter the logits are far away."""
    config = CONFIGS.get(name, TIED)
    params = saved_base(tmp_path / "base", config)
    adapter = random_like(lora.init_adapter(jax.random.key(0), shapes_of(config), 2), seed=1, scale=0.1)
    trained = random_like({name: params[name] for name in ("norm_final", "token_embedding")}, seed=2)
    write_adapter(tmp_path / "peft", config, adapter, 2, 3.0, 0.1, str(tmp_path / "base"), "0" * 64, trained)
    got = logits_there(theirs(tmp_path / "base", tmp_path / "peft"))
    want = logits_here(config, params, PeftAdapter(adapter, trained, 2, 3.0, 0.1, None))
    assert_near(got, want)
    plain = logits_here(config, params, PeftAdapter({}, trained, 2, 3.0, 0.1, None))
    assert np.abs(plain - want).max() > 0.01 * np.abs(want).max()


def test_peft_opens_an_adapter_of_a_phi3_that_could_be_a_mistral(tmp_path: Path) -> None:
    (phi3,) = [family for family in FAMILIES if family.architecture == "Phi3ForCausalLM"]
    params = random_parameters(GPT(LLAMA))
    save_as(phi3, tmp_path / "base", LLAMA, params)
    adapter = random_like(lora.init_adapter(jax.random.key(0), shapes_of(LLAMA), 2), seed=1, scale=0.1)
    write_adapter(tmp_path / "peft", LLAMA, adapter, 2, 3.0, 0.1, str(tmp_path / "base"), "0" * 64, {})
    got = logits_there(theirs(tmp_path / "base", tmp_path / "peft"))
    assert_near(got, logits_here(LLAMA, params, PeftAdapter(adapter, {}, 2, 3.0, 0.1, None)))


THEIRS: dict[str, tuple[GPTConfig, dict[str, Any]]] = {
    "rslora": (LLAMA, {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": (
        LLAMA,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"down_proj": 4, "^model.layers.0.self_attn.q_proj": 1}, "alpha_pattern": {"v_proj": 7},
            "modules_to_save": ["lm_head", "input_layernorm"],
        },
    ),
    "tied": (
        TIED,
        {"target_modules": ["gate_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "fused by head": (GPT_NEOX, {"target_modules": ["query_key_value", "dense"]}),
    "fused, grouped": (CONFIGS["Phi3ForCausalLM"], {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "fused": (GPT2, {"target_modules": ["c_attn", "c_fc", "mlp.c_proj"], "modules_to_save": ["ln_1"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_adapters_of_peft_are_read(tmp_path: Path, name: str) -> None:
    config, options = THEIRS[name]
    saved_base(tmp_path / "base", config)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, lora_alpha=3, lora_dropout=0.1, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(theirs(tmp_path / "base"), settings).eval()
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part.copy_(0.3 * torch.randn(part.shape))
    model.save_pretrained(tmp_path / "peft")
    config, params = load_pretrained(tmp_path / "base")
    read = read_adapter(tmp_path / "peft", config)
    assert (read.rank, read.dropout, read.base_sha256) == (4 if name == "patterns" else 2, 0.1, None)
    assert_near(logits_here(config, params, read), logits_there(model))


def test_an_adapter_goes_there_and_back(tmp_path: Path) -> None:
    """PEFT loads ours and saves it again; we read what we wrote."""
    config = LLAMA
    params = saved_base(tmp_path / "base", config)
    adapter = random_like(lora.init_adapter(jax.random.key(0), shapes_of(config, "attention"), 2), seed=1)
    write_adapter(tmp_path / "peft", config, adapter, 2, 4.0, 0.0, str(tmp_path / "base"), "0" * 64, {})
    theirs(tmp_path / "base", tmp_path / "peft").save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["lora_alpha"] == 4
    read = read_adapter(tmp_path / "again", config)
    jax.tree.map(np.testing.assert_array_equal, read.adapter, adapter)
    assert np.isfinite(logits_here(config, params, read)).all()
