"""A run in lm-evaluation-harness: its numbers are those of the harness's own class for transformers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from imported_runs import imported
from pretrained_files import LLAMA

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import CharTokenizer
from train.cli import main

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is in the extra `harness`")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402

from train.tasks.harness import JaxllmLM  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quick_compilation")]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)
PAIRS = [
    ("The sky is", " blue."), ("The sky is ", "blue"), ("", "alone"), ("", "<s>alone"), ("a", "b"), ("x" * 80, " end"),
    ("x" * 70, "y" * 60), ("x", "y" * 64), ("A or B?", " A"), ("A or B?", " B"), ("<s>user:hi</s>", "<s>no"), ("é 東", "京 🙂"),
]  # fmt: skip
TEXTS = ["hello world", "z" * 200, "", "<s>what"]
QUESTIONS = [
    {"query": f"Question {i}: {'what ' * i}?", "choices": ["yes", "no, never", "é perhaps", "x" * i], "answer": i % 4}
    for i in range(1, 9)
]


def folders(path: Path, chat: ChatFormat) -> tuple[str, str]:
    """A run, and the folder that transformers opens."""
    run, exported = path / "run", path / "exported"
    imported(run, replace(LLAMA, vocab_size=260, context_length=64), chat)
    assert main(["export", str(run), "--out", str(exported)]) == 0
    return str(run), str(exported)


CHATS = {
    "with a begin token": ChatFormat(256, (257,), "<s>", "</s>", TEMPLATE),
    "without one": ChatFormat(None, (257,), "<s>", "</s>", TEMPLATE),
}


@pytest.fixture(scope="module", params=sorted(CHATS))
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[JaxllmLM, Any]:
    """Ours and the harness's, of the same parameters."""
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is in the extra `peers`")
    from lm_eval.models.huggingface import HFLM

    run, exported = folders(tmp_path_factory.mktemp("models"), CHATS[request.param])
    return JaxllmLM(run, batch_size=2), HFLM(pretrained=exported, device="cpu", dtype="float32", batch_size=3)


def requests(kind: Any, *arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_likelihoods_are_those_of_transformers(models: tuple[JaxllmLM, Any]) -> None:
    ours, theirs = (model.loglikelihood(requests("loglikelihood", *PAIRS)) for model in models)
    assert [log_prob for log_prob, _ in ours] == pytest.approx([log_prob for log_prob, _ in theirs], rel=1e-6)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_likelihoods_of_whole_texts_are_those_of_transformers(models: tuple[JaxllmLM, Any]) -> None:
    texts = [(text,) for text in TEXTS]
    ours, theirs = (model.loglikelihood_rolling(requests("loglikelihood_rolling", *texts)) for model in models)
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_texts_are_those_of_transformers(models: tuple[JaxllmLM, Any]) -> None:
    """Also where a context is cut, and with settings that differ between requests."""
    plain = {"until": [], "max_gen_toks": 20}
    free = models[0].generate_until(requests("generate_until", ("The sky", plain)))[0]
    stop = next(c for c in free[3:] if c not in free[:3] and c.isascii())
    asked = [
        ("The sky", plain), ("x" * 80, {"until": ["\n\n"], "max_gen_toks": 30}), ("abc", plain), ("The", plain),
        ("The sky", {"until": [stop, "\n"], "max_gen_toks": 20, "do_sample": False, "temperature": 0.0}),
    ]  # fmt: skip
    ours, theirs = (model.generate_until(requests("generate_until", *asked)) for model in models)
    assert ours == theirs and ours[0] == free and 0 < len(ours[-1]) < len(free)


def test_conversations_are_those_of_transformers(models: tuple[JaxllmLM, Any]) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I say"}]
    for history, prompt in [(said[:1], True), (said, True), (said, False)]:
        ours, theirs = (model.apply_chat_template(history, add_generation_prompt=prompt) for model in models)
        assert ours == theirs
    assert models[0].chat_template(True) == models[1].chat_template(True)
    assert models[0].prefix_token_id == models[1].prefix_token_id


def task(folder: Path) -> ConfigurableTask:
    """Multiple choice from a file of JSON lines."""
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in QUESTIONS))
    return ConfigurableTask(
        config={
            "task": "questions", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "query", "doc_to_choice": "choices",
            "doc_to_target": "answer", "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
        }
    )  # fmt: skip


def test_a_task_has_the_same_scores(
    models: tuple[JaxllmLM, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the harness with both models, and by `jaxllm evaluate --choices`."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    scores, samples = [], []
    for model in models:
        found = lm_eval.evaluate(model, {"questions": task(tmp_path)}, bootstrap_iters=0)
        scores.append(found["results"]["questions"])
        samples.append([one["filtered_resps"] for one in found["samples"]["questions"]])
    names = [f"{name},none" for name in ("acc", "acc_norm", "acc_bytes")]
    assert [scores[0][name] for name in names] == [scores[1][name] for name in names]
    for ours, theirs in zip(*samples, strict=True):
        assert [log_prob for log_prob, _ in ours] == pytest.approx([log_prob for log_prob, _ in theirs], rel=1e-6)
    spaced = [{**one, "choices": [f" {text}" for text in one["choices"]]} for one in QUESTIONS]  # type: ignore[attr-defined]
    file, out = tmp_path / "spaced.jsonl", tmp_path / "out.json"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in spaced))
    assert main(["evaluate", models[0].model.path, "--choices", str(file), "--json", str(out)]) == 0
    accuracy = json.loads(out.read_text())["accuracy"]
    assert [accuracy[name] for name in ("sum", "per character", "per byte")] == [scores[0][name] for name in names]


@pytest.fixture
def ours(tmp_path: Path) -> JaxllmLM:
    return JaxllmLM(str(imported(tmp_path / "run", replace(LLAMA, vocab_size=260, context_length=16))))


def test_what_cannot_be_asked_is_one_sentence(ours: JaxllmLM) -> None:
    with pytest.raises(InputError, match="the continuation 'y+' has 17 tokens, but it must have from 1 to 16"):
        ours.loglikelihood(requests("loglikelihood", ("x", "y" * 17)))
    with pytest.raises(InputError, match="max_gen_toks is 256, but it must be less than 16"):
        ours.generate_until(requests("generate_until", ("x", {"until": []})))
    with pytest.raises(InputError, match="generation_kwargs has num_beams = 2"):
        ours.generate_until(requests("generate_until", ("x", {"until": [], "num_beams": 2, "max_gen_toks": 4})))
    ours.chat = None
    with pytest.raises(InputError, match="has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "hi"}])
    ours.model.run = replace(ours.model.run, chat=None, tokenizer=CharTokenizer("ab"))
    with pytest.raises(InputError, match="has no token that begins a text"):
        ours.loglikelihood_rolling(requests("loglikelihood_rolling", ("ab",)))


def test_sampled_texts_repeat_with_the_seed(ours: JaxllmLM) -> None:
    asked = requests("generate_until", *[("x", {"until": [], "max_gen_toks": 8, "temperature": 3.0})] * 12)
    first, again = ours.generate_until(asked), ours.generate_until(asked)
    assert first == again and len(set(first)) > 8  # rows and batches draw with keys of their own
    ours.seed = 1
    assert ours.generate_until(asked) != first


def test_answers_are_cached(ours: JaxllmLM) -> None:
    kept: dict[Any, Any] = {}
    ours.cache_hook.dbdict = kept
    ours.loglikelihood(requests("loglikelihood", ("a", "b")))
    ours.loglikelihood_rolling(requests("loglikelihood_rolling", ("ab",)))
    ours.generate_until(requests("generate_until", ("a", {"until": [], "max_gen_toks": 4})))
    assert len(kept) == 3 and jax.tree.leaves(kept)
