"""What `generate` and `chat` write: whole characters, up to stop strings and end tokens; runs with imported weights."""

import io
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from models import TINY

import train.writing
from jaxllm import GPT, GPTConfig, reference
from jaxllm.compare import random_parameters
from jaxllm.files import replacing
from jaxllm.generate import Sampling, generate
from jaxllm.packed import pack
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer
from jaxllm.tokenizers.sentencepiece import BYTES, SentencePieceTokenizer
from train.cli import main
from train.compare import from_run
from train.config import ModelConfig, RunConfig, TrainConfig
from train.evaluate import score
from train.folder import RunFolder
from train.trained import load_run
from train.weights import read_weights, write_weights
from train.writing import behind, until

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)
TOKENIZER = BPETokenizer([bytes([i]) for i in range(256)], ["<s>", "</s>"])
CONFIG = replace(TINY, vocab_size=260, context_length=64, n_layers=1, norm="rms_norm", position="rotary")


def imported(path: Path, config: GPTConfig = CONFIG, chat: ChatFormat | None = None) -> Path:
    """A run as `jaxllm import` leaves it, of a random model."""
    folder = RunFolder(path)
    path.mkdir()
    (chat or ChatFormat(256, (257,), "<s>", "</s>", TEMPLATE)).save(folder.pretrained)
    write_weights(folder.weights, random_parameters(GPT(config)))
    folder.create(RunConfig(model=ModelConfig(**asdict(config)), train=TrainConfig(batch_size=1)), TOKENIZER)
    return path


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["some ", "words"], [], "some words"),
        (["some wo", "rds, more"], ["words"], "some "),
        (["a", "b", "a", "b", "c"], ["abc"], "ab"),
        (["one two"], ["two", "ne"], "o"),
        (["a", "b"], ["abc"], "ab"),
        ([], ["x"], ""),
    ],
)
def test_text_ends_before_a_stop_string(pieces: list[str], stops: list[str], text: str) -> None:
    given = [*until(pieces, stops)]
    assert "".join(given) == text
    if not stops:
        assert [piece for piece in given if piece] == pieces  # nothing is held back


def test_a_space_between_prompt_and_answer_stays() -> None:
    """SentencePiece leaves out the space that a text begins with, and what follows a prompt is in its middle."""
    tokenizer = SentencePieceTokenizer([*BYTES, "\u2581", "o", "\u2581on", "e"], [])
    shown, more = [258, 259], [256, 257]
    assert (tokenizer.decode(shown), tokenizer.decode(more)) == ("one", "o")
    whole = tokenizer.decode_stream([*shown, *more])
    assert "".join(behind(whole, len(tokenizer.decode(shown)))) == " o"
    assert [*behind(["ab", "cd", "e"], 3)] == ["", "d", "e"]


def test_weights_come_back(tmp_path: Path) -> None:
    params = random_parameters(GPT(CONFIG))
    params["block_0"]["norm_1"]["scale"] = np.float32(np.arange(8))  # exact in bfloat16
    write_weights(tmp_path / "w", params, "caf\udce9")  # a path that is no UTF-8
    back = read_weights(tmp_path / "w", CONFIG)
    np.testing.assert_array_equal(back["block_0"]["norm_1"]["scale"], np.arange(8))
    np.testing.assert_array_equal(back["block_0"]["mlp"]["up"]["kernel"], params["block_0"]["mlp"]["up"]["kernel"])
    assert back["block_0"]["norm_1"]["scale"].dtype == np.float32
    assert b'"dtype":"BF16","shape":[8]' in (tmp_path / "w").read_bytes()[:2000]


def test_weights_half_written_are_gone(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "w") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["w"] and (tmp_path / "w").read_text() == "old"


def test_generate_answers_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(imported(tmp_path / "run"))

    def text(*options: str) -> str:
        assert main(["generate", run, "--prompt", "hi", "--max-new-tokens", "30", *options]) == 0
        return capsys.readouterr().out

    plain = text()
    assert plain.startswith("hi") and plain.endswith("\n")
    assert plain != text("--seed", "1")
    stop = plain[6:9]
    assert text("--stop", stop) == plain[: plain.index(stop, 2)] + "\n"
    answer = text("--chat", "--weights", "int8", "--repetition-penalty", "1.5")
    assert not answer.startswith("hi") and "</s>" not in answer


def test_the_answer_is_that_of_the_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The template's text is what the model reads, and special tokens in it are tokens."""
    run = imported(tmp_path / "run")
    loaded = load_run(run)
    ids = [256, *b"user:hi", 257, 256]
    params, key = pack(loaded.params), jax.random.key(0)
    tokens = generate(loaded.model, params, [ids], key, 9, Sampling(0), 258, (257,))[0].tolist()
    want = TOKENIZER.decode(tokens[: tokens.index(257)] if 257 in tokens else tokens)
    assert main(["generate", str(run), "--chat", "--prompt", "hi", "--max-new-tokens", "9", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == want + "\n"


def test_chat_remembers_forgets_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(imported(tmp_path / "run"))

    def talk(*lines: str) -> tuple[list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        assert main(["chat", run, "--max-new-tokens", "5", "--temperature", "0"]) == 0
        said = capsys.readouterr()
        return said.out.split("\n"), said.err

    twice, _ = talk("hi", "", "hi")
    again, _ = talk("hi", "/reset", "hi", "/exit", "never")
    assert len(twice) == len(again) == 3
    assert again[0] == again[1] == twice[0] != twice[1]  # the second question comes after the first and its answer
    _, forgotten = talk("a" * 30, "b" * 30)
    assert "no longer fit" in forgotten


def greedy(run: Path, ids: list[int], n: int) -> str:
    """What the model says after these ids, without room to spare for a window that slides."""
    loaded = load_run(run)
    drawn = generate(loaded.model, pack(loaded.params), [ids], jax.random.key(0), n, Sampling(0), 258, (257,))[0]
    tokens = drawn.tolist()
    return TOKENIZER.decode(tokens[: tokens.index(257)] if 257 in tokens else tokens)


@pytest.mark.parametrize(("chat", "begin"), [(None, [256]), (ChatFormat(), [])])
def test_a_prompt_beyond_the_context_is_said_and_keeps_its_begin_token(
    chat: ChatFormat | None, begin: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, most = imported(tmp_path / "run", chat=chat), 64 - len(begin)
    for n in (most, most + 1, 200):
        prompt = "".join(chr(ord("a") + i % 26) for i in range(n))
        options = ["--max-new-tokens", "1", "--temperature", "0"]
        assert main(["generate", str(run), "--prompt", prompt, *options]) == 0
        said = capsys.readouterr()
        assert said.out == prompt + greedy(run, [*begin, *prompt.encode()[-most:]], 1) + "\n"
        note = (
            f"note: --prompt has {n} tokens, of which the model reads the last {most}; its context of 64 holds no more"
        )
        assert said.err.startswith(note) if n > most else said.err == ""
        assert said.err.count("\n") == (n > most)


def test_a_question_beyond_the_context_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its head a template says something else. (It takes 8 tokens here.)"""
    run = imported(tmp_path / "run")
    for n, code in ((56, 0), (57, 2)):
        assert main(["generate", str(run), "--chat", "--prompt", "a" * n, "--temperature", "0"]) == code
        said = capsys.readouterr()
        if code == 0:
            assert said.out == greedy(run, [256, *b"user:", *b"a" * n, 257, 256], 1) + "\n"
    assert said.err == (
        "jaxllm generate: --prompt takes 65 tokens in the model's chat template, but its context holds 64; shorten it.\n"
    )


def test_an_answer_ends_where_the_context_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The question and the template's head stay in sight to its last token."""
    run = imported(tmp_path / "run", chat=ChatFormat(256, (), "<s>", "</s>", TEMPLATE))
    ids = [256, *b"user:hi", 257, 256]
    loaded = load_run(run)
    whole = generate(loaded.model, pack(loaded.params), [ids], jax.random.key(0), 55, Sampling(0), 258)[0].tolist()
    for n, full in ((55, False), (56, True)):
        options = ["--max-new-tokens", str(n), "--temperature", "0"]
        assert main(["generate", str(run), "--chat", "--prompt", "hi", *options]) == 0
        said = capsys.readouterr()
        assert said.out == TOKENIZER.decode(whole) + "\n"
        assert said.err == (
            "\nnote: the answer ends here, where the model's context of 64 tokens is full\n" if full else ""
        )


def test_chat_goes_on_after_a_question_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was said before it is still known; the system message always is."""
    run, asked = str(imported(tmp_path / "run")), []
    encode = train.writing.encode_chat

    def remember(tokenizer: BPETokenizer, chat: ChatFormat, messages: list[dict[str, str]]) -> list[int]:
        asked.append([message["content"] for message in messages])
        return encode(tokenizer, chat, messages)

    monkeypatch.setattr(train.writing, "encode_chat", remember)
    monkeypatch.setattr(train.writing, "MOST_CHARACTERS", 500)

    def talk(*lines: str, system: str = "sys") -> tuple[int, str]:
        asked.clear()
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        code = main(["chat", run, "--system", system, "--max-new-tokens", "1", "--temperature", "0"])
        return code, capsys.readouterr().err

    code, said = talk("one", "b" * 60, "c" * 501, "two")
    assert code == 0
    assert said == (
        "note: the question takes 80 tokens in the model's chat template, but its context holds 64; shorten it.\n"
        "note: the question has 501 characters, but it must have at most 500; shorten it.\n"
    )
    assert asked[-1][:2] == ["sys", "one"] and asked[-1][-1] == "two" and len(asked[-1]) == 4
    code, said = talk("one", "two" * 12)
    assert (code, said) == (0, "note: the oldest question and answer no longer fit and are forgotten\n")
    assert asked[-1] == ["sys", "two" * 12]
    code, said = talk("1", "2", "3" * 40)
    assert (code, said) == (0, "note: the oldest 2 questions and answers no longer fit and are forgotten\n")
    assert asked[-1] == ["sys", "3" * 40]
    code, said = talk("one", system="s" * 60)
    assert code == 2
    assert said.startswith(
        "jaxllm chat: --system takes 78 tokens in the model's chat template, but its context holds 64"
    )


def test_an_answer_has_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the context, or as much as it may have: the oldest question is forgotten before."""
    run = str(imported(tmp_path / "run", chat=ChatFormat(256, (), "<s>", "</s>", TEMPLATE)))
    for most, length, forgotten in (("1", 31, False), ("1", 32, True), ("99", 16, False), ("99", 17, True)):
        monkeypatch.setattr("sys.stdin", io.StringIO("a\n" + "b" * length))
        monkeypatch.setattr(train.writing.Writer, "answer", lambda self, ids, seed: iter(["12345"]))
        assert main(["chat", run, "--max-new-tokens", most]) == 0
        assert ("no longer fit" in capsys.readouterr().err) == forgotten, (most, length)


def reference_losses(run: Path, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss of each target [B, T], by NumPy."""
    loaded = load_run(run)
    logits = reference.gpt.forward(CONFIG, jax.device_get(loaded.params), inputs)
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


@pytest.mark.parametrize("prepared", [False, True])
def test_evaluation_begins_each_window_as_the_model_has_learned(
    prepared: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the begin token, which is no text; and every token of the text is predicted once."""
    run, text, data = imported(tmp_path / "run"), tmp_path / "text.txt", tmp_path / "data"
    text.write_text("0123456789" * 13)  # two windows and two tokens
    ids = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int32)
    if prepared:
        tokenizer = str(RunFolder(run).tokenizer)
        assert main(["data", "prepare", str(text), "--tokenizer", tokenizer, "--out", str(data)]) == 0
        ids = ids[117:]  # the last tenth
    windows = [ids[start : start + 64] for start in range(0, len(ids), 64)]
    losses = [reference_losses(run, np.array([[256, *w[:-1]]]), w[None]) for w in windows]
    loss = np.concatenate(losses, 1).mean()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(data if prepared else text)]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert said["tokens"].strip() == str(len(ids))
    assert float(said["validation loss"].split()[0]) == pytest.approx(loss, abs=1e-4)
    assert float(said["bits per byte"]) == pytest.approx(loss / np.log(2), abs=1e-4)
    assert said["each window"].strip() == "begins with <s>"


def test_evaluation_without_a_begin_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows begin with the text, of which the first token is not predicted."""
    run, text = imported(tmp_path / "run", chat=ChatFormat()), tmp_path / "text.txt"
    text.write_text("0123456789")
    ids = np.array([[*b"0123456789"]], np.int32)
    loss = reference_losses(run, ids[:, :-1], ids[:, 1:]).mean()
    assert main(["evaluate", str(run), "--data", str(text)]) == 0
    said = capsys.readouterr().out
    assert f"validation loss  {loss:.4f}" in said and "tokens           9\n" in said
    assert "each window      begins with the text itself\n" in said


def test_one_token_is_enough_behind_a_begin_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("a")
    for chat, code in ((None, 0), (ChatFormat(), 2)):
        run = imported(tmp_path / f"run{code}", chat=chat)
        assert main(["evaluate", str(run), "--data", str(tmp_path / "one.txt")]) == code
    assert "holds 1 tokens, but the loss of one needs a token before it" in capsys.readouterr().err


def test_the_space_before_a_text_is_no_byte_of_it() -> None:
    tokenizer = SentencePieceTokenizer([*BYTES, "\u2581", "o", "\u2581on", "e", "<s>"], [], ["<s>"])
    ids = np.array([258, 259, 256, 257])  # "one o"
    assert tokenizer.decode(ids) == "one o"
    assert score(1.0, ids, tokenizer, begin=260).n_bytes == 5
    assert score(1.0, ids, tokenizer).n_bytes == 3


def test_a_comparison_begins_each_window_alike(tmp_path: Path) -> None:
    subject = from_run(str(imported(tmp_path / "run")), None, 2, 8)
    np.testing.assert_array_equal(subject.inputs[:, 0], 256)
    np.testing.assert_array_equal(subject.inputs[:, 1:], subject.targets[:, :-1])
    bare = from_run(str(imported(tmp_path / "bare", chat=ChatFormat())), None, 2, 8)
    np.testing.assert_array_equal(bare.inputs.ravel()[1:], bare.targets.ravel()[:-1])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("generate {run} --prompt a --step 5", "was imported and has no steps"),
        ("evaluate {run}", "was imported without the text that it was trained on; name a text with --data"),
        ("generate {run} --prompt a --repetition-penalty 0", "--repetition-penalty is 0.0, but it must be above 0"),
        ("generate {run} --prompt a --stop", "expected one argument"),
        ("generate {bare} --chat --prompt a", "has no chat template; use `jaxllm generate"),
        ("chat {bare}", "has no chat template"),
        ("generate {damaged} --prompt a", "is damaged: its bytes are not those that were written; import it again"),
        ("generate {other} --prompt a", "holds the parameters of another model than config.toml describes"),
        ("train --resume --out {run}", "it was imported"),
    ],
)
def test_what_is_wrong(tmp_path: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {name: imported(tmp_path / name) for name in ("run", "damaged", "other")}
    places["bare"] = imported(tmp_path / "bare", chat=ChatFormat())
    weights = places["damaged"] / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    config = places["other"] / "config.toml"
    config.write_text(config.read_text().replace("n_layers = 1", "n_layers = 2"))
    try:
        code = main(command.format(**places).split())
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_answers_are_drawn_more_surely(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(train.writing, "generate_command", lambda *a: seen.append((a[-1].temperature, a[-1].top_p)))
    words = ["generate", "run", "--prompt", "hi"]
    for more in ([], ["--chat"], ["--chat", "--temperature", "0", "--top-p", "1"], ["--top-p", "0.5"]):
        assert main([*words, *more]) == 0
    assert seen == [(0.8, None), (0.2, 0.9), (0, 1), (0.8, 0.5)]


def test_what_the_terminal_has_no_characters_for(tmp_path: Path) -> None:
    """Written escaped; and what is typed in another encoding than the terminal's is replaced."""
    run, root = str(imported(tmp_path / "run")), Path(__file__).parents[1]
    said = []
    for words, typed in ((["generate", run, "--prompt", "é"], b""), (["chat", run], b"\xff hi\n")):
        done = subprocess.run(
            [sys.executable, "-m", "train", *words, "--max-new-tokens", "2"], cwd=root, input=typed,
            env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        said.append(done.stdout)
    assert said[0].startswith(rb"\xe9") and said[1].isascii()
