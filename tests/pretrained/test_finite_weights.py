"""Weights that hold NaN or infinity: loading and saving refuse them, every command that computes reports them."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from gguf_files import both, write_gguf
from imported_runs import CONFIG, imported
from pretrained_files import GPT2, LLAMA, Tensors, contents, hugging_face, random_params, refusal, saved
from runs import write_config

from jaxllm import GPT, GPTConfig, InputError, load_pretrained, save_pretrained
from jaxllm.compare import random_parameters
from jaxllm.fast.generate import start_generation
from jaxllm.generate import Sampling, generate
from jaxllm.pretrained.parameter_map import nested
from jaxllm.pretrained.safetensors import write_tensors
from jaxllm.utils.errors import NonFiniteError
from train.cli import main
from train.config_file import as_dict
from train.runs.checkpoint import Checkpoints
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run
from train.state import abstract_state

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

VALUES = [np.nan, np.inf, -np.inf]
UP = "model.layers.1.mlp.up_proj.weight"
LEARNED = replace(CONFIG, position="learned", tie_embeddings=False)


def poisoned(params: Any, path: str, value: float, at: Any = (0, 0)) -> Any:
    """The parameters with one number changed."""
    flat = {name: np.array(x) for name, x in flatten_dict(params, sep="/").items()}
    flat[path][at] = value
    return nested(flat)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_first_tensor_is_named_and_refused(value: float, dtype: Any, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        for name, x in tensors.items():
            tensors[name] = x.astype(dtype)
        tensors[UP][1, 2] = value
        tensors["lm_head.weight"][0, 0] = value

    saved(tmp_path, LLAMA, change)
    message = (
        f"{tmp_path} holds NaN or an infinite number in the tensor '{UP}'; download it again, or use another model."
    )
    assert refusal(lambda: load_pretrained(tmp_path)) == message


def test_what_float32_cannot_hold_is_no_finite_weight(tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)

    def hold(value: float) -> None:
        def change(tensors: Tensors) -> None:
            tensors[UP] = tensors[UP].astype(np.float64)
            tensors[UP][0, 0] = value

        saved(tmp_path / str(value), LLAMA, change)

    hold(-largest)
    assert load_pretrained(tmp_path / str(-largest))[1]["block_1"]["mlp"]["up"]["kernel"].min() == -largest
    hold(1e39)
    assert f"in the tensor '{UP}'" in refusal(lambda: load_pretrained(tmp_path / "1e+39"))


def test_import_refuses_them_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hugging_face(tmp_path / "folder", replace(LLAMA, vocab_size=260))
    tensors = contents(tmp_path / "folder")
    tensors[UP][3, 3] = np.nan
    write_tensors(tmp_path / "folder" / "model.safetensors", tensors, {})
    assert main(["import", str(tmp_path / "folder"), "--out", str(tmp_path / "run")]) == 2
    assert f"holds NaN or an infinite number in the tensor '{UP}'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_gguf_file_with_them_is_refused(tmp_path: Path) -> None:
    _, keys, tensors = both(tmp_path, GPT2, "gpt2")
    tensors["blk.1.ffn_down.weight"][0, 0] = -np.inf
    path = write_gguf(tmp_path / "x.gguf", "gpt2", keys, tensors)
    assert "in the tensor 'blk.1.ffn_down.weight'" in refusal(lambda: load_pretrained(path))


@pytest.mark.parametrize("value", VALUES)
def test_saving_refuses_them(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = poisoned(random_params(LLAMA), "block_1/mlp/up/kernel", value)
    message = (
        "params holds NaN or an infinite number in 'block_1/mlp/up/kernel'; train it again, or use another checkpoint."
    )
    assert refusal(lambda: save_pretrained(tmp_path / "out", LLAMA, params)) == message
    assert not (tmp_path / "out").exists()


COMMANDS = [
    "generate {run} --prompt ab --max-new-tokens 4",
    "generate {run} --prompt ab --max-new-tokens 4 --temperature 0 --weights bfloat16",
    "generate {run} --prompt ab --max-new-tokens 4 --weights int8",
    "generate {run} --prompt ab --max-new-tokens 4 --repetition-penalty 1.5 --top-k 3",
    "generate {run} --prompt ab --chat --max-new-tokens 4",
    "chat {run}",
    "evaluate {run} --data {text}",
    "evaluate {run} --data {text} --weights bfloat16",
    "evaluate {run} --data {text} --weights int8",
    "inspect {run} --prompt ab",
    "attention {run} --prompt ab --out {picture}",
]


@pytest.mark.parametrize(
    ("path", "value"),
    [("block_0/mlp/up/kernel", np.nan), ("block_0/attention/query/kernel", np.inf), ("head/kernel", -np.nan)],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_computes_reports_them(
    command: str, path: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run, text, picture = imported(tmp_path / "run", LEARNED), tmp_path / "text.txt", tmp_path / "map.png"
    write_weights(RunFolder(run).weights, poisoned(load_run(run).params, path, value))
    text.write_text("abc abc abc")
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\n"))
    assert main(command.format(run=run, text=text, picture=picture).split()) == 1
    captured = capsys.readouterr()
    assert captured.err.endswith(f"{run} computes non-finite numbers: its parameter {path} holds NaN or infinity; import the model again, or use another checkpoint.\n")  # fmt: skip
    assert captured.err.count("\n") == 1 and "nan" not in captured.out and not picture.exists()


def test_overflow_in_a_computation_is_reported_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported(tmp_path / "run", LEARNED)
    params = poisoned(load_run(run).params, "head/kernel", 3e38, slice(None))
    write_weights(RunFolder(run).weights, params)
    assert main(["inspect", str(run), "--prompt", "ab"]) == 1
    assert "its parameters are finite, but numbers computed from them are not" in capsys.readouterr().err


def test_they_are_reported_when_they_are_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first tokens are right, because only the sixth position is damaged."""
    run = imported(tmp_path / "run", LEARNED)
    words = ["generate", str(run), "--prompt", "ab", "--seed", "3", "--max-new-tokens"]
    write_weights(RunFolder(run).weights, poisoned(load_run(run).params, "position_embedding/table", np.nan, 5))
    assert main([*words, "3"]) == 0
    three = capsys.readouterr().out.removesuffix("\n")
    assert main([*words, "9"]) == 1
    captured = capsys.readouterr()
    assert (
        captured.out[:2] == "ab"
        and three.startswith(captured.out.removesuffix("\n"))
        and "its parameter position_embedding/table holds NaN" in captured.err
    )


def test_the_checkpoints_of_a_run_are_no_exception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", str(write_config(tmp_path)), "--out", str(run)]) == 0
    folder, trained = RunFolder(run), load_run(run)
    with Checkpoints(folder.checkpoints, keep=9) as checkpoints:
        state = checkpoints.restore(abstract_state(trained.model, trained.config), 12)
        params = poisoned(state.params, "block_0/mlp/down/kernel", np.nan)
        state = state._replace(step=jnp.asarray(13, jnp.int32), params=jax.tree.map(jnp.asarray, params))
        checkpoints.save(state, as_dict(trained.config), trained.tokenizer.fingerprint(), None)
    capsys.readouterr()
    for command in (["generate", "--prompt", "a", "--max-new-tokens", "3"], ["evaluate"], ["inspect", "--prompt", "a"]):
        assert main([command[0], str(run), *command[1:], "--step", "12"]) == 0
        assert main([command[0], str(run), *command[1:], "--step", "13"]) == 1
        assert "its parameter block_0/mlp/down/kernel holds NaN" in capsys.readouterr().err
    assert main(["compare", str(run), "--step", "13", "--json", str(tmp_path / "x.json")]) == 1
    assert "nothing but NaN in both" in capsys.readouterr().out


class Masked(GPT):
    """A GPT that never generates the id 0."""

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return super().__call__(tokens).at[..., 0].set(-jnp.inf)


def never_writes_0(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """What `Masked` does, as an interceptor."""
    out = call(*args, **kwargs)
    return (out[0].at[..., 0].set(-jnp.inf), out[1]) if isinstance(context.module, GPT) else out


def test_a_logit_of_minus_infinity_is_a_token_that_is_never_drawn() -> None:
    params, key = random_parameters(GPT(CONFIG)), jax.random.key(0)
    with pytest.raises(InputError, match="Masked has a __call__ of its own, .*intercept_methods"):
        start_generation(Masked(CONFIG), params, [[1, 2]], key, 12)
    for sampling in (Sampling(), Sampling(0.0)):
        with nn.intercept_methods(never_writes_0):
            drawn = generate(GPT(CONFIG), params, [[1, 2]], key, 3, sampling)
        assert generate(Masked(CONFIG), params, [[1, 2]], key, 3, sampling).tolist() == drawn.tolist()
        assert (drawn > 0).all()
        with pytest.raises(NonFiniteError, match="the model computes non-finite logits"):
            generate(GPT(CONFIG), poisoned(params, "norm_final/scale", np.inf, 0), [[1, 2]], key, 3, sampling)


def test_what_a_row_computes_behind_its_end_does_not_count() -> None:
    config: GPTConfig = replace(LEARNED, context_length=16)
    params, key = random_parameters(GPT(config)), jax.random.key(0)
    first = generate(GPT(config), params, [[1, 2], [3]], key, 1, Sampling(0.0))
    end = int(first[0, 0])
    assert end != int(first[1, 0])
    damaged = poisoned(params, "token_embedding/table", np.nan, end)
    tokens = generate(GPT(config), damaged, [[1, 2], [3]], key, 2, Sampling(0.0), stop_tokens=[end])
    assert tokens[0].tolist() == [end, end]
