"""`jaxllm tokenizer` and `jaxllm data` on the command line: results, and one sentence for wrong input."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer
from train.cli import build_parser, main

pytestmark = pytest.mark.newest

TEXT = "The theatre's thirty-three thieves thought that they'd thrilled the throne. é東🙂 123\n\n  the end.\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT * 3)
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("ids.txt").write_text("84 104 999 1")
    Path("corpus").mkdir()
    for i in range(40):
        (Path("corpus") / f"{i}.txt").write_text(TEXT + str(i))
    BPETokenizer.train(TEXT, 300).save("tok.json")
    CharTokenizer.train(TEXT).save("char.json")
    return tmp_path


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(shlex.split(command)) == 0
    return capsys.readouterr().out


def test_train_writes_the_tokenizer_and_its_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    out = ran("tokenizer train text.txt corpus --vocab-size 290 --out new.json --processes 1", capsys)
    tok = load_tokenizer("new.json")
    texts = [Path("text.txt").read_text(), *(p.read_text() for p in sorted(Path("corpus").iterdir()))]
    assert tok == BPETokenizer.train(texts, 290)
    n_bytes, n = sum(len(text.encode()) for text in texts), sum(len(tok.encode(text)) for text in texts)
    assert f"{n_bytes:,} bytes in {n:,} tokens, {n_bytes / n:.3f} bytes per token; to read: new.vocab.txt" in out
    assert "[t][h] -> [th] 256" in Path("new.vocab.txt").read_text()
    for kind, size in (("char", ""), ("word", "--vocab-size 9")):
        ran(f"tokenizer train text.txt --kind {kind} {size} --out {kind}s.json", capsys)
        assert load_tokenizer(f"{kind}s.json").kind == kind
    assert load_tokenizer("chars.json").vocab_size == len(set(TEXT)) and load_tokenizer("words.json").vocab_size == 9


def test_encode_and_decode_are_inverse(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main("tokenizer encode tok.json text.txt".split()) == 0
    ids = capfdbinary.readouterr().out
    assert ids == (" ".join(map(str, load_tokenizer("tok.json").encode(TEXT * 3))) + "\n").encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids)))
    assert main("tokenizer decode tok.json".split()) == 0
    assert capfdbinary.readouterr().out == (TEXT * 3).encode()


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    first = ran("tokenizer show tok.json --top 2", capsys).splitlines()
    assert first == [
        "bpe tokenizer with 300 ids; its first merges:",
        "     256  [t][h] -> [th]",
        "     257  [ ][th] -> [ th]",
    ]
    shown = ran("tokenizer show tok.json --text 'the [bold] \x1b[31m thé\n' --top 1", capsys)
    assert "\x1b" not in shown and r"\x1b" in shown
    pieces, tokens = shown.split("\n\n")[0], shown.splitlines()[-2:]
    ids = load_tokenizer("tok.json").encode("the [bold] \x1b[31m thé\n")
    assert pieces.count("|") == len(ids) - 1 and pieces.replace("|", "").startswith("the [bold]")
    assert tokens[0].startswith(f"{len(ids)} tokens, {len('the [bold] .[31m thé.'.encode())} bytes, ")
    assert "its first tokens:" in ran("tokenizer show char.json", capsys)
    assert ran("tokenizer show char.json --file text.txt", capsys).startswith("T|h|e| |t|h")


def test_show_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = ran("tokenizer show tok.json --text 'the [bold]the' --top 0", capsys)
    n = len(load_tokenizer("tok.json").encode("the [bold]the"))
    assert len(re.findall(r"\x1b\[30;10\dm", out)) == n  # a background for each piece
    assert re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()[0] == "the [bold]the"


def test_export_and_import(capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("theirs.tiktoken", "tokenizer.json"):
        ran(f"tokenizer export tok.json --out {file}", capsys)
        ran(f"tokenizer import {file} --out from-{file}.json", capsys)
        assert load_tokenizer(f"from-{file}.json") == load_tokenizer("tok.json")


def test_prepare_and_verify(capsys: pytest.CaptureFixture[str]) -> None:
    out = ran("data prepare corpus --tokenizer tok.json --out d --validation 0.2 --processes 1", capsys)
    assert "300 ids, uint16" in out
    train, validation = (int(line.split()[1]) for line in out.splitlines()[1:3])
    assert train + validation == 40 and validation > 0
    assert "every shard is as it was written" in ran("data verify d", capsys)
    assert "no document is for validation" in ran("data prepare text.txt --tokenizer tok.json --out e", capsys)


def test_json_lines_whose_text_has_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("lines.ndjson").write_text("".join(json.dumps({"body": TEXT}) + "\n" for _ in range(20)))
    for command, made in (
        ("tokenizer train lines.ndjson --vocab-size 290 --out lines.json --processes 1", "lines.json"),
        ("data prepare lines.ndjson --tokenizer tok.json --out d --processes 1", "index.json"),
        ("bench tokenizer lines.ndjson --vocab-size 290 --against tiktoken --rounds 1 --json bench.json", "bench.json"),
    ):
        assert main(shlex.split(command)) == 2
        assert "its texts are body: name one with --field" in capsys.readouterr().err
        ran(f"{command} --field body", capsys)
        assert list(Path().rglob(made))
    assert json.loads(Path("bench.json").read_text())["sizes"]["bytes"] == 20 * len(TEXT.encode()) + 19


WRONG = {
    "tokenizer train text.txt --out x.json": "--vocab-size is missing",
    "tokenizer train text.txt --kind char --vocab-size 9 --out x.json": "a character tokenizer has one id for each character of the text",
    "tokenizer train text.txt --vocab-size 256 --out x.json": "need at least 257",
    "tokenizer train missing --vocab-size 300 --out x.json": "'missing' is no file or folder",
    "tokenizer train latin.txt --vocab-size 300 --out x.json": "latin.txt is not UTF-8: byte 0xe9 at offset 3",
    "tokenizer train text.txt --vocab-size 300 --out tok.json": "tok.json exists already",
    "tokenizer train text.txt --vocab-size 300 --out no/x.json": "there is no folder no; make it first",
    "tokenizer train text.txt --vocab-size 300 --out x.json --processes 0": "processes is 0, but it must be from 1",
    "tokenizer encode missing.json text.txt": "cannot read the tokenizer missing.json",
    "tokenizer encode corpus text.txt": "cannot read the tokenizer corpus/tokenizer.json",
    "tokenizer encode tok.json latin.txt": "latin.txt is not UTF-8: byte 0xe9 at offset 3",
    "tokenizer encode tok.json missing.txt": "cannot read missing.txt: No such file",
    "tokenizer decode tok.json ids.txt": "id 999, number 3, is outside the vocabulary of 300 ids",
    "tokenizer decode tok.json text.txt": "'The', number 1 of the ids, is not a whole number",
    "tokenizer show tok.json --top -1": "--top is -1, but it must be 0 or more",
    "tokenizer show tok.json --file latin.txt": "latin.txt is not UTF-8",
    "tokenizer export char.json --out x.tiktoken": "is a char tokenizer, but tiktoken's files hold byte pairs of bytes only",
    "tokenizer export tok.json --out text.txt": "text.txt exists already",
    "tokenizer import text.txt --out x.json": "text.txt is not a tokenizer.json: it is not JSON",
    "data prepare corpus --tokenizer missing.json --out d": "cannot read the tokenizer missing.json",
    "data prepare text.txt --tokenizer tok.json --out corpus": "corpus is not empty; choose another folder",
    "data prepare corpus --tokenizer tok.json --out ./corpus": "corpus is the source itself; choose another folder with --out",
    "data prepare corpus missing --tokenizer tok.json --out d": "'missing' is no file or folder",
    "data prepare corpus --tokenizer tok.json --out d --validation 1": "validation is 1.0, but it must be a share",
    "data prepare corpus --tokenizer tok.json --out d --processes -1": "processes is -1",
    "data verify corpus": "corpus holds no prepared data: it has no index.json",
}  # fmt: skip


@pytest.mark.parametrize("command", WRONG)
def test_wrong_commands(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert main(shlex.split(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxllm {command.split()[0]}: ") and error.count("\n") == 1
    assert WRONG[command] in error
    assert {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("command", ["tokenizer train", "tokenizer encode", "tokenizer decode", "tokenizer show", "tokenizer export", "tokenizer import", "data prepare", "data verify"])  # fmt: skip
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    example = capsys.readouterr().out.split("example:")[1].strip()
    assert example.startswith(f"jaxllm {command} ")
    build_parser().parse_args(shlex.split(example)[1:])


def test_they_do_not_import_jax() -> None:
    code = """
import sys
from train.cli import main
assert main("tokenizer show tok.json".split()) == 0
assert main("data prepare corpus --tokenizer tok.json --out d".split()) == 0
assert "jax" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours beside tiktoken, which is always installed; exit 1 if a peer's ids differ."""
    monkeypatch.setattr("train.bench.tokenizer.usable_cores", lambda: 1)
    command = "bench tokenizer corpus --vocab-size 290 --against tiktoken --rounds 2 --json bench.json"
    out = ran(command, capsys)
    report = json.loads(Path("bench.json").read_text())
    n_bytes = len("\n".join(p.read_text() for p in Path("corpus").iterdir()).encode())
    sizes = report["sizes"]
    assert (sizes["bytes"], sizes["vocab_size"]) == (n_bytes, 290)
    assert sizes["bytes_per_token"] == n_bytes / sizes["tokens"] > 1
    ours, theirs = (side["encoding"]["rounds_s"] for side in (report["ours"], report["peer"]["tiktoken"]))
    assert len(report["ours"]["training"]["rounds_s"]) == 2
    ratios = sorted(t / o for o, t in zip(ours, theirs, strict=True))
    assert report["ratio"]["tiktoken"]["encoding"]["median"] == pytest.approx(sum(ratios) / 2)
    assert re.search(r"encoding  tiktoken .* MB/s   jaxllm \d+\.\d\d times as fast", out)
    monkeypatch.setattr("tiktoken.Encoding.encode_ordinary", lambda *_: [0])
    assert main(shlex.split(command)) == 1
    assert "tiktoken produced other ids" in capsys.readouterr().out
    monkeypatch.setattr("train.bench.tokenizer.PACKAGES", {"hf": "no_such_package"})
    assert main("bench tokenizer corpus --against hf".split()) == 2
    assert "--against hf: there is no no_such_package in this Python" in capsys.readouterr().err
