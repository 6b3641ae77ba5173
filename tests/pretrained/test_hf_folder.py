"""Folders with weights: shards, missing parts, and paths that are not a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrained_files import HEAD, LLAMA, TABLE, TIED, Tensors, assert_same, contents, refusal, saved

from jaxllm import load_pretrained
from jaxllm.pretrained.safetensors import write_tensors

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def test_all_that_does_not_fit_is_reported_at_once(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.norm.weight"] = np.zeros(7, np.float32)
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(16, np.float32)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)  # in old files; not a weight

    saved(tmp_path / "a", LLAMA, change)
    assert (
        "'model.layers.1.mlp.up_proj.weight' is missing, 'model.norm.weight' is [7], not [16], "
        "'model.layers.0.self_attn.q_proj.bias' is not known; download it again"
    ) in refusal(lambda: load_pretrained(tmp_path / "a"))
    saved(tmp_path / "b", LLAMA, lambda tensors: [tensors.pop(name) for name in [*tensors] if "layers.1." in name])
    message = refusal(lambda: load_pretrained(tmp_path / "b"))
    assert message.count("is missing") == 8 and "is missing and 1 more; download it again" in message


def test_foreign_names_are_shown_beside_those_that_are_missing(tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        foreign = {f"_orig_mod.{name}": x for name, x in tensors.items()}
        tensors.clear()
        tensors.update(foreign)

    saved(tmp_path, LLAMA, rename)
    message = refusal(lambda: load_pretrained(tmp_path))
    assert (message.count("is missing"), message.count("is not known")) == (4, 4)
    assert "'model.layers.0.input_layernorm.weight' is missing" in message
    assert "is missing and 17 more, '_orig_mod." in message
    assert message.endswith("is not known and 17 more; download it again, or use another model.")


def sharded(path: Path) -> dict[str, Any]:
    """A folder with its weights in two files and an index; returns its parameters."""
    params = saved(path, TIED)
    tensors = contents(path)
    (path / "model.safetensors").unlink()
    shards = {name: f"model-{1 + ('layers.1' in name)}.safetensors" for name in tensors}
    for shard in {*shards.values()}:
        write_tensors(path / shard, {name: x for name, x in tensors.items() if shards[name] == shard}, {})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return params


def test_shards(tmp_path: Path) -> None:
    folder, blob = tmp_path / "a", tmp_path / "blob.safetensors"
    params = sharded(folder)
    assert_same(load_pretrained(folder)[1], params)
    (folder / "model-2.safetensors").rename(blob)
    assert "lacks the shard 'model-2.safetensors' that" in refusal(lambda: load_pretrained(folder))
    (folder / "model-2.safetensors").symlink_to(blob)  # as in the hub's cache
    assert_same(load_pretrained(folder)[1], params)
    index = folder / "model.safetensors.index.json"
    right = json.loads(index.read_text())["weight_map"]
    for shard in ("../blob.safetensors", str(blob), "..", "", "a/../model-2.safetensors", "a\0.safetensors", "x.bin"):
        index.write_text(json.dumps({"weight_map": right | {HEAD: shard}}))
        assert "which is not a file of that folder" in refusal(lambda: load_pretrained(folder))
    index.write_text(json.dumps({"weight_map": right | {HEAD: "model-1.safetensors"}}))
    assert "assigns 1 tensors, among them 'lm_head.weight', to shards" in refusal(lambda: load_pretrained(folder))
    index.write_text(json.dumps({"weight_map": right | {TABLE: "model-2.safetensors"}}))
    assert f"assigns 1 tensors, among them '{TABLE}', to shards" in refusal(lambda: load_pretrained(folder))
    for content in ([], {}, {"weight_map": [1]}, {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(content))
        assert "has no weight_map from tensors to files" in refusal(lambda: load_pretrained(folder))


def test_what_is_no_model(tmp_path: Path) -> None:
    def refused(path: str | Path, words: str) -> None:
        assert words in refusal(lambda: load_pretrained(path))

    refused(tmp_path / "nowhere", "does not exist; give a Hugging Face folder or a GGUF file")
    refused("a\0b", "does not exist")
    refused(tmp_path, "has no config.json; give the folder of a Hugging Face model")
    (tmp_path / "a.gguf").touch()
    refused(tmp_path, "has no config.json; give the GGUF file in it")
    refused(tmp_path / "a.gguf", "is not a valid GGUF file")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config.json is not a config.json: it is not JSON")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "has neither model.safetensors nor model.safetensors.index.json; download it again")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "only in pytorch_model.bin, a pickle, which can run any code")
    write_tensors(tmp_path / "model.safetensors", {"a": np.zeros(2, np.int8)}, {})
    refused(tmp_path, "tensor 'a' of")
    refused(tmp_path / "model.safetensors", "holds only weights; give the folder with it and its config.json")


def test_one_part_of_the_weights_is_not_the_model(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        assert words in refusal(lambda: load_pretrained(path))

    sharded(tmp_path)
    part, index = tmp_path / "model-00002-of-00003.safetensors", tmp_path / "model.safetensors.index.json"
    (tmp_path / "model-2.safetensors").rename(part)
    whole = "give the folder with all of them, model.safetensors.index.json and config.json"
    refused(part, f"model-00002-of-00003.safetensors is part 2 of the 3 parts of a model's weights; {whole}")
    refused(index, "model.safetensors.index.json holds no weights; give the folder with it")
    refused(tmp_path / "config.json", "config.json holds no weights; give the folder with it")
    index.unlink()
    refused(
        tmp_path,
        "has 1 of the 3 parts of its weights, but no model.safetensors.index.json; download the missing files too",
    )
