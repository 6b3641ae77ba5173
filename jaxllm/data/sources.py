"""Where text comes from: the docs inside Python, a file, a folder, or a named corpus downloaded once."""

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from jaxllm.errors import InputError
from jaxllm.validate import nearest

PYTHON_DOCS = "python-docs"


@dataclass(frozen=True)
class Corpus:
    """A text on the network, known by its sha256."""

    url: str
    sha256: str


NAMED = {
    "tinyshakespeare": Corpus(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "the-verdict": Corpus(
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
}


def read_source(source: str) -> str:
    """The text of "python-docs", of a named corpus, of a file, or of all files of a folder, by path order.

    Raises InputError for a missing, empty or non-UTF-8 file, and for a corpus that cannot be downloaded.
    """
    if source == PYTHON_DOCS:
        return _python_docs()
    if not source:
        raise InputError("data.source is empty; name a corpus, a text file or a folder.")
    if source in NAMED:
        return _decode(_cached(source, NAMED[source]), source)
    path = Path(source)
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        files = files if path.is_dir() else [path]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read data.source {source!r}: {error}.") from None
    text = "\n".join(_decode(_read(file), str(file)) for file in files)
    if not text:
        raise InputError(f"data.source {source!r} holds no text.")
    return text


def _python_docs() -> str:
    """The reference topics that `help()` shows, about 480,000 characters, a little different in each Python."""
    from pydoc_data.topics import topics  # type: ignore[import-untyped,unused-ignore]

    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        names = nearest(str(path), [PYTHON_DOCS, *NAMED])
        raise InputError(f"data.source {str(path)!r} is no file or folder; of the named corpora, {names}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read data.source {str(path)!r}: {error}.") from None


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; convert it first, "
            f"for example with iconv."
        ) from None


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/jaxllm, or ~/.cache/jaxllm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"


def _cached(name: str, corpus: Corpus) -> bytes:
    path = cache_folder() / f"{name}.txt"
    if not path.exists():
        _download(name, corpus, path)
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != corpus.sha256:
        raise InputError(f"{path} is not {name} (sha256 {corpus.sha256}); delete it to have it downloaded again.")
    return content


def _download(name: str, corpus: Corpus, path: Path) -> None:
    """Fetch into a temporary file, check, then rename: a broken download never passes for the corpus."""
    try:
        with urllib.request.urlopen(corpus.url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot download {name} ({getattr(error, 'reason', error)}): fetch {corpus.url} on another machine "
            f"and put it here as {path}, or set data.source to the path of a text."
        ) from None
    if hashlib.sha256(content).hexdigest() != corpus.sha256:
        raise InputError(
            f"what {corpus.url} sent is not {name} (sha256 {corpus.sha256}); put the right file as {path}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"cannot keep {name} as {path}: {error.strerror}; make room or set XDG_CACHE_HOME.") from None
