"""`jaxllm describe`: the parameters, what updates each, and what training costs, from shapes alone."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from models import random_like

from jaxllm import GPT, GPTConfig
from jaxllm.flops import flops_per_token
from jaxllm.gpt import count_parameters, parameter_shapes
from jaxllm.pretrained.parameter_map import nested
from train.cli import main
from train.config import OptimizerConfig, TrainConfig
from train.memory_estimate import estimate
from train.optimizer import OPTIMIZERS, Rule, make_optimizer, rules

pytestmark = pytest.mark.newest

RUN = Path(__file__).parents[1] / "golden" / "run-v1"
SMALL = """
data.source = "not-there.txt"
model = {vocab_size = 19, context_length = 8, d_model = 8, n_layers = 3, n_heads = 2}
train = {steps = 10, batch_size = 4}
optimizer = {warmup_steps = 1, name = "muon"}
"""
MODEL = GPTConfig(vocab_size=19, context_length=8, d_model=8, n_layers=3, n_heads=2)
IDEAS = '''
import optax
from flax import linen as nn
from jaxllm.attention import MultiHeadAttention
from jaxllm.gpt import Block
from jaxllm.layers import Linear

class Grows(Block):
    """From the second block on there is one map more."""

    @nn.compact
    def __call__(self, x, before=None, documents=None):
        norm_1, attention, norm_2, mlp = self.parts(MultiHeadAttention)
        x = x + attention(norm_1(x), documents=documents) + mlp(norm_2(x))
        return x if before is None else x + Linear(x.shape[-1], name="more")(before), x

def descent(config, schedule):
    return optax.sgd(schedule)

def descent_twin(config, schedule): ...

def falling(config, steps):
    return lambda step: 0.1

falling_twin = falling
'''


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)
    Path("ideas.py").write_text(IDEAS)


def described(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], dict[str, Any]]:
    """The lines and the figures of a description."""
    assert main(["describe", *words, "--json", "figures.json"]) == 0
    return capsys.readouterr().out.splitlines(), json.loads(Path("figures.json").read_text())


def row(lines: list[str], name: str) -> str:
    """What follows the name in the only line that begins with it, in single spaces."""
    found = [" ".join(line.split()) for line in lines if line.strip().startswith(f"{name} ")]
    assert len(found) == 1, (name, lines)
    return found[0].removeprefix(f"{name} ")


def test_parameters_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """No text is read: its file is not there."""
    lines, content = described(capsys, "small.toml")
    assert {one["name"]: tuple(one["shape"]) for one in content["parameters"]} == dict(parameter_shapes(MODEL))
    assert content["n_parameters"] == sum(one["size"] for one in content["parameters"]) == count_parameters(MODEL)
    assert row(lines, "all") == f"{count_parameters(MODEL):,}"
    assert row(lines, "token_embedding/table") == "19 x 8 152 adamw 0.1"
    assert row(lines, "mlp/up/kernel") == "8 x 32 256 muon 0.1"  # once for three blocks
    assert row(lines, "mlp/up/bias") == "32 32 adamw 0"
    a_block = sum(one["size"] for one in content["parameters"] if one["name"].startswith("block_2/"))
    assert row(lines, "block_0 to block_2") == f"3 x {a_block}"
    names = [one["name"].partition("/")[0] for one in content["parameters"]]
    assert list(dict.fromkeys(names)) == [
        "token_embedding", "position_embedding", "block_0", "block_1", "block_2", "norm_final"
    ]  # fmt: skip
    each = flops_per_token(MODEL)
    assert (content["flops_per_token"], content["tokens_per_step"], content["flops"]) == (each, 32, each * 320)
    assert row(lines, "FLOPs:").startswith(f"{each:,} a token, ")
    assert row(lines, "tokens:") == "32 a step, 320 in 10 steps"
    need = estimate(MODEL, TrainConfig(steps=10, batch_size=4), OptimizerConfig(name="muon"))
    assert content["memory"] == need._asdict()
    assert content["functions"] == [] and content["vocabulary_known"] and len(lines) < 40


def test_the_width_scales_what_muon_does(capsys: pytest.CaptureFixture[str]) -> None:
    lines, content = described(capsys, "small.toml", "--set=model.mup_base_width=2")
    assert row(lines, "mlp/up/kernel") == "8 x 32 256 muon x 0.5 0.1"
    scales = {(one["optimizer"], one["direction_scale"]) for one in content["parameters"]}
    assert scales == {("muon", 0.5), ("adamw", 1.0)}


def test_rules_are_what_the_optimizers_do() -> None:
    """Without a gradient an update is the decay alone; with one, Muon's is AdamW's except where a rule says Muon."""
    shapes = {
        "block_0/mlp/kernel": (4, 3),
        "block_0/mlp/bias": (3,),
        "token_embedding/table": (5, 3),
        "head/kernel": (3, 5),
    }
    params = random_like(nested({path: jnp.zeros(shape) for path, shape in shapes.items()}))
    config = OptimizerConfig(schedule="constant", warmup_steps=0, learning_rate=0.5, weight_decay=0.1)
    configs: dict[str, OptimizerConfig] = {name: replace(config, name=name) for name in OPTIMIZERS}  # type: ignore[arg-type]

    @jax.jit
    def updates(gradients: Any) -> Any:
        optimizers = {name: make_optimizer(one, 10) for name, one in configs.items()}
        return {name: one.update(gradients, one.init(params), params)[0] for name, one in optimizers.items()}

    still, moved = updates(jax.tree.map(jnp.zeros_like, params)), updates(random_like(params, seed=1))
    for name, one in configs.items():
        own = jax.tree.map(lambda rule, p: -0.5 * rule.weight_decay * p, rules(one, params), params, is_leaf=is_rule)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), still[name], own)
    named = {name: flatten_dict(rules(one, params), sep="/") for name, one in configs.items()}
    assert {path: rule.weight_decay for path, rule in named["lion"].items()} == dict.fromkeys(shapes, 0.1) | {
        "block_0/mlp/bias": 0.0
    }
    assert all({rule.optimizer for rule in named[name].values()} == {name} for name in OPTIMIZERS if name != "muon")
    muon, adamw = (flatten_dict(moved[name], sep="/") for name in ("muon", "adamw"))
    differ = {path for path in shapes if not np.allclose(muon[path], adamw[path], rtol=1e-4)}
    assert (
        differ == {path for path, rule in named["muon"].items() if rule.optimizer == "muon"} == {"block_0/mlp/kernel"}
    )


def is_rule(x: Any) -> bool:
    return isinstance(x, Rule)


def test_functions_of_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks that differ have rows of their own, and the optimizer's function decides on the decay."""
    own = ["--set=model.block=ideas.py:Grows", "--set=optimizer.name=ideas.py:descent", "--code", "ideas.py"]
    own += ["--set=optimizer.schedule=ideas.py:falling"]
    lines, content = described(capsys, "small.toml", *own)
    names = {one["name"] for one in content["parameters"]}
    assert [f"block_{i}/more/kernel" in names for i in range(3)] == [False, True, True]
    assert row(lines, "block_0") and row(lines, "block_1 to block_2").startswith("2 x ")
    model = GPT(replace(MODEL, block=vars(sys.modules["jaxllm_ideas_ideas"])["Grows"]))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    assert content["n_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (content["flops_per_token"], content["flops"]) == (None, None)
    assert row(lines, "FLOPs:") == "-, because ideas.py:Grows computes something of its own"
    assert row(lines, "attention:") == "that of ideas.py:Grows"
    assert {(one["optimizer"], one["weight_decay"]) for one in content["parameters"]} == {(None, None)}
    assert row(lines, "norm_final/scale") == "8 8 - -"
    assert row(lines, "optimizer:").startswith("ideas.py:descent decides what updates each parameter, and its decay")
    found = {one["field"]: (one["twin"], one["twin_vjp"], len(one["sha256"])) for one in content["functions"]}
    assert found == {
        "model.block": (False, False, 64), "optimizer.name": (None, None, 64), "optimizer.schedule": (True, False, 64)
    }  # fmt: skip
    assert row(lines, "optimizer.name:").endswith("of which compare takes no twin")
    assert row(lines, "optimizer.schedule:").endswith("beside it a twin and no twin_vjp")


def test_a_run_and_a_vocabulary_that_depends_on_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines, content = described(capsys, str(RUN))
    assert lines[0].partition(": ")[2] == (
        "saved at step 4 of 4, char tokenizer; 1 block, 4 wide, 2 heads, context 6, vocabulary of 8"
    )
    assert content["vocabulary_known"] and content["tokens_per_step"] == 12
    lines, content = described(
        capsys, "small.toml", "--set=model.vocab_size=0", "--set=data.attend_across=false", "--set=train.seconds=60"
    )
    assert not content["vocabulary_known"]
    assert "vocabulary of 256 in place of the tokenizer's, which depends on the text" in lines[0]
    assert row(lines, "attention:") == "chunked, within documents"
    assert row(lines, "tokens:") == "32 a step, 320 in 10 steps, unless 60 s end the run earlier"


@pytest.mark.parametrize(("words", "message"), [
    ("nothing.toml", "cannot read the config nothing.toml"),
    (f"{RUN} --set train.steps=9", "would change the config that"),
    (".", "is no run folder: it has no config.toml"),
    ("small.toml --set model.block=ideas.py:Grows", "add --code with the path of your ideas.py"),
    ("small.toml --json small.toml", "--json small.toml: the name of the file must end in .json"),
])  # fmt: skip
def test_wrong_input_is_one_sentence(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("jaxllm describe: ")
