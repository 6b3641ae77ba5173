"""What a diagnosis names, how accurately, and when it is silent."""

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from foreign_pieces import CONFIGS as PLAIN
from foreign_pieces import CONFIGS_OF_OPTIONS, GPT_2, LLAMA, piece, rounded
from held import ALIBI, PREFIX, Held

from jaxllm.compare.foreign.diagnosis import departure, diagnose
from jaxllm.compare.foreign.hypotheses import Hypothesis
from jaxllm.compare.foreign.piece import KINDS, SCALED, ForeignPiece
from jaxllm.compare.foreign.replay import expected
from jaxllm.compare.foreign.slips import hypotheses, ours, rounding
from jaxllm.reference import layers
from jaxllm.utils.errors import InputError

pytestmark = pytest.mark.newest

CONFIGS = PLAIN | CONFIGS_OF_OPTIONS
OF_ONE_CONFIG = ("token_embedding", "loss", "gradient", "optimizer")
CASES = [
    (kind, name)
    for kind in KINDS
    for name, config in PLAIN.items()
    if (kind not in OF_ONE_CONFIG or name == "gpt-2") and (kind != "position_embedding" or config.adds_positions)
]
CASES += [(kind, name) for name in CONFIGS_OF_OPTIONS for kind in ("attention", "block")]
CASES += [("head", "gemma-2")]


def slips(one: ForeignPiece) -> list[Hypothesis]:
    """The slips without a free number."""
    with np.errstate(all="ignore"):
        return [h for h in hypotheses(one, ours(one), True) if isinstance(h, Hypothesis)]


@pytest.mark.parametrize(("kind", "config"), [case for case in CASES if case[0] not in ("gradient", "optimizer")])
def test_slips_start_from_what_ours_computes(kind: str, config: str) -> None:
    """The reference, whose options they know."""
    right = piece(kind, CONFIGS[config])
    assert np.allclose(ours(right), expected(right), rtol=1e-12, atol=1e-12)


def test_scaled_embeddings_are_rows_times_the_root_of_the_width() -> None:
    right = replace(piece("token_embedding", GPT_2), name=SCALED)
    assert np.allclose(ours(right), right.got * 24**0.5) and np.allclose(expected(right), right.got * 24**0.5)


@pytest.mark.parametrize(("kind", "config"), CASES)
def test_each_slip_is_named_or_nothing_is(kind: str, config: str) -> None:
    """In float64, and of two models in float32; at most a tenth are silent, for which two slips have one result."""
    right, named, silent = piece(kind, CONFIGS[config]), 0, 0
    for slip in slips(right):
        with np.errstate(all="ignore"):
            wrong = slip.predict()
        narrow = [(rounded(wrong), 1e-5)] if config in ("gpt-2", "llama") else []
        for got, tolerance in ((wrong, 1e-9), *narrow):
            said = diagnose(replace(right, got=got), tolerance)
            assert said is None or (said.slip, said.sentence) == (slip.slip, slip.says)
            named, silent = named + (said is not None), silent + (said is None)
    assert named >= 9 * silent


def test_what_agrees_has_no_diagnosis() -> None:
    for kind, config in CASES:
        right = piece(kind, CONFIGS[config])
        assert departure(right) == 0
        assert diagnose(replace(right, got=rounded(right.got)), 1e-5) is None


@pytest.mark.parametrize(("epsilon", "text", "accuracy"), [
    (1e-6, "fits epsilon = 1e-06 to", 1e-7), (1e-3, "fits epsilon = 0.001 to", 1e-7),
    (6.3e-4, "fits epsilon = 0.00063 to", 1e-7), (1.2345e-3, "fits epsilon = 0.0012345", 1e-7),
    (0.0, "fits epsilon = 0, or one below", 1e-6),
])  # fmt: skip
def test_an_epsilon_is_fitted(epsilon: float, text: str, accuracy: float) -> None:
    """In a record of float32. The norm's input varies in size, so that the epsilon shows."""
    right = piece("norm", GPT_2)
    got = layers.layer_norm(right.x, right.params["scale"], right.params["bias"], epsilon)
    said = diagnose(replace(right, got=rounded(got)), 1e-6)
    assert said is not None and said.slip == "epsilon"
    assert said.sentence.startswith(text) and said.sentence.endswith("; ours is 1e-05")
    assert said.fitted == pytest.approx(epsilon, abs=accuracy)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_the_accuracy_doubles_what_remains(epsilon: float) -> None:
    """The number that follows "to" is the change of epsilon that is as large as what remains."""
    right = piece("norm", GPT_2)
    normed = partial(layers.layer_norm, right.x, right.params["scale"], right.params["bias"])
    said = diagnose(replace(right, got=rounded(normed(epsilon))), 1e-6)
    assert said is not None
    accuracy = float(said.sentence.split(" to ")[1].partition(";")[0])
    changed = np.abs(normed(epsilon + accuracy) - normed(epsilon)).max() / np.abs(normed(epsilon)).max()
    assert 0.5 * said.remaining < changed < 2 * said.remaining


@pytest.mark.parametrize("kind", ["norm", "linear", "mlp", "attention", "block", "head", "position_embedding"])
def test_an_unknown_fault_is_not_named(kind: str) -> None:
    """Noise of many sizes, wrong weights, and smooth changes of the result."""
    rng = np.random.default_rng(3)
    for config in (GPT_2, LLAMA):
        if kind == "position_embedding" and not config.adds_positions:
            continue
        right = piece(kind, config)
        noise = rng.normal(size=np.shape(right.got))
        faults = [right.got + size * noise for size in (1e-4, 1e-2, 1.0)]
        faults += [np.arctan(right.got), right.got + 0.01 * right.got**2, right.got + 0.1, np.sort(right.got, axis=-1)]
        faults += [ours(replace(right, params=_changed(right.params, rng, size))) for size in (1e-3, 0.1)]
        for got in faults:
            assert diagnose(replace(right, got=got), 1e-6) is None


def _changed(params: Any, rng: np.random.Generator, size: float) -> Any:
    """Parameters with noise."""
    if isinstance(params, dict):
        return {name: _changed(leaf, rng, size) for name, leaf in params.items()}
    return params + size * rng.normal(size=params.shape)


@pytest.mark.parametrize("kind", ["norm", "mlp", "head", "linear", "loss", "gradient", "optimizer"])
def test_two_faults_at_once_are_not_named_one(kind: str) -> None:
    """Parts of the departures of two slips, added. Zero is left out, which makes a multiple of a multiple."""
    right = piece(kind, GPT_2)
    known = [(slip.slip, slip.predict()) for slip in slips(right) if slip.slip != "zero"]
    for (one, first), (other, second) in combinations(known, 2):
        if one != other:
            got = _mixed(right.got, first, second)
            assert diagnose(replace(right, got=got), 1e-7) is None


def _mixed(right: Any, first: Any, second: Any) -> Any:
    if isinstance(right, dict):
        return {name: _mixed(right[name], first[name], second[name]) for name in right}
    return right + 0.73 * (first - right) + 0.41 * (second - right)


@pytest.mark.parametrize("size", [0.0, 1e-5])
def test_slips_that_the_record_does_not_tell_apart_are_not_named(size: float) -> None:
    """A norm whose scale is 1, or nearly: twice ours, or 1 + scale for scale, both within the tolerance."""
    right = piece("norm", LLAMA)
    scale = 1 + size * np.random.default_rng(5).normal(size=LLAMA.d_model)
    plain = replace(right, params={"scale": scale})
    assert diagnose(replace(plain, got=2 * ours(plain)), 1e-3) is None


def test_a_departure_near_the_tolerance_is_not_explained() -> None:
    right = piece("norm", GPT_2)
    noise = np.random.default_rng(4).normal(size=right.got.shape)
    got = 1.00003 * right.got + 2e-6 * noise
    assert 1e-5 < departure(replace(right, got=got)) < 1e-4
    assert diagnose(replace(right, got=got), 1e-5) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["norm", "attention", "mlp", "block"])
def test_a_result_in_a_smaller_dtype(dtype: str, kind: str) -> None:
    right = piece(kind, GPT_2)
    narrow = getattr(rounding, dtype)
    said = diagnose(replace(right, got=narrow(right.got)), 1e-5)
    assert said is not None and said.slip == "rounding" and dtype in said.sentence
    for got in (right.got * 1.01, right.got + 0.01 * right.got[0, 0], right.got + 0.1):  # a fault that it does not hide
        assert diagnose(replace(right, got=narrow(got)), 1e-5) is None


def test_what_ours_computes_may_be_given() -> None:
    """Where it is not what the slips start from, as with an option that they do not know, only a factor is named."""
    right = piece("mlp", GPT_2)
    another = right.got + np.sin(right.got)
    relu = next(h for h in slips(right) if h.says.startswith("equals ours with ReLU"))
    for got, said in ((relu.predict(), None), (0.5 * another, "factor")):
        found = diagnose(replace(right, got=got, extra={"ours": another}), 1e-9)
        assert (found and found.slip) == said


CUBE = Held("cube", lambda x: x**3, lambda x: x**3)


@pytest.mark.parametrize(("kind", "change"), [
    ("attention", {"visible": PREFIX}), ("attention", {"score": ALIBI}), ("mlp", {"activation": CUBE}),
])  # fmt: skip
def test_with_a_users_function_a_factor_is_named(kind: str, change: dict[str, Any]) -> None:
    right = piece(kind, replace(GPT_2, **change))
    said = diagnose(replace(right, got=0.5 * right.got), 1e-9)
    assert said is not None and (said.slip, said.fitted) == ("factor", 0.5)
    assert diagnose(replace(right, got=np.sin(right.got)), 1e-9) is None


def test_bad_pieces() -> None:
    right = piece("norm", GPT_2)
    with pytest.raises(InputError, match="the piece norm is of the kind 'layer'; choose one of token_embedding"):
        replace(right, kind="layer")
    for got in (right.got[:-1], np.full_like(right.got, np.nan)):
        assert departure(replace(right, got=got)) == np.inf
        assert diagnose(replace(right, got=got), 1e-5) is None
