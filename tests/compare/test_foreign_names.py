"""Their names and ours: maps that are guessed, written and read, and how arrays are laid out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_traces import GPT2_LIKE, SUBJECTS, matched_arrays, numpy_arrays, random_params, write_trace
from pretrained_files import CONFIGS
from pretrained_files import random_params as families_params

from jaxllm import InputError
from jaxllm.compare.foreign.layouts import guess_names
from jaxllm.compare.foreign.matched import match
from jaxllm.compare.foreign.names import NameMap, Source, names_of, of_layer, read_map, take, to_toml
from jaxllm.compare.foreign.template import template
from jaxllm.compare.foreign.trace import read_trace
from jaxllm.compare.trees import named_leaves
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.families import FAMILIES, Family
from jaxllm.pretrained.parameter_map import tensor_placements, to_tensor

pytestmark = pytest.mark.newest


@pytest.mark.parametrize("title", SUBJECTS)
def test_a_layout_is_guessed(title: str, tmp_path: Path) -> None:
    """Every parameter is found again, exactly, and every intermediate that was recorded."""
    config, layout = SUBJECTS[title]
    recording = read_trace(write_trace(tmp_path / "trace.npz", numpy_arrays(config, layout)))
    guess = guess_names(config, recording)
    matched = match(config, recording, guess.names)
    assert guess.title == title and not matched.absent and not matched.left_over
    wanted = named_leaves(random_params(config))
    assert matched.by_path.keys() == wanted.keys()
    assert all(np.array_equal(x, wanted[path]) for path, x in matched.by_path.items())
    assert set(guess.names.outputs) == set(template(config).outputs)


@pytest.mark.parametrize(
    "family", [one for one in FAMILIES if "n_experts" not in one.settings], ids=lambda family: family.architecture
)
def test_the_parameters_of_each_family_are_found(family: Family, tmp_path: Path) -> None:
    """Under their own names and in their own layout, such as queries, keys and values head by head."""
    config = CONFIGS[family.architecture]
    params = named_leaves(families_params(config, np.float64))
    placed = tensor_placements(family.folder, config)
    tensors = {f"param/{name}": to_tensor(family.folder, config, one, params) for name, one in placed.items()}
    about = json.dumps({"classes": {"": family.architecture}})
    ids = {"tokens": np.zeros((1, 2), int), "targets": np.zeros((1, 2), int), "about": np.array(about)}
    recording = read_trace(write_trace(tmp_path / "trace.npz", tensors | ids))
    guess = guess_names(config, recording)
    matched = match(config, recording, guess.names)
    assert guess.title == f"{family.architecture} of transformers" and not matched.absent and not matched.left_over
    assert all(np.array_equal(x, params[path]) for path, x in matched.by_path.items()) and matched.by_path


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_a_wrapped_model(wrapper: str, tmp_path: Path) -> None:
    config, layout = SUBJECTS["nanoGPT"]
    arrays = {}
    for key, x in numpy_arrays(config, layout).items():
        kind, slash, name = key.partition("/")
        arrays[f"{kind}/{wrapper}{name}" if slash else key] = x
    matched = matched_arrays(config, arrays, tmp_path)
    assert not matched.left_over and matched.output("logits") is not None


def test_a_model_without_its_head(tmp_path: Path) -> None:
    """transformers' GPT2Model has the names without their first word; the logits are those of no module."""
    config, layout = SUBJECTS["GPT2LMHeadModel of transformers"]
    whole = numpy_arrays(config, layout)
    arrays = {key.replace("transformer.", ""): x for key, x in whole.items() if "lm_head" not in key}
    arrays["out/"] = whole["out/lm_head"]
    matched = matched_arrays(config, arrays, tmp_path)
    assert matched.outputs["logits"].from_ == "." and matched.outputs["position_embedding"].from_ == "drop"
    assert np.array_equal(matched.output("logits"), whole["out/lm_head"])


def test_what_only_one_side_has(tmp_path: Path) -> None:
    config, layout = SUBJECTS["GPT2LMHeadModel of transformers"]
    arrays = numpy_arrays(config, layout)
    del arrays["param/transformer.h.0.ln_1.bias"], arrays["param/transformer.h.1.ln_1.bias"]
    arrays["param/extra.weight"] = np.ones(3)
    matched = matched_arrays(config, arrays, tmp_path)
    assert matched.absent == ("block_0/norm_1/bias", "block_1/norm_1/bias")
    assert matched.left_over == ("extra.weight",)
    assert not matched.by_path["block_1/norm_1/bias"].any()


@pytest.mark.parametrize("title", SUBJECTS)
def test_a_map_is_written_and_read(title: str, tmp_path: Path) -> None:
    config, layout = SUBJECTS[title]
    recording = read_trace(write_trace(tmp_path / "trace.npz", numpy_arrays(config, layout)))
    guess = guess_names(config, recording)
    (tmp_path / "map.toml").write_text(to_toml(guess.names))
    names = read_map(tmp_path / "map.toml", parameter_shapes(config), template(config).outputs)
    assert names == guess.names and "add" not in to_toml(names)


B, T, D, H, K = 2, 3, 4, 2, 5
X = np.random.default_rng(0).normal(size=(D, 3, H, K))  # query, key and value of each head


@pytest.mark.parametrize(("source", "stored"), [
    (Source("a"), X[:, 1].reshape(D, H * K)),
    (Source("a", transpose=True), X[:, 1].reshape(D, H * K).T),
    (Source("a", transpose=True, part=(1, 3)), X.reshape(D, -1).T),
    (Source("a", columns=(H * K, 2 * H * K)), X.reshape(D, -1)),
    (Source("a", heads=H, part=(1, 3)), X.swapaxes(1, 2).reshape(D, -1)),
    (Source("a", heads=H, part=(1, 3), transpose=True), X.swapaxes(1, 2).reshape(D, -1).T),
    (Source("a", merge=True), X[:, 1]),
    (Source("a", merge=True, axes=(1, 0, 2)), X[:, 1].swapaxes(0, 1)),
    (Source("a", add=1.0), X[:, 1].reshape(D, H * K) - 1),
], ids=str)  # fmt: skip
def test_arrays_are_laid_out_as_ours(source: Source, stored: np.ndarray) -> None:
    got = take(source, {"a": stored})
    assert got is not None and np.allclose(got, X[:, 1].reshape(D, H * K), rtol=1e-15)


def test_heads_of_their_own_modules_are_joined() -> None:
    """As in nanoGPT's forerunner, where each head has its own maps; head 10 follows head 9."""
    heads = {f"blocks.3.heads.{h}.key.weight": np.full((K, D), float(h)) for h in range(11)}
    source = of_layer({"block_{i}/x": Source("blocks.{i}.heads.{h}.key.weight", transpose=True)}, 4)["block_3/x"]
    joined = take(source, dict(reversed(heads.items())))
    assert joined is not None and joined.shape == (D, 11 * K)
    assert np.array_equal(joined[0, ::K], np.arange(11.0)) and len(names_of(source, heads)) == 11


def test_a_line_for_one_block_counts_more() -> None:
    names = of_layer({"block_{i}": "h.{i}", "block_1": "other", "norm_final": ""}, 3)
    assert [names[f"block_{i}"].from_ for i in range(3)] == ["h.0", "other", "h.2"] and "norm_final" not in names


def test_a_gradient_is_laid_out_without_the_offset() -> None:
    assert np.array_equal(take(Source("a", add=1.0), {"a": np.zeros(3)}, add=False), np.zeros(3))


@pytest.mark.parametrize(("text", "message"), [
    ("[parameters", "is no map of names"),
    ("[names]\n", "is no map of names: Object contains unknown field `names`"),
    ('[parameters]\n"token_embedding/table" = 3\n', "is no map of names"),
    ('[parameters]\n"token_embedding/table" = { from = "a", transposed = true }\n', "unknown field `transposed`"),
    ('[parameters]\n"token_embedding/table" = { from = "a", part = [1] }\n', "is no map of names"),
    ('[parameters]\n"token_embeding/table" = "a"\n', "did you mean token_embedding/table"),
    ('[outputs]\n"block_0/atention" = "a"\n', "did you mean block_{i}/attention"),
    ('[parameters]\n"token_embedding/table" = "h.{j}"\n', "has {j} in 'h.{j}'; write {i} for a block, {h} for a head"),
    ('[parameters]\n"token_embedding/table" = "h.{i}"\n', "for 'token_embedding/table', which is in no block"),
])  # fmt: skip
def test_wrong_maps(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(InputError) as error:
        read_map(tmp_path / "map.toml", parameter_shapes(GPT2_LIKE), template(GPT2_LIKE).outputs)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("path", "source", "message"), [
    ("token_embedding/table", "transformer.wt.weight", "which PATH does not have; did you mean transformer.wte.weight"),
    ("token_embedding/table", None, "the map has nothing for token_embedding/table; add lines to it"),
    ("block_{i}/mlp/up/kernel", Source("transformer.h.{i}.mlp.c_fc.weight", transpose=True),
     "block_0/mlp/up/kernel is [12, 20], but 'transformer.h.0.mlp.c_fc.weight' gives [20, 12]"),
    ("block_{i}/mlp/up/kernel", Source("transformer.h.{i}.mlp.c_fc.weight", part=(0, 3)), "cannot be laid out so"),
    ("block_{i}/mlp/gate/kernel", "transformer.wte.weight", "the config has no such parameter; take the line out"),
])  # fmt: skip
def test_maps_that_do_not_fit(path: str, source: Any, message: str, tmp_path: Path) -> None:
    config, layout = SUBJECTS["GPT2LMHeadModel of transformers"]
    recording = read_trace(write_trace(tmp_path / "trace.npz", numpy_arrays(config, layout)))
    guess = guess_names(config, recording).names
    parameters = {**guess.parameters, path: source}
    names = NameMap({name: one for name, one in parameters.items() if one is not None}, guess.outputs)
    with pytest.raises(InputError) as error:
        match(config, recording, names)
    assert message.replace("PATH", recording.path) in str(error.value) and "\n" not in str(error.value)


def test_unknown_names_are_listed(tmp_path: Path) -> None:
    config, layout = SUBJECTS["nanoGPT"]
    arrays = {
        key.replace("transformer", "body").replace("wte", "emb"): x for key, x in numpy_arrays(config, layout).items()
    }
    recording = read_trace(write_trace(tmp_path / "trace.npz", arrays))
    with pytest.raises(InputError) as error:
        guess_names(config, recording)
    text = str(error.value)
    assert "GPT2LMHeadModel of transformers" in text and "nanoGPT" in text and "body.emb.weight [13, 12]" in text
    assert "--names map.toml" in text and "\n" not in text
