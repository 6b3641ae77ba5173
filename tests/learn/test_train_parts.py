"""The parts of `jaxllm learn train` one by one, without a training."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from courses import course, rewrite
from flax import linen as nn

from jaxllm import GPT
from jaxllm.utils.errors import InputError
from train.cli import main
from train.commands import learn_training
from train.config import EvalConfig, OptimizerConfig
from train.errors import UserCodeError
from train.learn.course import file_name
from train.learn.folder import LearnFolder
from train.learn.training import chosen, pace, tie
from train.learn.training.bridge import Bridge
from train.learn.training.callbacks import Called, JaxArrays, NumpyArrays, Watch
from train.learn.training.chosen import Chosen, choose
from train.learn.training.loading import check_unchanged, digest_of, load
from train.learn.training.optimizer import CalledUpdate, optimizer_of
from train.learn.training.parts import Parts
from train.learn.training.training import config_of, whose
from train.learn.training.trials import RATIO, SMALL, trial
from train.learn.training.writing import LearnedChars, draw_pairs, write_text
from train.optimizer import adamw

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]


def bridge_of(folder: Path, *pieces: str) -> Bridge:
    opened = LearnFolder.open(folder)
    return Bridge(folder, {name: digest_of(opened, name) for name in pieces})


def test_our_parts_are_the_model_and_call_theirs() -> None:
    params, tokens, n_heads = trial("gpt", SMALL)
    want = GPT(SMALL).apply({"params": params}, tokens)
    np.testing.assert_allclose(Parts({}).gpt(params, tokens, n_heads), want, rtol=1e-5, atol=1e-5)
    times: list[str] = []

    def counted(name: str) -> Any:
        return lambda *given: times.append(name) or getattr(Parts({}), name)(*given)

    names = ("linear", "causal_attention", "layer_norm", "token_embedding", "add_learned_positions")
    Parts({name: counted(name) for name in names}).gpt(params, tokens, n_heads)
    assert [times.count(name) for name in names] == [12, 2, 5, 1, 1]


def test_a_trial_does_not_fill_the_context_and_hides_later_positions() -> None:
    _, tokens, _ = trial("gpt", SMALL)
    assert tokens.shape == (2, SMALL.context_length - 1)
    *_, mask = trial("scaled_dot_product_attention", SMALL)
    assert mask.shape == (5, 5) and not mask[0, 1] and mask[1, 0]


def times_squares(x: Any, params: Any, n: int) -> Any:
    return n * x * params["w"] ** 2


def called(function: Any, arrays: NumpyArrays | None = None) -> Called:
    def vjp(x: Any, params: Any, n: int) -> Any:
        return None, lambda d: (d * n * params["w"] ** 2, {"w": 2 * d * n * x * params["w"]})

    return Called("squares", function, times_squares, arrays or NumpyArrays(), Watch(Path()), vjp)


ZERO = "def token_embedding(table, tokens):\n    return 0 * table[tokens]\n\n\n"
X, PARAMS = jnp.arange(3.0), {"w": jnp.array([1.0, -2.0, 0.5])}


def test_a_function_that_is_called_back_has_its_value_and_gradients() -> None:
    seen = []

    def function(x: Any, params: Any, n: int) -> Any:
        seen.append((type(x), x.dtype, n))
        return times_squares(x, params, n)

    def total(function: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda x, params: (function(x, params, 3) ** 2).sum(), (0, 1)))(X, PARAMS)

    jax.tree.map(np.testing.assert_allclose, total(called(function)), total(times_squares))
    assert set(seen) == {(np.ndarray, np.dtype(np.float64), 3)}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x, params, n: x[0], r"your squares: squares returned shape \(\), but it must return \(3,\)"),
        (lambda x, params, n: x * np.nan, "your squares: squares returned a non-finite number"),
    ],
)
def test_what_a_function_does_wrong_is_kept_and_its_result_is_nan(function: Any, says: str) -> None:
    one = called(function)
    assert np.isnan(jax.jit(lambda x: one(x, PARAMS, 3))(X)).all()
    with pytest.raises(InputError, match=says):
        one.watch.check()


def test_the_first_error_is_kept() -> None:
    watch = Watch(Path())
    watch.failed("mlp", ValueError("first"))
    watch.failed("gpt", ValueError("second"))
    with pytest.raises(InputError, match="your mlp: first"):
        watch.check()


def test_their_update_is_ours_and_decays_matrices_only(tmp_path: Path) -> None:
    bridge = bridge_of(course(tmp_path / "course", "library"), "training_step")
    config = replace(OptimizerConfig(), weight_decay=0.5)
    params = {"a": jnp.ones((2, 3)), "b": {"c": jnp.ones(3)}}
    gradients = jax.tree.map(lambda x: x * jnp.linspace(1, 2, 3), params)
    ours = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw(config, lambda step: 0.1))
    states = [one.init(params) for one in (bridge.adamw(config, lambda step: 0.1), ours)]
    for _ in range(2):
        (theirs, states[0]), (want, states[1]) = (
            one.update(gradients, state, params)
            for one, state in zip((bridge.adamw(config, lambda step: 0.1), ours), states, strict=True)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), theirs, want)


def test_an_update_of_the_wrong_shape_is_named() -> None:
    watch = Watch(Path())
    update = CalledUpdate(lambda gradients, limit: gradients, lambda p, *rest, **more: (p[0], *rest[1:]), NumpyArrays(), watch)  # fmt: skip
    optimizer, params = optimizer_of(update)(OptimizerConfig(), lambda step: 0.1), {"w": jnp.ones((2, 3))}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert np.isnan(updates["w"]).all()
    with pytest.raises(InputError, match=r"adamw_update returned shape \(3,\), but it must return \(2, 3\)"):
        watch.check()


@pytest.mark.parametrize(
    ("pieces", "fields"),
    [
        (("linear_map",), {"model": {"block": "learned.py:Block"}}),
        (("layer_norm",), {"model": {"block": "learned.py:Block", "norm": "learned.py:layer_norm"}}),
        (("token_embedding", "gpt"), {}),
        (
            ("cross_entropy", "training_step"),
            {"train": {"loss": "learned.py:losses"}, "optimizer": {"name": "learned.py:adamw"}},
        ),
    ],
)
def test_a_config_names_what_is_used(pieces: tuple[str, ...], fields: Any, tmp_path: Path) -> None:
    assert bridge_of(course(tmp_path / "course", "jax"), *pieces).fields == fields


def test_an_embedding_of_theirs_is_put_in_the_place_of_ours(tmp_path: Path) -> None:
    folder, (params, tokens, n_heads) = course(tmp_path / "course", "jax"), trial("gpt", SMALL)
    rewrite(folder, "token_embedding", "def token_embedding", f"{ZERO}def other")
    with nn.intercept_methods(bridge_of(folder, "token_embedding").intercept):
        got = GPT(SMALL).apply({"params": params}, tokens)
    want = Parts({"token_embedding": lambda table, ids: 0 * table[ids]}).gpt(params, tokens, n_heads)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_model_of_theirs_is_put_in_the_place_of_ours(tmp_path: Path) -> None:
    folder, (params, tokens, _) = course(tmp_path / "course", "jax"), trial("gpt", SMALL)
    rewrite(
        folder, "gpt", "def gpt", "def gpt(params, tokens, n_heads):\n    return 1.0 * tokens + n_heads\n\n\ndef other"
    )
    with nn.intercept_methods(bridge_of(folder, "gpt").intercept):
        np.testing.assert_array_equal(GPT(SMALL).apply({"params": params}, tokens), tokens + 2)


def test_the_largest_pieces_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LearnFolder.open(course(tmp_path / "course", "library"))
    monkeypatch.setattr(chosen, "why_not_in_model", lambda folder, name, digest: "slow" if name == "block" else "")
    names = ("block", "mlp", "linear_map", "multi_head_attention", "causal_attention", "layer_norm")
    found = choose(folder, dict.fromkeys(names, "") | {"layer_norm": "wrong", "simple_attention": ""})
    assert list(found.used) == ["mlp", "multi_head_attention"]
    assert found.why_not == {"block": "slow", "layer_norm": "wrong"}
    found = choose(folder, dict.fromkeys(names, "") | {"mlp": "wrong"})
    assert list(found.used) == ["layer_norm", "multi_head_attention", "linear_map"]


def test_a_piece_without_the_gradient_does_not_agree() -> None:
    given, ours = trial("layer_norm", SMALL), Parts({}).layer_norm
    assert chosen._agree(ours, ours, given)
    assert not chosen._agree(lambda *given: jax.lax.stop_gradient(ours(*given)), ours, given)


def test_a_change_of_what_a_piece_imports_is_a_change(tmp_path: Path) -> None:
    folder = LearnFolder.open(course(tmp_path / "course", "library"))
    digests = {name: digest_of(folder, name) for name in ("block", "cross_entropy")}
    check_unchanged(folder, digests, "then")
    rewrite(folder.path, "mlp", "def mlp", "# a change\ndef mlp")
    with pytest.raises(InputError, match=r"p15_block\.py, or a piece that it imports, has changed since then"):
        check_unchanged(folder, digests, "then")


def test_pieces_are_those_of_the_last_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = course(tmp_path / name, "library")
        rewrite(folder, "mlp", "def mlp", f"whose = '{name}'\n\n\ndef mlp")
        load(LearnFolder.open(folder), ["block"])
        assert sys.modules["p14_mlp"].whose == name
    (folder / file_name("mlp")).write_text("mlp = gelu = 1\n")
    with pytest.raises(InputError, match="has no function gelu; write it as it was"):
        load(LearnFolder.open(folder), ["mlp"])


def test_a_call_is_measured_in_a_smaller_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = bridge_of(course(tmp_path / "course", "library"), "mlp")
    monkeypatch.setattr(pace, "_shortest", lambda call: call() is None or 0.01)
    assert pace.too_slow(bridge, "mlp") == ""
    monkeypatch.setattr(pace, "_shortest", lambda call: call() is None or 1.0)
    assert pace.too_slow(bridge, "mlp") == f"right, but a call in this training would take about {RATIO:.0f} s"


def test_only_what_was_written_here_is_overwritten(tmp_path: Path) -> None:
    for pieces in ({}, {"mlp": "1"}, {"mlp": "2", "gpt": "3"}):
        path = tie.write(tmp_path, pieces)
        assert path.read_text() == tie.text(pieces)
    path.write_text(path.read_text() + "\nmine = 1\n")
    with pytest.raises(InputError, match="is not as `jaxllm learn train` writes it, and would be lost"):
        tie.write(tmp_path, {})


def test_a_config_is_theirs_where_their_pieces_decide() -> None:
    bridge: Any = SimpleNamespace(fields={"train": {"loss": "learned.py:losses"}}, language="numpy")
    for given in ("train.loss=x", "model.position=rotary"):
        with pytest.raises(InputError, match=f"--set {given.partition('=')[0]} cannot be given here"):
            config_of(bridge, [given])


def test_a_whole_model_hides_its_parts() -> None:
    used, why = {"gpt": "", "block": "", "char_tokenizer": ""}, {"layer_norm": "wrong", "word_tokenizer": "missing"}
    assert whose(Chosen(used, why), "numpy", "char") == [
        "yours: char_tokenizer, gpt (the whole model)",
        "ours: no piece",
        "NumPy has no gradients: the backward of your functions is that of the reference",
    ]


def test_a_batch_is_made_by_their_pairs_row_by_row() -> None:
    seen = []

    def pairs(ids: Any, length: int, stride: int) -> Any:
        seen.append((len(ids), length, stride))
        return ids[None, :-1], ids[None, 1:]

    inputs, targets = draw_pairs(pairs, NumpyArrays(), np.arange(50), 4, 3, 0, 0)
    assert seen == [(5, 4, 1)] * 3 and inputs.dtype == np.int32
    np.testing.assert_array_equal(targets, inputs + 1)


CHARACTERS = "abcdefg"


class NextLetter:
    """A model that expects the next character; its tokens are padded, which must not matter."""

    config = SimpleNamespace(context_length=3)

    def apply(self, variables: Any, tokens: Any) -> Any:
        return jax.nn.one_hot((tokens + 1) % len(CHARACTERS), len(CHARACTERS))


def test_text_is_written_by_their_functions() -> None:
    functions = {
        "encode": lambda text, vocabulary: [vocabulary.index(one) for one in text],
        "decode": lambda ids, vocabulary: "-".join(vocabulary[i] for i in ids),
    }
    tokenizer = LearnedChars(CHARACTERS, functions)
    config = EvalConfig(prompt="bc", sample_tokens=5, temperature=1.0)
    given = [JaxArrays(), NextLetter(), {}, tokenizer, config, 0, 0]
    text = write_text(lambda logits, *rest: logits, lambda chances, drawn: int(chances.argmax()), *given)  # type: ignore[arg-type]
    assert text == "b-c-d-e-f-g-a"
    with pytest.raises(InputError, match="your sample returned 7, but the ids are 0 to 6"):
        write_text(lambda logits, *rest: logits, lambda chances, drawn: 7, *given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="z"):
        tokenizer.encode("az")


def test_the_command_gives_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(learn_training, "train_pieces", lambda *words: given.append(words))
    assert main(["learn", "train", "--dir", "course", "--out", "run", "--set", "train.steps=1"]) == 0
    assert main(["learn", "train"]) == 0
    assert given == [("course", "run", ["train.steps=1"]), (".", "runs/learned", [])]


def test_what_ended_a_training_is_named_and_a_change_during_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = course(tmp_path / "course", "library"), str(tmp_path / "run")
    digest = digest_of(LearnFolder.open(folder), "layer_norm")
    monkeypatch.setattr(learn_training, "verdicts_of", lambda folder: {})
    monkeypatch.setattr(learn_training, "choose", lambda folder, verdicts: Chosen({"layer_norm": digest}, {}))

    def fail(bridge: Bridge, *rest: Any) -> None:
        bridge.watch.failed("layer_norm", ValueError("too long"))
        raise InputError("the loss is NaN")

    monkeypatch.setattr(learn_training, "train", fail)
    with pytest.raises(InputError, match="your layer_norm: too long"):
        learn_training.train_pieces(str(folder), run, [])
    (folder / file_name("layer_norm")).write_text((folder / file_name("layer_norm")).read_text())

    def change(*given: Any) -> None:
        rewrite(folder, "layer_norm", "def layer_norm", "# a change\ndef layer_norm")

    monkeypatch.setattr(learn_training, "train", change)
    with pytest.raises(InputError, match="has changed since this training began"):
        learn_training.train_pieces(str(folder), run, [])


def test_an_error_shows_their_lines_only(tmp_path: Path) -> None:
    folder = course(tmp_path / "course", "library")
    rewrite(folder, "mlp", "def mlp", "raise ValueError('no')\n\n\ndef mlp")
    with pytest.raises(UserCodeError) as error:
        load(LearnFolder.open(folder), ["mlp"])
    assert "p14_mlp.py" in str(error.value) and "loading.py" not in str(error.value)
