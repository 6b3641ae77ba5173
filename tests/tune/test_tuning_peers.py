"""Ten steps of tuning beside transformers and PEFT on PyTorch, from the same folder and the same file of examples.

There the examples are rendered by the folder's tokenizer as transformers opens it, with labels of -100 where nothing is
learned. The examples of a step are those of ours. Needs the extra `peers`. All weights of the models are random.
"""

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from torch_models import in_float64, random_model, torch, transformers
from torch_steps import TorchSteps

from jaxllm import GPT, load_pretrained
from jaxllm.compare.trees import in_dtype
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer
from train.config_file import build_config
from train.inputs import Prepared, prepare
from train.optimizer import learning_rate_schedule, make_optimizer
from train.step import make_train_step
from train.tune.base import first_parameters
from train.tune.beginning import first_state_on
from train.tune.kinds import objective_of
from train.tune.partition import partition_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other packages
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers and PEFT
    pytest.mark.usefixtures("quick_compilation"),
]
STEPS, BATCH = 10, 4
OPTIMIZER = {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_steps": 3, "clip_norm": 0.5}
# dtype -> bound of gradients; of the losses and norms of ten steps; of the parameters after them
BOUNDS = {"float64": (1e-10, 1e-10, 1e-10), "float32": (1e-5, 1e-5, 1e-4)}
TOKENIZER = BPETokenizer([bytes([i]) for i in b"\nabcdefghijklmnopqrstuvwxyz:"], ["<s>", "</s>"])  # 0 pads
TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m.role + ':' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)
CHAT = ChatFormat(None, (TOKENIZER.special_tokens["</s>"],), "<s>", "</s>", TEMPLATE)
QUESTIONS = [{"prompt": "abc"[: 1 + i % 3] * 2, "answer": "xyz"[i % 3] * (1 + i % 4)} for i in range(15)]
TEXTS = [{"text": "qwertyuiopasd"[i % 7 :][: 1 + i % 4], "label": ("one", "two", "three")[i % 3]} for i in range(15)]
ADAPTED = {
    "q_proj": "attention/query", "v_proj": "attention/value", "o_proj": "attention/output", "down_proj": "mlp/down",
}  # fmt: skip
LORA = peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(ADAPTED), task_type="CAUSAL_LM")


class Twice(NamedTuple):
    """A parameter after ten steps here and there, and where it is compared."""

    ours: np.ndarray
    theirs: np.ndarray
    clear: np.ndarray


def base_folder(folder: Path, name: str) -> Path:
    """A folder of transformers with a model of random weights in float32, TOKENIZER and CHAT."""
    random_model(name).save_pretrained(folder)
    save_tokenizer_files(folder, TOKENIZER, CHAT)
    return folder


def prepared(tmp_path: Path, base: Path, kind: str, lines: list[dict[str, str]], **sections: Any) -> Prepared:
    """A run of ten steps on the lines, from the folder `base`."""
    data = tmp_path / "examples.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    init = {"from": str(base)} | sections.pop("init", {})
    train = {"steps": STEPS, "batch_size": BATCH} | sections.pop("train", {})
    common = {"init": init, "data": {"source": str(data)}, "tune": {"kind": kind}, "train": train}
    return prepare(build_config(common | {"optimizer": OPTIMIZER} | sections))


def train_twice(
    run: Prepared, dtype: str, parameters: dict[str, Any], their_loss: Callable[[np.ndarray, Any], Any]
) -> tuple[Any, TorchSteps]:
    """Ten steps here and on PyTorch; the parameters here, and the steps there. Losses and norms are compared.

    `their_loss` takes the inputs [B, T] of a step and its `Answers`.
    """
    bound, loss_bound, _ = BOUNDS[dtype]
    config, parts = run.config, partition_of(run.config)
    optimizer, schedule = (make(config.optimizer, STEPS) for make in (make_optimizer, learning_rate_schedule))
    theirs = TorchSteps(parameters, config.optimizer, schedule, bound)
    assert run.base and run.examples
    state = in_dtype(first_state_on(run.base, config, run.model, optimizer, parts), dtype)
    step = make_train_step(GPT(run.model), optimizer, config.train, schedule, None, objective_of(config), parts)
    for s in range(STEPS):
        inputs, targets = run.examples.draw(BATCH, config.train.seed, s)
        state, metrics = step(state, inputs, targets)
        want = their_loss(inputs, targets)
        theirs.step(want)
        assert float(metrics["train_loss"]) == pytest.approx(float(want.detach()), rel=loss_bound), s
        assert float(metrics["grad_norm"]) == pytest.approx(theirs.norms[-1], rel=loss_bound), s
    assert max(theirs.norms) > config.optimizer.clip_norm  # so clipping takes effect
    return jax.device_get(state.params), theirs


def labelled(folder: Path, lines: list[dict[str, str]], width: int) -> dict[tuple[int, ...], tuple[list[int], ...]]:
    """Ids and labels [width + 1] of each line, padded, by the inputs [width] of a row here."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = {}
    for line in lines:
        asked = [{"role": "user", "content": line["prompt"]}]
        before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        answered = [*asked, {"role": "assistant", "content": line["answer"]}]
        whole = tokenizer.apply_chat_template(answered, return_dict=False)
        assert whole[: len(before)] == before
        padding = width + 1 - len(whole)
        ids = [*whole, *[0] * padding]
        labels = [*[-100] * len(before), *whole[len(before) :], *[-100] * padding]
        rows[(*whole[:-1], *[0] * (padding + 1))[:width]] = (ids, labels)
    return rows


def masked_loss(model: Any, folder: Path, run: Prepared) -> Callable[[np.ndarray, Any], Any]:
    """transformers' own loss of the examples of a step."""
    assert run.examples
    rows = labelled(folder, QUESTIONS, run.examples.train.width)

    def loss(inputs: np.ndarray, _: Any) -> Any:
        ids, labels = zip(*(rows[tuple(row)] for row in inputs.tolist()), strict=True)
        return model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss

    return loss


def by_our_names(model: Any, values: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """Values in the place of a model's parameters, by the paths of ours."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if name in values:
            parameter.data = torch.as_tensor(values[name]).to(parameter.dtype)
    other.save_pretrained(folder)
    return flatten_dict(load_pretrained(folder)[1], sep="/")


def assert_alike(dtype: str, found: dict[str, Twice]) -> None:
    """In float64 everywhere; in float32 where gradients were clear of rounding, as all but those of keys' biases are."""
    for name, one in found.items():
        got, want = one.ours, one.theirs
        assert got.dtype == want.dtype == dtype
        if dtype == "float32":
            assert one.clear.mean() > 0.7 or name.endswith("key/bias"), name
            got, want = got[one.clear], want[one.clear]
        bound = BOUNDS[dtype][2] * np.abs(one.theirs).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=name)


@contextmanager
def opened(folder: Path, dtype: str, adapter: Path | None = None) -> Iterator[Any]:
    """transformers' model of a folder without dropout, within which both sides compute in that dtype.

    With the folder of an adapter it is PEFT's model, whose adapter changes.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    if dtype == "float32":
        yield model.eval()
        return
    with jax.enable_x64(True), in_float64():  # no file can be read within
        wider = transformers.AutoModelForCausalLM.from_config(model.config, dtype=torch.float64)
        wider = wider if adapter is None else peft.get_peft_model(wider, LORA)
        wider.load_state_dict(model.state_dict())
        yield wider.eval()


def full_parameters(ours: Any, steps: TorchSteps, model: Any, folder: Path) -> dict[str, Twice]:
    """The parameters of the whole model by our paths."""
    after = {name: p.detach() for name, p in steps.parameters.items()}
    theirs, clear = by_our_names(model, after, folder / "theirs"), by_our_names(model, steps.clear, folder / "clear")
    flat = flatten_dict(ours, sep="/")
    return {path: Twice(np.asarray(flat[path]), theirs[path], clear[path] > 0) for path in flat if path in theirs}


@pytest.mark.parametrize(
    ("name", "dtype", "train"),
    [
        ("llama", "float64", {}), ("gpt2", "float64", {"grad_accumulation": 2}), ("qwen 3", "float64", {}),
        ("llama", "float32", {}), ("gpt2", "float32", {}), ("qwen 3", "float32", {"grad_accumulation": 4}),
    ],
)  # fmt: skip
def test_answers_as_transformers_learns_them(tmp_path: Path, name: str, dtype: str, train: dict[str, int]) -> None:
    base = base_folder(tmp_path / "base", name)
    run = prepared(tmp_path, base, "instruct", QUESTIONS, train=train)
    with opened(base, dtype) as model:
        ours, steps = train_twice(run, dtype, dict(model.named_parameters()), masked_loss(model, base, run))
        found = full_parameters(ours, steps, model, tmp_path)
    assert found.keys() == flatten_dict(ours, sep="/").keys()
    assert_alike(dtype, found)


def adapter_folder(folder: Path, base: Path, trained: bool) -> Path:
    """An adapter as PEFT begins it, with B = 0, or with a random B as of one that was trained before."""
    torch.manual_seed(1)
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), LORA)
    for name, parameter in model.named_parameters():
        if trained and "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def our_path(name: str) -> str:
    """The path of A or B by its name in PEFT."""
    found = re.fullmatch(r".*layers\.(\d+)\.\w+\.(\w+)\.lora_([AB])\.\w+\.weight", name)
    assert found, name
    return f"block_{found[1]}/{ADAPTED[found[2]]}/kernel/{found[3].lower()}"


@pytest.mark.parametrize(("dtype", "trained"), [("float64", False), ("float32", True)])
def test_adapters_as_peft_trains_them(tmp_path: Path, dtype: str, trained: bool) -> None:
    """Both go on from one folder of PEFT. Only the adapters change, here and there."""
    base = base_folder(tmp_path / "base", "llama")
    adapter = adapter_folder(tmp_path / "adapter", base, trained)
    run = prepared(tmp_path, base, "instruct", QUESTIONS, init={"adapter": str(adapter)})
    with opened(base, dtype, adapter) as model:
        changing = {name: p for name, p in model.named_parameters() if p.requires_grad}
        ours, steps = train_twice(run, dtype, changing, masked_loss(model, base, run))
    flat = flatten_dict(ours, sep="/")
    found = {
        our_path(name): Twice(np.asarray(flat[our_path(name)]), p.detach().numpy().T, steps.clear[name].T)
        for name, p in changing.items()
    }
    assert found.keys() == flat.keys() and len(flat) == 2 * 2 * len(ADAPTED)
    assert_alike(dtype, found)


def label_loss(model: Any, head: Any, folder: Path, run: Prepared) -> Callable[[np.ndarray, Any], Any]:
    """The cross-entropy of labels by a linear map of each text's last hidden state."""
    assert run.examples
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    width, names = run.examples.train.width, sorted({line["label"] for line in TEXTS})
    known = {}
    for line in TEXTS:
        ids = tokenizer(line["text"]).input_ids
        known[(*ids, *[0] * (width - len(ids)))] = len(ids) - 1, names.index(line["label"])

    def loss(inputs: np.ndarray, _: Any) -> Any:
        last, labels = zip(*(known[tuple(row)] for row in inputs.tolist()), strict=True)
        hidden = model.base_model(torch.tensor(inputs.astype(np.int64))).last_hidden_state
        return torch.nn.functional.cross_entropy(head(hidden[torch.arange(len(last)), last]), torch.tensor(labels))

    return loss


@pytest.mark.parametrize(("name", "dtype"), [("llama", "float64"), ("gpt2", "float64"), ("llama", "float32")])
def test_labels_as_a_head_on_the_last_token_learns_them(tmp_path: Path, name: str, dtype: str) -> None:
    """The classifier begins there with the numbers that it begins with here."""
    base = base_folder(tmp_path / "base", name)
    run = prepared(tmp_path, base, "classify", TEXTS)
    assert run.base
    first = first_parameters(run.base.parameters()[0], run.model, run.model.vocab_size, run.config.train.seed)
    with opened(base, dtype) as model:
        head = torch.nn.Linear(*first["classifier"]["kernel"].shape)
        head.weight.data, head.bias.data = (
            torch.tensor(first["classifier"][name].T).to(head.weight.dtype) for name in ("kernel", "bias")
        )
        of_model = {id(p) for p in model.base_model.parameters()}
        changing = {name: p for name, p in model.named_parameters() if id(p) in of_model}
        changing |= {f"classifier.{name}": p for name, p in head.named_parameters()}
        ours, steps = train_twice(run, dtype, changing, label_loss(model, head, base, run))
        found = full_parameters(ours, steps, model, tmp_path)
    for ours_name, name in (("kernel", "weight"), ("bias", "bias")):
        x, clear = head.get_parameter(name).detach().numpy().T, steps.clear[f"classifier.{name}"].T
        found[f"classifier/{ours_name}"] = Twice(np.asarray(ours["classifier"][ours_name]), x, clear)
    assert found.keys() == flatten_dict(ours, sep="/").keys()
    assert_alike(dtype, found)
