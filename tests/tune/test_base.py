"""What a run begins from: its weights, tokenizer and chat format, and what is refused."""

import gc
import json
import weakref
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from examples import chat_format
from flax.traverse_util import flatten_dict
from imported_runs import CONFIG, imported
from pretrained_files import LLAMA, hugging_face, refusal

from jaxllm import GPT, GPTConfig
from jaxllm.compare import random_parameters
from train.config import ModelConfig
from train.config_file import build_config, parse_override
from train.inputs import _of_examples, prepare
from train.runs.load import load_run
from train.tune.base import Base, fingerprint, first_parameters, model_on, open_base
from train.tune.config import InitConfig

TEXT = "the cat sat on the mat. " * 40


def sections(path: Path, **more: Any) -> dict[str, Any]:
    text = path.parent / "text.txt"
    text.write_text(TEXT)
    base = {"data": {"source": str(text)}, "init": {"from": str(path)}, "train": {"steps": 4, "window": 16}}
    base["optimizer"] = {"warmup_steps": 1}
    return base | {name: base.get(name, {}) | values for name, values in more.items()}


def base_of(path: Path, **more: Any) -> Base:
    return open_base(InitConfig(str(path), **more), load_run)


def test_a_run_and_a_folder_are_bases(tmp_path: Path) -> None:
    """Config, tokenizer, chat format and parameters come along, in float32."""
    run = base_of(imported(tmp_path / "run"))
    assert run.config == replace(CONFIG) and run.chat is not None and run.chat.end_tokens == (257,)
    want = random_parameters(GPT(CONFIG))
    jax.tree.map(np.testing.assert_array_equal, run.read(), jax.tree.map(lambda x: np.float32(x), want))
    config = replace(LLAMA, vocab_size=258, d_head=4)
    params = hugging_face(tmp_path / "folder", config)
    folder = base_of(tmp_path / "folder")
    assert folder.config == config and folder.chat is not None and folder.chat.chat_template == "hi"
    assert folder.tokenizer.fingerprint() == run.tokenizer.fingerprint()
    jax.tree.map(np.testing.assert_array_equal, folder.read(), params)


def test_the_fingerprint_is_of_names_and_values() -> None:
    params = jax.device_get(random_parameters(GPT(CONFIG)))
    first = fingerprint(params)
    assert first == fingerprint(jax.tree.map(np.float64, params))
    other = jax.tree.map(np.array, params)
    other["norm_final"]["scale"][0] += 1e-3
    assert first != fingerprint(other)
    renamed = {("end" if name == "norm_final" else name): part for name, part in params.items()}
    assert first != fingerprint(renamed)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    base = base_of(imported(tmp_path / "run"))
    _, found = base.parameters()
    assert base.parameters(found)[1] == found
    message = refusal(lambda: base.parameters("0" * 64))
    assert "run holds other weights" in message and found[:12] in message and "(000000000000)" in message


def test_added_tokens_begin_as_the_mean_row(tmp_path: Path) -> None:
    """In the table and in an untied head; all other rows stay as they are."""
    config = replace(LLAMA, vocab_size=258, d_head=4)
    hugging_face(tmp_path / "folder", config)
    base = base_of(tmp_path / "folder", add_tokens=("<|tool|>", "<|end|>"))
    assert base.tokenizer.vocab_size == 260
    assert base.tokenizer.encode("<|end|>a<|tool|>") == [259, 97, 258]  # a text that names them has them
    model = model_on(base, ModelConfig())
    assert model == replace(config, vocab_size=260)
    old, new = base.read(), first_parameters(base.read(), model, 258, seed=0)
    for table, rows in ((lambda p: p["token_embedding"]["table"], 260), (lambda p: p["head"]["kernel"].T, 260)):
        before, after = table(old), table(new)
        assert after.shape == (rows, config.d_model)
        np.testing.assert_array_equal(after[:258], before)
        np.testing.assert_allclose(after[258:], [before.astype(float).mean(0)] * 2, rtol=1e-6)
    untouched = {path for path in flatten_dict(old, sep="/") if not path.startswith(("token_embedding", "head"))}
    for path in untouched:
        np.testing.assert_array_equal(flatten_dict(new, sep="/")[path], flatten_dict(old, sep="/")[path])


def test_spare_rows_are_used_first(tmp_path: Path) -> None:
    """A table may be longer than its tokenizer's vocabulary; 260 rows, of which 258 have tokens."""
    base = base_of(imported(tmp_path / "run"), add_tokens=("<|tool|>",))
    model = model_on(base, ModelConfig())
    assert model.vocab_size == 260 and base.tokenizer.vocab_size == 259
    before, after = (p["token_embedding"]["table"] for p in (base.read(), first_parameters(base.read(), model, 258, 0)))
    np.testing.assert_allclose(after[258], before[:258].astype(float).mean(0), rtol=1e-5, atol=1e-7)


def test_a_classifier_replaces_the_head() -> None:
    params = jax.device_get(random_parameters(GPT(replace(LLAMA, vocab_size=9))))
    new = first_parameters(params, GPTConfig(**vars(replace(LLAMA, vocab_size=9, n_classes=3))), 9, seed=1)
    assert "head" not in new and new["classifier"]["kernel"].shape == (LLAMA.d_model, 3)
    assert not new["classifier"]["bias"].any() and 0.005 < new["classifier"]["kernel"].std() < 0.05
    again = first_parameters(params, replace(LLAMA, vocab_size=9, n_classes=3), 9, seed=2)
    assert (again["classifier"]["kernel"] != new["classifier"]["kernel"]).all()
    further = first_parameters(new, replace(LLAMA, vocab_size=9, n_classes=3), 9, seed=2)
    np.testing.assert_array_equal(further["classifier"]["kernel"], new["classifier"]["kernel"])


def test_a_classifier_fits_its_labels(tmp_path: Path) -> None:
    """One of other labels would be used with a wrong number of them, and one of tokens has no head."""
    base = base_of(imported(tmp_path / "run"))
    trained = replace(base, config=replace(base.config, n_classes=3))
    assert model_on(trained, ModelConfig(), 3) == model_on(base, ModelConfig(n_classes=3), 3) == trained.config
    for one, given, n, message in (
        (trained, 0, 2, "run has a classifier of 3 classes, but this run learns 2 labels"),
        (trained, 0, 0, "run has a classifier of 3 classes, but this run learns tokens"),
        (base, 5, 3, "[model] has a classifier of 5 classes, but this run learns 3 labels"),
    ):
        assert message in refusal(lambda: model_on(one, ModelConfig(n_classes=given), n))  # noqa: B023


REFUSED = {
    "model.n_layers": ({"model": {"n_layers": 5}}, "model.n_layers is 5, but in "),
    "classes": ({"model": {"n_classes": 3}}, "model.n_classes is 3, but tune.kind is 'pretrain'"),
    "tokenizer": ({"tokenizer": {"kind": "char"}}, "[tokenizer] is given beside init.from"),
    "window": ({"train": {"window": 65}}, "train.window is 65, more than model.context_length = 64"),
    "twice": ({"init": {"add_tokens": ["<a>", "<a>"]}}, "init.add_tokens names '<a>' twice or not at all"),
    "known": ({"init": {"add_tokens": ["</s>"]}}, "init.add_tokens names '</s>', which the base's tokenizer has"),
    "sha256": ({"init": {"sha256": "0" * 64}}, "holds other weights"),
    "width": ({"model": {"d_model": 6}}, "model.d_model cannot be given beside init.from: the base decides the model"),
    "vocabulary": ({"model": {"vocab_size": 5000}}, "model.vocab_size is 5,000, but with "),
    "a run as an adapter": (
        {"init": {"adapter": "run"}},
        "init.adapter is run, a run of jaxllm, but it takes a folder",
    ),
    "adapter of pairs": (
        {"init": {"adapter": "x"}, "tune": {"kind": "prefer"}},
        "init.adapter is x, but the answers would be compared with the base without it",
    ),
    "documents": (
        {"data": {"attend_across": False}, "tune": {"kind": "instruct"}},
        "data.attend_across is false, but the rows of tune.kind = 'instruct' hold examples",
    ),
    "labels": ({"tune": {"kind": "classify", "labels": ["a", "b", "a"]}}, "tune.labels has 'a' twice"),
    "no label": ({"tune": {"kind": "classify", "labels": ["a", " "]}}, "or an empty label"),
    "day": ({"tune": {"kind": "instruct", "day": "today"}}, "tune.day is 'today', which is no day"),
    "day of labels": ({"tune": {"kind": "classify", "day": "2001-02-03"}}, "tune.day is '2001-02-03', but tune.kind"),
    "pattern": ({"lora": {"targets": "("}}, "lora.targets is '(', which is no regular expression"),
    "kind": ({"tune": {"kind": "dream"}}, "tune.kind is 'dream', but it must be one of 'pretrain', 'instruct'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    path = imported(tmp_path / "run")
    assert message in refusal(lambda: prepare(build_config(sections(path, **change))))


def test_added_tokens_are_in_what_is_trained_on(tmp_path: Path) -> None:
    """Where a text names them; beside adapters only if the table changes too."""
    path = imported(tmp_path / "run")
    given = sections(path, init={"add_tokens": ["cat"]})
    ids = prepare(build_config(given)).train_ids
    assert (np.asarray(ids[:]) == 258).sum() == 36
    frozen = given | {"lora": {"rank": 1}}
    assert "rows would stay all alike" in refusal(lambda: prepare(build_config(frozen)))
    assert "rows would stay all alike" in refusal(lambda: build_config(given | {"tune": {"train": "norm"}}))
    prepare(build_config(frozen | {"tune": {"train": "token_embedding"}}))


def test_the_weights_of_a_base_are_not_kept(tmp_path: Path) -> None:
    """Training holds the parameters that it changes, and no second copy; what asks later reads them again."""
    path = imported(tmp_path / "run")
    run = prepare(build_config(sections(path)))
    assert run.base is not None
    first = run.base.read()
    leaf = weakref.ref(first["norm_final"]["scale"])
    want = fingerprint(first)
    del first
    gc.collect()
    assert leaf() is None
    assert fingerprint(run.base.read()) == want == run.config.init.sha256


def test_the_labels_of_a_base_stay(tmp_path: Path) -> None:
    """The numbers of a head that is trained on mean the labels that it was trained with."""
    base = replace(base_of(imported(tmp_path / "run")), labels=("spam", "ham"))
    base = replace(base, config=replace(base.config, n_classes=2))
    source = tmp_path / "x.jsonl"
    source.write_text("".join(json.dumps({"text": f"{i}", "label": ("ham", "spam")[i % 2]}) + "\n" for i in range(20)))
    given: dict[str, Any] = {"data": {"source": str(source)}, "init": {"from": str(tmp_path / "run")}}
    config = build_config(given | {"tune": {"kind": "classify"}})
    assert _of_examples(config, base.tokenizer, base.chat, base).config.tune.labels == ("spam", "ham")
    config = build_config(given | {"tune": {"kind": "classify", "labels": ["ham", "spam"]}})
    assert "but the head of" in refusal(lambda: _of_examples(config, base.tokenizer, base.chat, base))
    source.write_text(source.read_text().replace("ham", "pos"))
    config = build_config(given | {"tune": {"kind": "classify"}})
    assert "has the label 'pos'" in refusal(lambda: _of_examples(config, base.tokenizer, base.chat, base))


def test_a_run_records_the_day_that_its_template_writes(tmp_path: Path) -> None:
    """So that it is continued with the same examples on another day."""
    chat = chat_format(
        "{{ strftime_now('%d') }}{% for m in messages %}{{ m.role }}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}",
        "</s>",
    )
    base = replace(base_of(imported(tmp_path / "run")), chat=chat)
    source = tmp_path / "x.jsonl"
    source.write_text((json.dumps({"prompt": "a", "answer": "b"}) + "\n") * 10)
    given: dict[str, Any] = {"data": {"source": str(source)}, "init": {"from": str(tmp_path / "run")}}
    config = build_config(given | {"tune": {"kind": "instruct"}})
    run = _of_examples(config, base.tokenizer, chat, base)
    assert run.config.tune.day == date.today().isoformat() == run.with_config(config).config.tune.day
    for day in ("2001-02-03", "2001-02-14"):
        told = replace(run.config, tune=replace(run.config.tune, day=day))
        again = _of_examples(told, base.tokenizer, chat, base)
        ids = again.train_ids[:]
        assert base.tokenizer.decode(np.asarray(ids).tolist()).startswith(f"{day[-2:]}user"), day
        assert again.config.tune.day == day
    other = chat_format(
        "{% for m in messages %}{{ m.role }}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}",
        "</s>",
    )
    assert _of_examples(config, base.tokenizer, other, base).config.tune.day is None


def test_without_a_base(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    plain: dict[str, Any] = {"data": {"source": str(text)}, "model": {"context_length": 8}}
    wrong = {
        "lora.rank is given, but no weights": {"lora": {"rank": 2}},
        "tune.train is given, but no weights": {"tune": {"train": ""}},
        "tune.kind is for weights that exist": {"tune": {"kind": "classify"}},
        "init.add_tokens is given without a base": {"init": {"add_tokens": ["<a>"]}},
        "init.adapter is given without a base": {"init": {"adapter": "x"}},
    }
    for message, more in wrong.items():
        assert message in refusal(lambda more=more: prepare(build_config(plain | more)))  # type: ignore[misc]


def test_lists_of_texts_are_read_from_the_command_line() -> None:
    assert parse_override('init.add_tokens=["<|tool|>"]') == ("init", "add_tokens", ["<|tool|>"])
    assert parse_override('tune.labels=["a", "b"]') == ("tune", "labels", ["a", "b"])
