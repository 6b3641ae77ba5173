"""`jaxllm attention --from WORD --to WORD`: the tokens of words, the ranking by the model's weights, and sinks."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from models import TINY

from jaxllm import GPT, reference
from jaxllm.compare import random_parameters
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer
from train.cli import main
from train.commands.attention_ranking import first_token_weights, ranking, word_weights
from train.commands.attention_words import TokenSpan, choose_spans, spans_of, token_bytes
from train.config import ModelConfig, RunConfig, TrainConfig
from train.pieces import columns, label
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

PROMPT = "an apple, an orange and apples: an orange"
TOKENIZER = BPETokenizer.train("an apple " * 9, vocab_size=262)  # [ apple] and parts of [ orange]
CONFIG = replace(TINY, vocab_size=TOKENIZER.vocab_size, context_length=64, n_layers=3, tie_embeddings=False)
PARAMS = random_parameters(GPT(CONFIG))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("look") / "run"
    folder = RunFolder(path)
    path.mkdir()
    ChatFormat().save(folder.pretrained)
    write_weights(folder.weights, PARAMS)
    folder.create(RunConfig(model=ModelConfig(**asdict(CONFIG)), train=TrainConfig(batch_size=1)), TOKENIZER)
    return str(path)


def true_weights(ids: list[int]) -> np.ndarray:
    inside = reference.gpt.forward_with_intermediates(CONFIG, PARAMS, [ids])[1]
    return np.stack([inside[f"block_{i}/attention/weights"][0] for i in range(CONFIG.n_layers)])


def texts_of(tokenizer: Tokenizer, prompt: str, word: str, begin: int | None = None) -> list[str]:
    """The tokens of each occurrence of a word, joined."""
    ids = [*([] if begin is None else [begin]), *tokenizer.encode(prompt)]
    spans = spans_of("--to", word, prompt, token_bytes(tokenizer, ids, begin))
    return ["|".join(label(tokenizer, i) for i in ids[span.first : span.last + 1]) for span in spans]


def test_the_tokens_of_a_word() -> None:
    bytes_only = BPETokenizer([bytes([i]) for i in range(256)])
    assert texts_of(TOKENIZER, PROMPT, " apple ") == ["␣apple"]  # not the one in "apples"
    assert texts_of(TOKENIZER, PROMPT, "orange") == ["o|r|a|n|g|e"] * 2
    for tok in (bytes_only, CharTokenizer.train(PROMPT)):
        assert texts_of(tok, PROMPT, "an") == ["a|n"] * 3
        assert texts_of(tok, PROMPT, "an orange") == ["a|n|␣|o|r|a|n|g|e"] * 2
        assert texts_of(tok, PROMPT, "oran") == ["o|r|a|n"] * 2  # no word, but whole tokens
        assert texts_of(tok, PROMPT, "pples:") == ["p|p|l|e|s|:"]
    assert texts_of(bytes_only, "a東京é", "京") == ["\\xe4|\\xba|\\xac"]
    assert texts_of(WordTokenizer.train(PROMPT), PROMPT, "orange") == ["orange"] * 2
    assert texts_of(WordTokenizer.train(PROMPT), PROMPT, "an orange") == ["an|orange"] * 2


def test_a_begin_token_is_no_word_of_the_prompt() -> None:
    tok = CharTokenizer.train("abc ")
    assert texts_of(tok, " a", "a", begin=tok.encode("a")[0]) == ["a"]
    assert spans_of("--to", "b", "b a", token_bytes(tok, [0, *tok.encode("b a")], 0)) == [TokenSpan(1, 1)]
    assert spans_of("--to", "a", "a b", token_bytes(tok, tok.encode("a b"), None)) == [TokenSpan(0, 0)]


def test_which_occurrence() -> None:
    a, b, c, d = TokenSpan(0, 1), TokenSpan(3, 3), TokenSpan(5, 6), TokenSpan(8, 8)
    assert choose_spans([a, c], [b, d]) == (c, b)  # the last that comes before
    assert choose_spans([d], [a, b, c]) == (d, c)
    assert choose_spans([a, c], [a, c]) == (c, a)  # of the same word the earlier
    assert choose_spans([c], [c]) == (c, c)
    assert choose_spans([c], [TokenSpan(4, 6)]) == (c, TokenSpan(4, 6))
    assert choose_spans([a], [b, d]) == (a, d)  # only for a model that looks ahead


@pytest.mark.parametrize(("source", "target"), [("orange", "apple"), ("apples", "orange"), ("an", "apple,")])
def test_heads_are_ranked_by_the_models_weights(
    source: str, target: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["attention", run, "--prompt", PROMPT, "--from", source, "--to", target]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = TOKENIZER.encode(PROMPT)
    starts = np.cumsum([0, *(len(TOKENIZER.decode_bytes([i])) for i in ids)])  # of each token, in bytes
    place = {"apple": 3, "apple,": 3, "apples": 24, "orange": 35 if source == "orange" else 13, "an": 32}
    first, last = (
        (int(np.searchsorted(starts, at, "right")) - 1, int(np.searchsorted(starts, at + len(word))) - 1)
        for word, at in ((target, place[target]), (source, place[source]))
    )
    begin, end = first
    weights = true_weights(ids)
    expected = weights[:, :, last[1], begin : end + 1].sum(-1)
    order = sorted(np.ndindex(expected.shape), key=lambda head: -expected[head])
    rows = [line.split() for line in lines[3 : 3 + expected.size]]
    assert [(int(row[1]), int(row[2])) for row in rows] == order and [row[0] for row in rows] == [*"123456"]
    for row, head in zip(rows, order, strict=True):
        numbers = [expected[head], weights[head][last[1], 0], weights[head][1:, 0].mean()]
        np.testing.assert_allclose([float(word) for word in row[3:6]], numbers, atol=6e-4)
    assert main([*command, "--top", "2"]) == 0
    shorter = capsys.readouterr().out.splitlines()
    assert shorter[:5] == lines[:5] and shorter[5:] == lines[9:]


def test_weights_of_words() -> None:
    weights = np.random.default_rng(0).random((2, 3, 5, 5))
    np.testing.assert_array_equal(
        word_weights(weights, TokenSpan(3, 4), TokenSpan(1, 2)), weights[..., 4, 1] + weights[..., 4, 2]
    )
    first, mean = first_token_weights(weights, TokenSpan(2, 3))
    np.testing.assert_array_equal(first, weights[..., 3, 0])
    np.testing.assert_allclose(mean, weights[..., 1:, 0].mean(-1), rtol=1e-12)
    assert [part.tolist() for part in first_token_weights(np.ones((1, 1, 1, 1)), TokenSpan(0, 0))] == [[[1]], [[1]]]


def sinks(*rows: list[list[float]]) -> np.ndarray:
    """Weights [1, H, 3, 3] of heads with these second and third rows."""
    return np.array([[[[1.0, 0, 0], *head] for head in rows]])


def test_only_a_head_whose_weight_is_on_the_first_token_rests_there() -> None:
    weights = sinks(
        [[0.9, 0.1, 0], [0.8, 0.1, 0.1]],  # rests
        [[0.9, 0.1, 0], [0.2, 0.7, 0.1]],  # rests but for this word
        [[0.1, 0.9, 0], [0.6, 0.3, 0.1]],  # looks there from this word alone
        [[0.5, 0.5, 0], [0.5, 0.3, 0.2]],  # not more than half
    )
    lines = ranking(weights, ["x", "␣y", "␣z"], ("z", TokenSpan(2, 2)), ("y", TokenSpan(1, 1)), 9)
    assert lines[:3] == [
        "from  'z', token 3 of 3: [␣z]",
        "to    'y', token 2 of 3: [␣y]",
        "rank  layer  head  weight  on the first token  mean there",
    ]
    assert [line.split(maxsplit=3)[:3] for line in lines[3:7]] == [
        ["1", "0", "1"], ["2", "0", "2"], ["3", "0", "3"], ["4", "0", "0"],
    ]  # fmt: skip
    assert [line.endswith("only rests there") for line in lines[3:7]] == [False, False, False, True]
    assert lines[6].split()[3:6] == ["0.100", "0.800", "0.850"]
    assert lines[7] == "1 of 4 heads only rest on the first token, [x]:"
    assert "An attention sink is" in lines[9] and "Xiao et al. 2023" in lines[10] and len(lines) == 11


def test_without_a_head_that_rests_nothing_is_explained() -> None:
    lines = ranking(
        sinks([[0.1, 0.9, 0], [0.1, 0.8, 0.1]]), [*"xyz"], ("z", TokenSpan(2, 2)), ("y", TokenSpan(1, 1)), 9
    )
    assert lines[4].startswith("0 of 1 heads") and len(lines) == 6


def test_a_word_that_is_the_first_token_is_pointed_out() -> None:
    weights = sinks([[0.9, 0.1, 0], [0.8, 0.1, 0.1]])
    lines = ranking(weights, [*"xyz"], ("z", TokenSpan(2, 2)), ("x", TokenSpan(0, 0)), 9)
    assert lines[-1].startswith("note: 'x' is the first token, ") and "only rests there" in lines[3]


def test_a_model_that_looks_ahead_ranks_what_comes_later() -> None:
    weights = np.full((1, 2, 3, 3), 1 / 3)
    lines = ranking(weights, [*"xyz"], ("x", TokenSpan(0, 0)), ("z", TokenSpan(2, 2)), 9)
    assert [line.split()[3] for line in lines[3:5]] == ["0.333", "0.333"]


def test_lines_are_short() -> None:
    weights, long = sinks([[0.9, 0.1, 0], [0.8, 0.1, 0.1]]), "東" * 400
    lines = ranking(weights, [long] * 3, (long, TokenSpan(1, 2)), (long, TokenSpan(0, 1)), 9)
    assert max(map(columns, lines)) < 100


def test_a_ranking_and_a_picture_together(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map.html"
    command = ["attention", run, "--prompt", PROMPT, "--from", "orange", "--to", "apple"]
    assert main(command) == 0
    ranked = capsys.readouterr().out
    assert main([*command, "--out", str(out), "--layer", "1"]) == 0
    assert capsys.readouterr().out.startswith(ranked + f"{out}: ") and "<html" in out.read_text()


WRONG = {
    "": "--out is missing, and so are --from and --to; give a file, or two words of the prompt.",
    "--from orange": "--from is given without --to; give both words.",
    "--to apple --out a.png": "--to is given without --from; give both words.",
    "--from orange --to apple --top 0": "--top is 0, but it must be at least 1.",
    "--out a.png --top 3": "--top is 3, but it is for --from and --to, which are missing.",
    "--from orange --to apple --layer 1": "--layer is 1, but it is for --out, which is missing.",
    "--from orange --to apple --out a.gif": "--out a.gif: the name of the file must end in",
    "--from '' --to apple": "--from is '', which is no word; give one of the prompt.",
    "--from orange --to ' '": "--to is ' ', which is no word; give one of the prompt.",
    "--from orange --to pear": "--to is 'pear', but the prompt has no such word; give one as it is written there.",
    "--from orange --to Apple": "give one as it is written there, 'apple'.",
    "--from orange --to appl": "--to is 'appl', but the prompt has no such word; give one as it is written there.",
    "--from apple --to orange": "--to 'orange' comes after --from 'apple' in the prompt, and no head of this model looks",
}  # fmt: skip


@pytest.mark.parametrize("options", WRONG)
def test_wrong_input_is_one_sentence(
    options: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["attention", run, "--prompt", PROMPT, *shlex.split(options)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("jaxllm attention: ") and printed.err.count("\n") == 1
    assert WRONG[options] in printed.err and not printed.out and not [*tmp_path.iterdir()]


def test_a_word_that_the_tokenizer_does_not_know() -> None:
    with pytest.raises(ValueError, match="--to is 'pear', which is in the prompt, but not among the tokens that it"):
        texts_of(WordTokenizer.train(PROMPT), "an apple, a pear", "pear")


def test_a_prompt_of_too_many_tokens(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.commands.attention.MOST_RANKED", 3)
    monkeypatch.setattr("train.commands.attention.MOST_TOKENS", {".png": 2})
    for prompt, out, message in (
        ("an ape", [], "--prompt has 5 tokens, but --from can show at most 3; shorten it."),
        ("an a", ["--out", "a.png"], "--prompt has 3 tokens, but --out can show at most 2; shorten it."),
    ):
        assert main(["attention", run, "--prompt", prompt, "--from", "an", "--to", "an", *out]) == 2
        assert message in capsys.readouterr().err
