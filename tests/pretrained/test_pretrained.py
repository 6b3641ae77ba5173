"""`load_pretrained` and `save_pretrained` of Hugging Face folders, and the commands `import` and `export`.

test_pretrained_peers.py compares the numbers with those of transformers.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from imported_runs import imported
from models import random_tokens
from pretrained_files import (
    CONFIGS,
    GPT2,
    HEAD,
    LLAMA,
    TABLE,
    TIED,
    Tensors,
    assert_same,
    contents,
    hugging_face,
    random_params,
    refusal,
    saved,
)

import jaxllm.reference as reference
from jaxllm import GPT, GPTConfig, load_pretrained, save_pretrained
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.families import FAMILIES
from jaxllm.pretrained.hf_config import family_for, numeric_fields
from jaxllm.pretrained.safetensors import read_header
from train.cli import main
from train.config import RunConfig, TrainConfig
from train.evaluate import evaluator
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

SAVED = {
    **CONFIGS,
    "GPT2LMHeadModel": replace(GPT2, activation="relu", tie_embeddings=False, dropout=0.1, separator=3),
    "LlamaForCausalLM": replace(LLAMA, rope_factor=8.0, rope_original_context=4, activation="geglu", d_head=6),
}


@pytest.mark.parametrize("architecture", SAVED)
def test_a_saved_model_is_loaded_again(architecture: str, tmp_path: Path) -> None:
    config, params = SAVED[architecture], random_params(SAVED[architecture])
    save_pretrained(tmp_path, config, params)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    assert read_header(tmp_path / "model.safetensors").metadata == {"format": "pt"}
    back, again = load_pretrained(tmp_path)
    assert numeric_fields(back) == numeric_fields(config)
    assert_same(again, params)
    assert all(x.flags.owndata and x.flags.c_contiguous for x in jax.tree.leaves(again))


def test_a_model_with_mup_is_saved_without(tmp_path: Path) -> None:
    """Its division of what the head reads is part of the final norm's parameters."""
    config, tokens = replace(GPT2, mup_base_width=2), random_tokens(GPT2)
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    back, again = load_pretrained(tmp_path)
    assert back.mup_base_width is None
    want = reference.gpt.forward(config, params, tokens)
    np.testing.assert_allclose(reference.gpt.forward(back, again, tokens), want, rtol=1e-12)
    assert np.abs(reference.gpt.forward(back, params, tokens) - want).max() > 1


def test_every_family_is_saved() -> None:
    assert set(SAVED) == {family.architecture for family in FAMILIES}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_types_are_kept_in_files_and_widened_out_of_them(dtype: Any, tmp_path: Path) -> None:
    save_pretrained(tmp_path, LLAMA, random_params(LLAMA, dtype))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == np.dtype(dtype).name
    assert {x.dtype for x in contents(tmp_path).values()} == {np.dtype(dtype)}
    assert_same(load_pretrained(tmp_path)[1], random_params(LLAMA), np.float64 if dtype is np.float64 else np.float32)


def test_interleaved_positions_are_saved_half_split(tmp_path: Path) -> None:
    """The NumPy reference gives the same logits in both orders, with normalised queries and keys too."""
    config = replace(LLAMA, position="rotary_interleaved", qk_norm=True)
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    back, again = load_pretrained(tmp_path)
    assert back.position == "rotary"
    tokens = random_tokens(config, 2)
    got, want = reference.gpt.forward(back, again, tokens), reference.gpt.forward(config, params, tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(GPT2, position="sinusoidal"), "GPT2LMHeadModel is nearest, but has no model.position = 'sinusoidal'"),
        (replace(GPT2, use_bias=False), "GPT2LMHeadModel is nearest, but has no model.use_bias = False"),
        (replace(GPT2, d_head=6), "has no model.d_head = 6"),
        (replace(GPT2, n_kv_heads=1), "has no model.n_kv_heads = 1"),
        (replace(GPT2, ngrams=4), "GPT2LMHeadModel is nearest, but has no model.ngrams = 4"),
        (replace(LLAMA, activation="squared_relu"), "has no model.activation = 'squared_relu'"),
        (replace(LLAMA, use_bias=True, norm="layer_norm"), "has no model.norm = 'layer_norm' and model.use_bias = True"),
        (replace(LLAMA, qk_norm=True, scale_embeddings=True), "Qwen3ForCausalLM is nearest, but has no model.scale_emb"),
        (replace(LLAMA, scale_embeddings=True), "LlamaForCausalLM is nearest, but has no model.scale_embeddings = True"),
        (replace(LLAMA, rotary_fraction=0.5, rope_factor=2.0), "LlamaForCausalLM is nearest, but has no model.rotary_fra"),
    ],
    ids=str,
)  # fmt: skip
def test_models_that_no_family_can_express(config: GPTConfig, words: str, tmp_path: Path) -> None:
    assert words in refusal(lambda: save_pretrained(tmp_path / "out", config, {}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (GPT2, {"d_model": 6}),  # heads of width 3, which rotary positions cannot rotate
        (GPT2, {"rope_low_frequency": 4.0}),
        (GPT2, {"ngram_rows": 5, "zero_init": True}),
        (GPT2, {"rope_low_frequency": 4.0, "rope_factor": 8.0}),
        (LLAMA, {"rope_low_frequency": 4.0}),  # without a factor there is no scaling
    ],
    ids=("odd heads", "low frequency", "initial values", "scaling", "Llama"),
)
def test_limits_of_unused_features_do_not_refuse_a_model(
    base: GPTConfig, change: dict[str, Any], tmp_path: Path
) -> None:
    config = replace(base, **change)
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    back, again = load_pretrained(tmp_path)
    assert numeric_fields(back) == numeric_fields(config)
    assert_same(again, params)


def test_a_model_without_a_family_has_a_nearest_one() -> None:
    config = replace(GPT2, d_model=6, norm="rms_norm", use_bias=False, activation="swiglu")
    words = "LlamaForCausalLM is nearest, but has no model.position = 'learned'"
    assert words in refusal(lambda: family_for(config))


def test_a_width_that_heads_do_not_divide_is_a_mistral() -> None:
    """transformers does not open a Llama of such a width."""
    config = replace(LLAMA, d_head=6)
    assert family_for(config).architecture == "LlamaForCausalLM"
    assert family_for(replace(config, d_model=18)).architecture == "MistralForCausalLM"


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    params = random_params(LLAMA)
    del params["block_1"]["mlp"]["up"]
    params["norm_final"]["bias"] = np.zeros(16, np.float32)
    words = "'block_1/mlp/up/kernel' is missing, 'norm_final/bias' is not known"
    assert words in refusal(lambda: save_pretrained(tmp_path / "out", LLAMA, params))
    whole = random_params(LLAMA, np.int8)
    assert "is of type int8, but weights are" in refusal(lambda: save_pretrained(tmp_path / "out", LLAMA, whole))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for place in ("full", "full/a"):
        assert "exists and is not an empty folder" in refusal(
            lambda at=place: save_pretrained(tmp_path / at, LLAMA, random_params(LLAMA))
        )


def test_gpt2_as_it_was_published(tmp_path: Path) -> None:
    """Names without the prefix "transformer.", and masks among the weights."""

    def change(tensors: Tensors) -> None:
        bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
        tensors.clear()
        tensors.update(bare | {f"h.{i}.attn.bias": np.ones((1, 1, 12, 12), np.float32) for i in range(2)})

    params = saved(tmp_path, GPT2, change)
    assert_same(load_pretrained(tmp_path)[1], params)


def test_a_tied_table_may_be_there_twice_or_as_the_head(tmp_path: Path) -> None:
    params = saved(tmp_path / "twice", TIED, lambda tensors: tensors.update({HEAD: tensors[TABLE]}))
    assert_same(load_pretrained(tmp_path / "twice")[1], params)
    params = saved(tmp_path / "head", TIED, lambda tensors: tensors.update({HEAD: tensors.pop(TABLE)}))
    assert_same(load_pretrained(tmp_path / "head")[1], params)
    saved(tmp_path / "differ", TIED, lambda tensors: tensors.update({HEAD: 2 * tensors[TABLE]}))
    words = "has a different lm_head.weight; if the head is right, set tie_word_embeddings to false"
    assert words in refusal(lambda: load_pretrained(tmp_path / "differ"))


def test_import_makes_a_run_and_export_the_folder_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(TIED, vocab_size=260)
    params = hugging_face(tmp_path / "folder", config)
    assert main(["import", str(tmp_path / "folder"), "--out", str(tmp_path / "runs" / "run")]) == 0
    assert "2 layers, context 12, 260 ids, with a chat template" in capsys.readouterr().out
    run = load_run(tmp_path / "runs" / "run")
    assert numeric_fields(run.model.config) == numeric_fields(config)
    assert_same(run.params, params)
    assert run.chat == ChatFormat(end_tokens=(257,), eos_token="</s>", chat_template="hi")
    assert run.tokenizer.encode("hi</s>", ["</s>"]) == [*b"hi", 257]
    assert main(["export", str(tmp_path / "runs" / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "parameters as LlamaForCausalLM" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "out", "runs"]
    assert_same(load_pretrained(tmp_path / "out")[1], params)
    for file in ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / file).read_text() == (tmp_path / "folder" / file).read_text()


def test_ids_that_no_text_uses_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported(tmp_path / "run", replace(GPT2, vocab_size=300, separator=256))
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "the model has 300 ids, its tokenizer uses 258 of them" in printed
    assert "transformers lets a text attend to documents before it; this model was trained without" in printed


def test_import_and_export_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hugging_face(tmp_path / "folder", replace(TIED, vocab_size=260))
    shutil.copytree(tmp_path / "folder", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    hugging_face(tmp_path / "small", replace(TIED, vocab_size=257))
    shutil.copytree(tmp_path / "folder", tmp_path / "large")
    settings = (tmp_path / "large" / "config.json").read_text()
    (tmp_path / "large" / "config.json").write_text(settings.replace('"vocab_size": 260', f'"vocab_size": {2**24}'))
    imported(tmp_path / "run", replace(GPT2, vocab_size=258, position="sinusoidal"))
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())

    def refused(*arguments: str, words: str) -> None:
        assert main([str(tmp_path / one) if one[0] != "-" and i else one for i, one in enumerate(arguments)]) == 2
        assert words in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before

    refused("import", "folder", "--out", "run", words="run is there already; choose another folder with --out")
    refused("import", "folder", "--out", "file", words="file is there already")
    refused("import", "folder", "--out", "file/run", words="cannot write into")
    refused("import", "bare", "--out", "new", words="has no tokenizer.json")
    refused("import", "bare", "--out", "no/new", words="has no tokenizer.json")
    refused("import", "small", "--out", "new", words="has 258 ids, but its model only 257; use the tokenizer")
    refused("import", "large", "--out", "new", words="does not fit its config: ")
    refused("import", "run", "--out", "new", words="has no config.json")
    refused("export", "run", "--out", "new", words="has no model.position = 'sinusoidal'")
    refused("export", "run", "--out", "folder", words="folder is there already")
    refused("export", "folder", "--out", "new", words="is no run folder")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"")
    refused("export", "run", "--out", "new", words="is not a valid safetensors file")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.commands.import_.write_weights", interrupt)
    assert main(["import", str(tmp_path / "folder"), "--out", str(tmp_path / "new")]) == 130
    assert sorted(tmp_path.iterdir()) == before


def test_a_short_text_is_no_reason_for_a_long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """An imported model may have a context of many thousands of tokens."""
    shapes = []

    def make_step(*_: Any) -> Any:
        return lambda params, *batch: shapes.append(batch[0].shape) or 0.0

    monkeypatch.setattr("train.evaluate.make_eval_step", make_step)
    evaluate = evaluator(GPT(GPT2), RunConfig(train=TrainConfig(batch_size=1)))
    evaluate({}, np.arange(5, dtype=np.int32))
    evaluate({}, np.arange(30, dtype=np.int32) % 13)
    assert shapes == [(1, 4), (1, 12), (1, 12), (1, 12)]
