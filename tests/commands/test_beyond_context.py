"""Texts longer than a model's context: a prompt keeps its end, a conversation keeps its head, and a note says so."""

import io
from pathlib import Path

import jax
import pytest
from imported_runs import TEMPLATE, TOKENIZER, imported

import train.writer
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling, generate
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer
from train.cli import main
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def greedy(run: Path, ids: list[int], n: int) -> str:
    """The greedy text after these ids, generated in one call."""
    loaded = load_run(run)
    drawn = generate(loaded.model, pack(loaded.params), [ids], jax.random.key(0), n, Sampling(0), 258, (257,))[0]
    tokens = drawn.tolist()
    return TOKENIZER.decode(tokens[: tokens.index(257)] if 257 in tokens else tokens)


@pytest.mark.parametrize(("chat", "begin"), [(None, [256]), (ChatFormat(), [])])
def test_a_prompt_beyond_the_context_is_noted_and_keeps_its_begin_token(
    chat: ChatFormat | None, begin: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, most = imported(tmp_path / "run", chat=chat), 64 - len(begin)
    for n in (most, most + 1, 200):
        prompt = "".join(chr(ord("a") + i % 26) for i in range(n))
        options = ["--max-new-tokens", "1", "--temperature", "0"]
        assert main(["generate", str(run), "--prompt", prompt, *options]) == 0
        said = capsys.readouterr()
        assert said.out == prompt + greedy(run, [*begin, *prompt.encode()[-most:]], 1) + "\n"
        note = f"note: --prompt has {n} tokens, but the model reads only the last {most}, because its context holds 64;"
        assert said.err.startswith(note) if n > most else said.err == ""
        assert said.err.count("\n") == (n > most)


def test_a_begin_token_stays_in_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, prompt = imported(tmp_path / "run", chat=ChatFormat(256)), "ab" * 40
    loaded = load_run(run)
    arguments = (loaded.model, pack(loaded.params), [[256, *prompt.encode()]], jax.random.key(0), 70, Sampling(0), 258)
    want, forgotten = (generate(*arguments, begin_token=begin)[0].tolist() for begin in (256, None))
    assert want != forgotten
    assert main(["generate", str(run), "--prompt", prompt, "--max-new-tokens", "70", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == TOKENIZER.decode([*prompt.encode(), *want]) + "\n"


def test_a_conversation_begins_as_its_template_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported(tmp_path / "run", chat=ChatFormat(256, (257,), chat_template="{{ messages[0].content }}</s>"))
    assert main(["generate", str(run), "--chat", "--prompt", "hi", "--temperature", "0", "--max-new-tokens", "9"]) == 0
    assert capsys.readouterr().out == greedy(run, [*b"hi", 257], 9) + "\n"


def test_a_question_beyond_the_context_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its head a template has another meaning. (It takes 8 tokens here.)"""
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
    """The question and the head of the template stay in the context until the last token."""
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
    """The conversation before it stays, and the system message always does."""
    run, asked = str(imported(tmp_path / "run")), []
    encode = train.writer.encode_chat

    def remember(tokenizer: BPETokenizer, chat: ChatFormat, messages: list[dict[str, str]]) -> list[int]:
        asked.append([message["content"] for message in messages])
        return encode(tokenizer, chat, messages)

    monkeypatch.setattr(train.writer, "encode_chat", remember)
    monkeypatch.setattr(train.writer, "MOST_CHARACTERS", 500)

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
    """An answer has a quarter of the context, or its greatest length if that is less; older questions are forgotten."""
    run = str(imported(tmp_path / "run", chat=ChatFormat(256, (), "<s>", "</s>", TEMPLATE)))
    for most, length, forgotten in (("1", 31, False), ("1", 32, True), ("99", 16, False), ("99", 17, True)):
        monkeypatch.setattr("sys.stdin", io.StringIO("a\n" + "b" * length))
        monkeypatch.setattr(train.writer.Writer, "answer", lambda self, ids, seed: iter(["12345"]))
        assert main(["chat", run, "--max-new-tokens", most]) == 0
        assert ("no longer fit" in capsys.readouterr().err) == forgotten, (most, length)
