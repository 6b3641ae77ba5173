"""A user's functions by name: each example is trained, resumed, generated from and compared; and wrong ones."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from runs import TINY, assert_same_run_with, lines, write_config

from jaxllm import GPT, GPTConfig, InputError
from jaxllm.loss import takes_hidden, token_losses
from jaxllm.utils.ideas import Idea, named
from train.cli import main
from train.config import RunConfig
from train.config_file import to_toml
from train.ideas import load_code, resolve
from train.ideas_check import RECORDED, check_ideas
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

FOLDER = Path(__file__).parents[1] / "support" / "ideas"
EXAMPLES = {  # each with its fields, and whether `compare` has a twin for all of it
    "squared_relu": (["model.activation=squared_relu.py:squared_relu"], True),
    "alibi": (["model.score=alibi.py:alibi", "model.position=none"], True),
    "attention_cap": (["model.score=attention_cap.py:attention_cap"], True),
    "logit_cap": (["model.logits=logit_cap.py:logit_cap"], True),
    "z_loss": (["train.loss=z_loss.py:z_loss"], True),
    "value_residual": (["model.block=value_residual.py:ValueResidual", "model.n_layers=2"], True),
    "prefix": (["model.visible=prefix.py:visible", "train.loss=prefix.py:loss_behind"], True),
    "ema": (["optimizer.name=ema.py:with_average", "eval.weights=ema.py:averaged"], False),
    "layer_norms": (["train.metrics=layer_norms.py:layer_norms"], True),
    "optimizers": (["optimizer.name=optimizers.py:muon", "optimizer.schedule=optimizers.py:wsd"], False),
}
RESUMED = ("alibi", "value_residual", "prefix", "ema", "optimizers")  # the others change no state


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("ideas"))


def options(name: str, fields: list[str]) -> list[str]:
    return ["--code", str(FOLDER / f"{name}.py"), *(f"--set={field}" for field in fields)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_in_every_command(
    name: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, has_twins = EXAMPLES[name]
    code, run, whole = options(name, []), str(tmp_path / "run"), str(tmp_path / "whole")
    small = ["train.steps=4", "model.dropout=0", "eval.every=3", "eval.sample_tokens=1", "checkpoint.every=3"]
    assert main(["train", str(config), "--out", whole, *options(name, [*small, *fields])]) == 0
    if name in RESUMED:
        shutil.copytree(whole, run)
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")  # as if the run had been killed in its last step
        assert main(["train", "--out", run, "--resume", *code]) == 0
        assert_same_run_with(load_code(code[1]), Path(run), Path(whole))
        assert main(["generate", whole, "--prompt", "t", "--max-new-tokens", "1", *code]) == 0
        assert main(["evaluate", whole, *code]) == 0
    capsys.readouterr()
    assert main(["compare", whole, "--dtype", "float64", *code]) == 0
    out = capsys.readouterr().out
    assert ("held to nothing" in out) != has_twins, out


def test_an_example_is_short() -> None:
    """At most fifteen lines each, without imports, docstring and the twins."""
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)
    for path in FOLDER.glob("*.py"):
        own = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        size = sum((node.end_lineno or 0) - node.lineno + 1 for node in own if "_twin" not in node.name)
        assert size <= 15, path


def test_values_go_in_directly_in_python() -> None:
    """Without a file and without a registry; the same function is the same model."""

    def double(x: jax.Array) -> jax.Array:
        return x + x

    config = GPTConfig(vocab_size=7, context_length=4, n_layers=1, n_heads=1, d_model=4, activation=double)  # type: ignore[arg-type]
    again = GPTConfig(vocab_size=7, context_length=4, n_layers=1, n_heads=1, d_model=4, activation=double)  # type: ignore[arg-type]
    assert config == again and hash(config) == hash(again) and GPT(config) == GPT(again)
    tokens = jax.numpy.arange(4)[None]
    params = GPT(config).init(jax.random.key(0), tokens)["params"]
    zero = jax.tree.map(jax.numpy.zeros_like, params)
    assert GPT(config).apply({"params": zero}, tokens).shape == (1, 4, 7)
    assert jax.jit(lambda p: GPT(config).apply({"params": p}, tokens))(params).shape == (1, 4, 7)


def test_an_argument_with_a_default_makes_no_gate_and_no_loss_of_hidden_states() -> None:
    def swish(x: jax.Array, beta: float = 1.0) -> jax.Array:
        return x * jax.nn.sigmoid(beta * x)

    def gate(gate: jax.Array, up: jax.Array, beta: float = 1.0) -> jax.Array:
        return swish(gate, beta) * up

    functions = (swish, jax.nn.gelu, gate)
    assert [GPTConfig(activation=function).gated for function in functions] == [False, False, True]  # type: ignore[arg-type]

    def smooth(logits: jax.Array, targets: jax.Array, amount: float = 0.1) -> jax.Array:
        return (1 - amount) * token_losses(logits, targets)

    assert not takes_hidden(smooth) and takes_hidden(lambda hidden, table, targets, size=4: hidden)


def test_a_config_keeps_names() -> None:
    code = load_code(str(FOLDER / "squared_relu.py"))
    assert code is not None
    from train.config_file import build_config

    config = resolve(build_config({}, ["model.activation=squared_relu.py:squared_relu"]), code)
    assert isinstance(config.model.activation, Idea)
    assert 'activation = "squared_relu.py:squared_relu"' in to_toml(config)
    assert code.sha256 in to_toml(config)
    one, same, other = (Idea(jax.nn.relu, "a.py:f", digest) for digest in "112")
    assert one == same != other and hash(one) == hash(same) and one != Idea(jax.nn.relu, "a.py:g", "1")
    with pytest.raises(InputError, match=r"model.activation is 'a.py:f', a function in a file.*--code.*a\.py"):
        named("a.py:f", {}, "model.activation")
    with pytest.raises(InputError, match=r"one of 'gelu_tanh'.* or a function, \"FILE.py:FUNCTION\""):
        build_config({"model": {"activation": "gelu_tan"}})


def test_a_twin_is_found_by_the_name_that_a_config_says(tmp_path: Path) -> None:
    """Not by the name under which the function was defined, which several share."""
    (tmp_path / "made.py").write_text(
        "from functools import partial\n"
        "def make(n):\n    def score(x): return n * x\n    return score\n"
        "eight, eight_twin, score_twin = make(8), make(8), make(3)\n"
        "double = lambda x: 2 * x\n"
        "part, part_twin, double_twin = partial(max, 2), partial(max, 2), double\n"
    )
    code = load_code(str(tmp_path / "made.py"))
    assert code is not None
    for name, four in {"eight": 32, "double": 8, "part": 4}.items():
        twin = code.idea(f"made.py:{name}", "model.score").twin
        assert twin is not None and twin(4) == four
    assert code.idea("made.py:make", "model.score").twin is None
    assert Idea(plain).twin is plain_twin  # of a plain function in its module


def plain() -> None: ...
def plain_twin() -> None: ...


@pytest.fixture(scope="module")
def trained(config: Path) -> Iterator[Path]:
    run = config.parent / "trained"
    fields = ["train.steps=3", "train.seconds=1000", *EXAMPLES["squared_relu"][0]]
    assert main(["train", str(config), "--out", str(run), *options("squared_relu", fields)]) == 0
    yield run


def test_a_run_alone_never_runs_code(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy in the run folder and files of that name in the current folder are not run."""
    copy = trained / "code" / "squared_relu.py"
    assert copy.read_bytes() == (FOLDER / "squared_relu.py").read_bytes()
    before = copy.read_text()
    proof = tmp_path / "proof"
    hostile = f"open({str(proof)!r}, 'w').close()\n" + before
    copy.write_text(hostile)
    (tmp_path / "squared_relu.py").write_text(hostile)
    monkeypatch.chdir(tmp_path)
    try:
        for command in (
            ["generate", str(trained), "--prompt", "the"], ["evaluate", str(trained)], ["compare", str(trained)],
            ["train", "--out", str(trained), "--resume", "--set=train.steps=4"],
            ["attention", str(trained), "--prompt", "the", "--out", "a.png"],
            ["export", str(trained), "--out", "exported"],
        ):  # fmt: skip
            assert main(command) == 2
            assert "add --code with the path of your squared_relu.py" in capsys.readouterr().err
        assert main(["generate", str(trained), "--prompt", "the", *options("squared_relu", [])]) == 2
        assert "is not the file of this run: line 1 is" in capsys.readouterr().err
        assert not proof.exists()
    finally:
        copy.write_text(before)


def test_another_file_is_refused_by_its_first_different_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "squared_relu.py"
    other.write_text((FOLDER / "squared_relu.py").read_text().replace("jnp.maximum(x, 0)", "jnp.maximum(x, 1)"))
    assert main(["generate", str(trained), "--prompt", "the", "--code", str(other)]) == 2
    assert "line 8 is '    return jnp.square(jnp.maximum(x, 1))'" in capsys.readouterr().err


def test_an_export_that_cannot_carry_an_idea_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), "--out", str(tmp_path / "out"), *options("squared_relu", [])]) == 2
    assert "squared_relu.py:squared_relu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


WRONG = '''
import random, jax, jax.numpy as jnp
limit = 3
def sums(x): return x.sum(-1)
def two(x, y, z): return x
def whole(x): return jnp.ones(x.shape, int)
def impure(x): return x * random.random()
def spike(x): return jnp.sqrt(x * x)
def fails(x):
    return helper(x)
def helper(x):
    return x + undefined
def far(score, head, t, s): return score[..., :1]
def masked(t, s, document_t=None, document_s=None): return jnp.float32(s <= t)
def short(t, s, document_t, document_s): return jnp.ones(5, bool)
def moody(t, s, document_t, document_s): return (s <= t) & (random.random() < 2 * t)
def over_s(score, head, t, s): return score - jax.nn.logsumexp(score, -1, keepdims=True)
def over_heads(score, head, t, s): return score + score.mean(-3, keepdims=True)
def inf(score, head, t, s): return jnp.where(s <= t, score, -jnp.inf)
def softmax(logits): return jax.nn.log_softmax(logits)
def flat(positions, d_model): return jnp.arange(positions.size)[:, None] * jnp.ones(d_model)
def among(positions, d_model): return (positions - positions.min())[..., None] * jnp.ones(d_model)
def alone(config): return None
def mean(logits, targets): return logits.mean()
def lists(params, grads, updates): return {"a": grads["norm_final"]["scale"]}
def taken(params, grads, updates): return {"train_loss": 1.0 + 0 * grads["norm_final"]["scale"].sum()}
def timed(params, grads, updates): return {"train_s": 0 * grads["norm_final"]["scale"].sum()}
class Thin:
    pass
class Narrow(__import__("flax").linen.Module):
    config: object
    def __call__(self, x, documents=None): return x[..., :1]
'''  # fmt: skip
CASES = {
    "model.activation=w.py:missing": "missing is not in .*w.py; valid names are sums",
    "model.activation=w.py:limit": "limit is no function in",
    "model.activation=v.py:sums": "is 'v.py:sums', but --code is .*w.py; name the right file",
    "model.activation=w.py:sums": r"w.py:sums returns \[3\] for arguments of shapes \[3, 64\], but .* shape \[3, 64\]",
    "model.activation=w.py:two": "w.py:two cannot be called with 1 arguments: missing a required argument: 'y'",
    "model.activation=w.py:whole": "w.py:whole returns int32, but it must return an array as floating-point",
    "model.activation=w.py:impure": "w.py:impure is not pure: traced twice",
    "model.activation=w.py:spike": "the gradient of w.py:spike is not finite at ordinary numbers",
    "model.activation=w.py:fails": r"line 10, in fails: return helper\(x\)\n.*line 12, in helper: return x \+ und.*\nNameError: ",
    "model.score=w.py:far": r"w.py:far returns \[2, 2, 4, 1\].* it must return scores of shape \[2, 2, 4, 4\]",
    "model.visible=w.py:masked": r"w.py:masked returns float32 \[4, 4\], but it must return bool \[4, 4\]",
    "model.visible=w.py:short": r"w.py:short returns bool \[5\], but it must return bool \[4, 4\]",
    "model.visible=w.py:moody": "w.py:moody is not pure: traced twice",
    "model.score=w.py:over_s": "w.py:over_s is not elementwise: .* another along axis 3 of its argument",
    "model.score=w.py:over_heads": "w.py:over_heads is not elementwise: .* another along axis 1 of its argument",
    "model.score=w.py:inf": "the value of w.py:inf is not finite at .* model.visible",
    "model.logits=w.py:softmax": "w.py:softmax is not elementwise: .* another along axis 1 of its argument",
    "model.position=w.py:flat": r"w.py:flat returns \[8, 16\] for .* it must return vectors of shape \[2, 4, 16\]",
    "model.position=w.py:among": r"w.py:among gives other vectors for positions \[2, 4\] than for each row",
    "optimizer.name=w.py:alone": "w.py:alone cannot be called with 2 arguments: too many positional",
    "optimizer.schedule=w.py:alone": "w.py:alone cannot be called with 2 arguments: too many positional",
    "train.metrics=w.py:alone": "w.py:alone cannot be called with 3 arguments: too many positional",
    "eval.weights=w.py:two": "w.py:two cannot be called with 1 arguments: missing a required argument: 'y'",
    "train.metrics=w.py:timed": "w.py:timed returns 'train_s', which metrics.jsonl holds already",
    "train.loss=w.py:mean": r"w.py:mean returns \[\] for .* the loss of each token of shape \[2, 4\]",
    "train.metrics=w.py:lists": "w.py:lists must return a dict of single numbers",
    "train.metrics=w.py:taken": "w.py:taken returns 'train_loss', which metrics.jsonl holds already",
    "model.block=w.py:Thin": "w.py:Thin is no class of flax.linen.nn.Module",
    "model.block=w.py:Narrow": r"w.py:Narrow returns \[1, 4, 1\] for x of shape \[1, 4, 16\]",
    "train.steps=3": "no field of the config names a function of it",
}


@pytest.mark.parametrize("field", CASES)
def test_a_wrong_function_gets_its_sentence(
    field: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    (tmp_path / "w.py").write_text(WRONG)
    run = tmp_path / "run"
    assert main(["train", str(config), "--out", str(run), "--code", str(tmp_path / "w.py"), "--set", field]) == 2
    error = capsys.readouterr().err
    assert re.search(CASES[field], error), error
    assert "Traceback" not in error and "/jaxllm/" not in error.replace(str(tmp_path), "")
    assert not run.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("def f(:\n", "line 1, in the file: def f(:\nSyntaxError"), ("1 / 0\n", "line 1, in <module>: 1 / 0\nZeroDivision"),
     (None, "cannot be read: No such file")],
)  # fmt: skip
def test_a_file_that_cannot_be_run(
    text: str | None, said: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "w.py").write_text(text)
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--code", str(tmp_path / "w.py")]) == 2
    assert said in capsys.readouterr().err


def test_a_loss_of_hidden_states_is_the_loss_of_their_logits(config: Path) -> None:
    from jaxllm.gpt import summed_loss

    model = GPT(GPTConfig(vocab_size=7, context_length=4, n_layers=1, n_heads=1, d_model=4))
    tokens = jax.numpy.arange(4)[None]
    params = model.init(jax.random.key(0), tokens)["params"]

    def of_hidden(x: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        return 2 * token_losses(x @ table.T, targets)

    got = summed_loss(model, params, tokens, tokens, loss=of_hidden)
    assert float(got) == pytest.approx(2 * float(summed_loss(model, params, tokens, tokens)), rel=1e-6)


def test_the_names_that_metrics_may_not_take_are_those_recorded(trained: Path) -> None:
    assert {name for record in lines(trained) for name in record} <= set(RECORDED)
    assert RunConfig().train.metrics is None and TINY
    assert load_run(trained, code=load_code(str(FOLDER / "squared_relu.py"))).step == 3
    check_ideas(RunConfig(), GPTConfig())  # no function, nothing to check
