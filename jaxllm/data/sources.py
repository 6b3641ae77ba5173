"""Corpora by name: the docs and the sources inside Python, and texts that are downloaded once."""

import hashlib
import http.client
import os
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxllm.utils.errors import InputError
from jaxllm.utils.validate import nearest

PYTHON_DOCS, PYTHON_STDLIB = "python-docs", "python-stdlib"
NO_MODULES = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


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


def python_topics() -> Iterator[tuple[str, str]]:
    """The reference topics that `help()` shows, about 480,000 characters, a little different in each Python."""
    from pydoc_data.topics import topics  # type: ignore[import-untyped,unused-ignore]

    for name in sorted(topics):
        yield name, topics[name].strip()


def stdlib_files() -> Iterator[Path]:
    """The modules of Python's standard library, without tests: about 11 MB. Raises InputError where there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*.py")) if not NO_MODULES & set(path.relative_to(root).parts)]
    if not found:
        raise InputError(f"this Python keeps no source of its standard library in {root}; name a folder of text.")
    yield from found


def unknown_source(source: str) -> InputError:
    """What to say of a source that is neither a corpus nor a file."""
    names = nearest(source, [PYTHON_DOCS, PYTHON_STDLIB, *NAMED])
    return InputError(f"data.source {source!r} is no file or folder; of the named corpora, {names}")


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/jaxllm, or ~/.cache/jaxllm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"


def named_file(name: str) -> Path:
    """The file of a corpus in NAMED, downloaded if it is not there, and checked.

    Raises InputError where it cannot be had, naming where to put it by hand, or is not what it should be.
    """
    corpus, path = NAMED[name], cache_folder() / f"{name}.txt"
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
