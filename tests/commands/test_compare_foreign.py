"""`jaxllm compare --against`: the recorder, the names, the table, what departs, and wrong input."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_traces import QWEN_LIKE, SUBJECTS, another_epsilon, numpy_arrays, random_params, write_trace

from jaxllm.compare.foreign import record
from jaxllm.pretrained.llama_families import LLAMA
from train.cli import main

pytestmark = pytest.mark.newest

TITLE = "GPT2LMHeadModel of transformers"
CONFIG = "[model]\nvocab_size = 13\ncontext_length = 8\nd_model = 12\nn_layers = 2\nn_heads = 2\nd_ff = 20\n"
QWEN = (
    "[model]\nvocab_size = 13\ncontext_length = 8\nd_model = 12\nn_layers = 8\nn_heads = 4\nn_kv_heads = 2\nd_head = 6\n"
    'd_ff = 20\nposition = "rotary"\nnorm = "rms_norm"\nactivation = "swiglu"\nuse_bias = false\n'
    "tie_embeddings = false\nqk_norm = true\n"
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a config and the recording of a model of those sizes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2.toml").write_text(CONFIG)
    write_trace(tmp_path / "trace.npz", numpy_arrays(*SUBJECTS[TITLE]))
    return tmp_path


def test_a_model_that_agrees(here: Path, capsys: Capture) -> None:
    assert main(["compare", "gpt2.toml", "--against", "trace.npz", "--json", "out.json", "--out", "error.png"]) == 0
    text = capsys.readouterr().out
    assert f"names as in {TITLE}" in text and "trace.npz, 2 x 6 tokens, float64" in text
    assert '"block_{i}/attention/key/kernel" = { from = "transformer.h.{i}.attn.c_attn.weight", part = [1, 3] }' in text
    assert "comparisons within tolerance" in text and "the optimizer step is left out" in text
    for stage in ("forward", "backward", "gradient", "replay", "replayed gradient"):
        assert f"\n{stage}\n" in text
    saved = json.loads((here / "out.json").read_text())
    assert saved["passed"] and saved["faults"] == [] and saved["names"] == TITLE and saved["against"] == "trace.npz"
    assert (here / "error.png").read_bytes()[:4] == b"\x89PNG"


def test_a_model_that_departs(here: Path, capsys: Capture) -> None:
    """Each fault has a line, and one that all blocks have alike has one for all of them."""
    command = ["compare", "gpt2.toml", "--against", "trace.npz", "--set", "model.norm_epsilon=1e-4"]
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "\nfirst departure from the tokens on: block_0/norm_1, " in text
    found = text.partition("each on its own recorded input:\n")[2].splitlines()
    assert {line.split()[0] for line in found} >= {"norm_final"} and len(found) >= 3
    assert main([*command, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [fault["name"] for fault in printed["faults"]] == [
        "block_0/norm_1", "block_0/norm_2", "block_1/norm_1", "block_1/norm_2", "norm_final",
    ]  # fmt: skip
    assert main([*command, "--dtype", "bfloat16"]) == 0  # whose tolerances hide it


def test_one_norm_of_keys_with_another_epsilon(here: Path, capsys: Capture) -> None:
    """It is the only module that is named, also where the heads read its result; the rest is said to agree."""
    config, params = replace(QWEN_LIKE, n_layers=8), random_params(replace(QWEN_LIKE, n_layers=8))
    attention = params["block_7"]["attention"]
    attention["key"]["kernel"] = attention["key"]["kernel"] / 15  # small keys, so that epsilon shows
    with another_epsilon(attention["key_norm"], 1e-6):
        arrays = numpy_arrays(config, LLAMA.folder, params=params)
    arrays |= {"about": np.array(json.dumps({"dtype": "float32", "classes": {"": "Qwen3ForCausalLM"}}))}
    write_trace(here / "qwen.npz", {k: x.astype(np.float32) if x.dtype == np.float64 else x for k, x in arrays.items()})
    (here / "qwen.toml").write_text(QWEN)
    assert main(["compare", "qwen.toml", "--against", "qwen.npz"]) == 1
    text = capsys.readouterr().out
    assert "names as in Qwen3ForCausalLM of transformers" in text
    fault, rest = text.partition("each on its own recorded input:\n")[2].splitlines()
    departs = r"  block_7/attention/key_norm departs by \d\.\de-03: fits epsilon = 1e-06 to \de-(09|10); ours is 1e-05"
    assert re.fullmatch(departs, fault)
    assert re.fullmatch(
        r"  all else agrees: 1\d\d modules and \d\d gradients of parameters; not judged apart from what they hold: "
        r"block_7/attention, block_7",
        rest,
    )


def test_a_fault_between_modules(here: Path, capsys: Capture) -> None:
    """Each module is right on what it reads, but the second block does not read what the first one makes."""
    arrays = numpy_arrays(*SUBJECTS[TITLE])
    arrays["param/transformer.h.0.ln_1.bias"] = arrays["param/transformer.h.0.ln_1.bias"] + 0.1
    write_trace(here / "other.npz", {k: x for k, x in arrays.items() if ".h.0" not in k or k.startswith("param/")})
    assert main(["compare", "gpt2.toml", "--against", "other.npz"]) == 1
    assert "gradients of parameters: what is wrong lies between them, or was not recorded\n" in capsys.readouterr().out


def test_names_are_written_and_corrected(here: Path, capsys: Capture) -> None:
    command = ["compare", "gpt2.toml", "--against", "trace.npz", "--names", "map.toml"]
    assert main(command) == 0
    assert "wrote the names to map.toml" in capsys.readouterr().out
    written = (here / "map.toml").read_text()
    assert tomllib.loads(written)["outputs"]["norm_final"] == "transformer.ln_f"
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "names as in map.toml" in text and "wrote" not in text and (here / "map.toml").read_text() == written
    (here / "map.toml").write_text(written.replace("h.{i}.ln_1", "h.{i}.ln_2"))
    assert main(command) == 1
    assert "ours has no place for transformer.h.0.ln_1.weight" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["block_{i}/norm_1", "block_{i}/mlp", "norm_final", "token_embedding"])
def test_a_line_that_names_another_module(name: str, here: Path, capsys: Capture) -> None:
    command = ["compare", "gpt2.toml", "--against", "trace.npz", "--names", "map.toml"]
    assert main(command) == 0
    lines = (here / "map.toml").read_text().partition("[outputs]\n")
    other = "transformer.h.{i}.mlp.c_fc" if "{i}" in name else "transformer.h.0.mlp.c_fc"
    changed = [f'"{name}" = "{other}"' if line.startswith(f'"{name}" ') else line for line in lines[2].splitlines()]
    (here / "map.toml").write_text(f"{lines[0]}{lines[1]}" + "\n".join(changed))
    capsys.readouterr()
    assert main(command) in (1, 2)
    said = capsys.readouterr()
    assert "the reference has shape" in said.out or f"[outputs] '{name.replace('{i}', '0')}'" in said.err


def test_names_that_nobody_knows_are_filled_in(here: Path, capsys: Capture) -> None:
    config, layout = SUBJECTS[TITLE]
    known = numpy_arrays(config, layout)
    write_trace(
        here / "own.npz", {key.replace("transformer", "body").replace("wte", "emb"): x for key, x in known.items()}
    )
    command = ["compare", "gpt2.toml", "--against", "own.npz"]
    assert main(command) == 2
    assert "--names map.toml" in capsys.readouterr().err
    assert main([*command, "--names", "map.toml"]) == 2
    assert "fill in theirs in map.toml" in capsys.readouterr().err
    empty = (here / "map.toml").read_text()
    assert "# body.emb.weight [13, 12]\n" in empty and '"block_{i}/norm_1/scale" = ""\n' in empty
    assert main([*command, "--names", "map.toml"]) == 2
    assert "the map has nothing for " in capsys.readouterr().err
    assert main(["compare", "gpt2.toml", "--against", "trace.npz", "--names", "guessed.toml"]) == 0
    guessed = (here / "guessed.toml").read_text()
    (here / "map.toml").write_text(guessed.replace("transformer", "body").replace("wte", "emb"))
    assert main([*command, "--names", "map.toml"]) == 0


def test_the_recorder_is_written(here: Path, capsys: Capture) -> None:
    assert main(["compare", "--write-recorder", "record.py"]) == 0
    assert (here / "record.py").read_bytes() == Path(record.__file__).read_bytes()
    assert "from record import record" in capsys.readouterr().out
    assert main(["compare", "--write-recorder", "record.py"]) == 2
    assert "--write-recorder record.py: it exists already; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--against", "trace.npz"], "--against compares with a model of ours; name a config or a run folder before it"),
    (["gpt2.toml", "--against", "absent.npz"], "cannot read absent.npz"),
    (["gpt2.toml", "--against", "gpt2.toml"], "gpt2.toml is neither an .npz nor a .safetensors file"),
    (["gpt2.toml", "--against", "trace.npz", "--length", "4"], "--length and --batch-size are those of the recording"),
    (["gpt2.toml", "--against", "trace.npz", "--batch-size", "2"], "--length and --batch-size are those of the recording"),
    (["gpt2.toml", "--against", "trace.npz", "--set", "model.n_layers=1"], "of block 1, but model.n_layers is 1: blocks 0 to 0"),
    (["gpt2.toml", "--against", "trace.npz", "--set", "model.n_experts=2", "--set", "model.activation=swiglu", "--set", "model.use_bias=false"], "recordings of mixtures of experts"),
    (["gpt2.toml", "other", "--against", "trace.npz"], "--against compares one model of ours, but other is a second"),
    (["gpt2.toml", "--against", "trace.npz", "--tolerance", "0.1"], "--tolerance is 0.1, but --against takes those of"),
    (["gpt2.toml", "--against", "trace.npz", "--step", "3"], "--step is '3', but only a run folder has steps"),
    (["gpt2.toml", "--against", "trace.npz", "--names", "map.json"], "the name of the file must end in .toml"),
    (["gpt2.toml", "--names", "map.toml"], "--names is for --against; name the recording too"),
    (["gpt2.toml", "--against", "trace.npz", "--set", "model.d_ff=24"],
     "block_0/mlp/up/kernel is [12, 24], but 'transformer.h.0.mlp.c_fc.weight' gives [12, 20]"),
    (["gpt2.toml", "--against", "trace.npz", "--set", "model.vocab_size=12"], "token_embedding/table is [12, 12], but"),
    (["--write-recorder", "record.txt"], "the name of the file must end in .py"),
    (["--write-recorder", "absent/record.py"], "there is no folder absent"),
])  # fmt: skip
def test_wrong_input(arguments: list[str], message: str, here: Path, capsys: Capture) -> None:
    before = sorted(here.iterdir())
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_a_run_has_its_own_parameters(here: Path, capsys: Capture) -> None:
    """Those of a run that was trained from other weights are not theirs."""
    (here / "text.txt").write_text("abcdefghijklm" * 40)
    run = (
        '[data]\nsource = "text.txt"\n'
        + CONFIG.replace("vocab_size = 13\n", "")
        + ("[train]\nsteps = 2\nbatch_size = 2\n[optimizer]\nwarmup_steps = 1\n")
    )
    (here / "run.toml").write_text(run)
    assert main(["train", "run.toml"]) == 0
    capsys.readouterr()
    assert main(["compare", "runs/run", "--against", "trace.npz", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    failed = {row["stage"] for row in printed["rows"] if row["passed"] is False}
    assert failed == {"parameters"} and np.isfinite(printed["rows"][0]["relative"])
    assert main(["compare", "runs/run", "--against", "trace.npz", "--set", "model.d_ff=8"]) == 2
    assert "--set model.d_ff=8 is for a config, but runs/run is a run folder" in capsys.readouterr().err
