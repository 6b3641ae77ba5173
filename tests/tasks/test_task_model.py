"""A run as tasks ask it: ids of texts, and what it writes, without lm-evaluation-harness."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, TOKENIZER, imported

from jaxllm import InputError, reference
from jaxllm.generate import Sampling
from jaxllm.gpt import Block
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import CharTokenizer
from jaxllm.utils.errors import NonFiniteError
from train.runs.load import TrainedRun, load_run
from train.tasks.likelihood import Completion
from train.tasks.model import TaskModel, sampling_of

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
GREEDY = Sampling(temperature=0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """With the begin token 256, and 257 at the end of texts."""
    return load_run(imported(tmp_path_factory.mktemp("runs") / "run", replace(CONFIG, context_length=24)))


def of(run: TrainedRun) -> TaskModel:
    return TaskModel("run", run, run.params)


def test_texts_get_the_begin_token_once(run: TrainedRun) -> None:
    """Names of special tokens are these tokens only where a template may have written them."""
    model, without = of(run), of(replace(run, chat=ChatFormat()))
    assert model.encode("a") == [256, 97] and without.encode("a") == [97]
    assert model.encode("<s>") == [256, *b"<s>"]
    assert model.encode_written("a") == [256, 97] and model.encode_written("<s>a</s>") == [256, 97, 257]
    assert model.encode_written("a", False) == [97] and model.encode_written("<s>a", True) == [256, 256, 97]
    assert without.encode_written("<s>a") == [256, 97] and without.encode_written("a") == [97]


def test_first_and_end_id(run: TrainedRun) -> None:
    """Those that the model's files name, or else the one that separates documents."""
    for chat, want in [
        (run.chat, (256, 257)),
        (ChatFormat(eos_token="</s>"), (257, 257)),
        (ChatFormat(), (257, 257)),  # `</s>` ends documents
        (None, (257, 257)),
    ]:
        model = of(replace(run, chat=chat))
        assert (model.first_id, model.end_id) == want
    characters = of(replace(run, chat=None, tokenizer=CharTokenizer("ab")))
    assert (characters.first_id, characters.end_id) == (None, None) and characters.encode_written("ab") == [0, 1]


def greedy(run: TrainedRun, ids: list[int], n: int) -> list[int]:
    """By a plain loop over the NumPy model."""
    params, ids = jax.device_get(run.params), list(ids)
    for _ in range(n):
        logits = reference.gpt.forward(run.model.config, params, np.array([ids]))[0, -1, : TOKENIZER.vocab_size]
        ids.append(int(logits.argmax()))
    return ids[-n:]


@pytest.mark.parametrize("cached", [True, False])
def test_texts_are_what_a_plain_loop_writes(run: TrainedRun, cached: bool) -> None:
    """Also of a block that cannot be read through the cache."""

    class Mine(Block):
        def __call__(self, x, documents=None):  # type: ignore[no-untyped-def]
            return super().__call__(x, documents)

    model = of(run if cached else replace(run, model=run.model.clone(block=Mine)))
    rows = [[256, 97, 98], [256, 120]]
    want = [TOKENIZER.decode(greedy(run, row, 9)) for row in rows]
    assert model.texts(rows, KEY, 9, GREEDY, []) == want
    stop = want[0][3:5]
    assert model.texts(rows[:1], KEY, 9, GREEDY, [want[0][6:], stop]) == [want[0].partition(stop)[0]]


def test_a_text_ends_before_its_end_token_and_has_no_special_tokens(run: TrainedRun) -> None:
    model, written = of(run), greedy(run, [256, 97], 9)
    end = next(i for i in written[2:] if i not in written[:2])  # its first place is not the first
    ended = of(replace(run, chat=replace(run.chat, end_tokens=(end,))))  # type: ignore[type-var]
    assert ended.texts([[256, 97]], KEY, 9, GREEDY, []) == [TOKENIZER.decode(written[: written.index(end)])]
    assert model._text([104, 256, 105, 257, 106]) == "hi"


def test_nothing_more_is_drawn_after_the_stop_string(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn = of(run), []
    rows = iter([np.array([[65], [66]]), np.array([[66], [66]]), np.array([[67], [67]])])

    def some(*_: object) -> object:
        for new in rows:
            drawn.append(new)
            yield new

    monkeypatch.setattr(model, "_drawn", some)
    assert model.texts([[1], [1]], KEY, 3, GREEDY, ["B"]) == ["A", ""] and len(drawn) == 2


def test_a_sampled_text_depends_on_the_key(run: TrainedRun) -> None:
    model = of(run)
    one, same, other = (
        model.texts([[256, 97]], jax.random.key(seed), 12, Sampling(temperature=2.0), []) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_settings_of_a_task() -> None:
    assert sampling_of({}) == GREEDY and sampling_of({"do_sample": False, "num_beams": 1}) == GREEDY
    given = {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.9}
    assert sampling_of(given) == Sampling(0.5, top_k=3, top_p=0.9)
    for setting in ({"num_beams": 4}, {"typical_p": 0.5}):
        with pytest.raises(InputError, match="generation_kwargs has .* but jaxllm has temperature, top_k"):
            sampling_of(setting)


def test_nan_is_no_likelihood(run: TrainedRun) -> None:
    broken = replace(run, params=jax.tree.map(lambda x: x * np.nan, run.params))
    with pytest.raises(NonFiniteError, match="run computes non-finite numbers"):
        of(broken).likelihoods([Completion((1,), (2,))])
