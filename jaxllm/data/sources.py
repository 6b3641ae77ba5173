"""Corpora by name: the documentation and the sources inside Python, and texts that are downloaded once."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxllm.utils.errors import InputError, nearest

PYTHON_DOCS, PYTHON_STDLIB = "python-docs", "python-stdlib"
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


@dataclass(frozen=True)
class Corpus:
    """A text on the network, known by its sha256."""

    url: str
    sha256: str


NAMED_CORPORA = {
    "tinyshakespeare": Corpus(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "the-verdict": Corpus(
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
}


def python_topics() -> Iterator[tuple[str, str]]:
    """Names and texts of the topics that `help()` shows: about 480,000 characters, depending on the Python version."""
    from pydoc_data.topics import topics  # type: ignore[import-untyped,unused-ignore]

    for name in sorted(topics):
        yield name, topics[name].strip()


def stdlib_files() -> Iterator[Path]:
    """The modules of Python's standard library without its tests, about 11 MB. Raises InputError if there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*.py")) if not NOT_LIBRARY & set(path.relative_to(root).parts)]
    if not found:
        raise InputError(f"this Python keeps no source of its standard library in {root}; name a folder of text.")
    yield from found


def unknown_source(source: str) -> InputError:
    """The error for a source that is neither a corpus nor a file."""
    names = nearest(source, [PYTHON_DOCS, PYTHON_STDLIB, *NAMED_CORPORA])
    return InputError(f"data.source {source!r} is no file or folder; of the named corpora, {names}")


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/jaxllm, or ~/.cache/jaxllm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"


def named_file(name: str) -> Path:
    """The file of a corpus in NAMED_CORPORA, downloaded if it is not cached, and checked by sha256.

    Raises InputError if it cannot be downloaded, naming where to put it by hand, and for a wrong sha256.
    """
    corpus, path = NAMED_CORPORA[name], cache_folder() / f"{name}.txt"
    try:
        if not path.exists():
            _download(name, corpus, path)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != corpus.sha256:
        raise InputError(f"{path} is not {name} (sha256 {corpus.sha256}); delete it to have it downloaded again.")
    return path


def _download(name: str, corpus: Corpus, path: Path) -> None:
    """Download, check, write a temporary file, then rename it: a broken download is never taken for the corpus."""
    import http.client  # only here: most programs download nothing
    import urllib.request

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
            f"the download from {corpus.url} is not {name} (sha256 {corpus.sha256}); put the right file as {path}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot keep {name} as {path}: {error.strerror}; make room or set XDG_CACHE_HOME.") from None
