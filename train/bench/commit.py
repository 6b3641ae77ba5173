"""Another commit of this repository as the other side of a bench: its code in a folder, and the job as it takes it."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.utils.errors import InputError, printable

from ..config import OptimizerConfig, TrainConfig
from . import alternate
from .process import last_line, worker_environment

CODE = ("jaxllm", "train")  # the folders that a bench runs
SECTIONS = {"model": GPTConfig, "train": TrainConfig, "optimizer": OptimizerConfig}  # of a job
# Importing the worker shows whether it can run, and compiles its modules as those of the working tree are by now.
FIELDS = """
import dataclasses, json
import train.bench.{worker}
from jaxllm import GPTConfig
from train.config import OptimizerConfig, TrainConfig
kinds = dict(model=GPTConfig, train=TrainConfig, optimizer=OptimizerConfig)
print(json.dumps({{name: [field.name for field in dataclasses.fields(kind)] for name, kind in kinds.items()}}))
"""


@dataclass(frozen=True)
class Commit:
    """Another commit of the repository that holds this code, and where the working tree stands."""

    rev: str  # as the user names it
    hash: str
    name: str  # the hash, abbreviated
    worker: str  # the module in `train/bench` whose process is timed
    subject: str
    head: str  # the hash of the commit that the working tree began from
    changed: bool  # whether the working tree's code differs from that commit

    def lines(self) -> list[str]:
        """Which code each side runs."""
        changes = "with uncommitted changes" if self.changed else "without changes"
        return [
            f"jaxllm is the working tree, {self.head[: len(self.name)]} {changes}",
            textwrap.shorten(printable(f"{self.name} is {self.rev}: {self.subject}"), 100, placeholder="..."),
        ]

    def figures(self) -> dict[str, Any]:
        """The same for the JSON."""
        ours = {"commit": self.head, "uncommitted_changes": self.changed}
        return {"ours": ours, "peer": {"commit": self.hash, "rev": self.rev, "subject": self.subject}}


def find_commit(rev: str, worker: str) -> Commit:
    """The commit of that name, which has this worker.

    Raises InputError if this code lies in no checkout, git knows no such commit, or the commit has no such worker.
    """
    top = _git("rev-parse", "--show-toplevel")
    # An installed package may lie within the user's own repository.
    if top.returncode or Path(top.stdout.strip()).resolve() != alternate.ROOT.resolve():
        raise InputError(
            f"--against-commit needs a git checkout of jaxllm, but this code lies in {alternate.ROOT}"
            f"{_reason(top)}; run `python -m train` in a clone."
        )
    found = _git("rev-parse", "--verify", "--end-of-options", f"{rev}^{{commit}}")
    if found.returncode:
        raise InputError(f"--against-commit {rev}: git knows no such commit; name a hash, a tag, a branch or HEAD~N.")
    commit = found.stdout.strip()
    name, _, subject = _git("log", "-1", "--no-show-signature", "--format=%h %s", commit).stdout.strip().partition(" ")
    path = f"train/bench/{worker}.py"
    if _git("cat-file", "-e", f"{commit}:{path}").returncode:
        raise InputError(
            f"--against-commit {rev}: {name} has no {path}, the process that is timed; name one of the commits since "
            f"`git log --diff-filter=A -- {path}`."
        )
    head = _git("rev-parse", "HEAD").stdout.strip()
    changes = _git("status", "--porcelain", "--untracked-files=normal", "--", *CODE).stdout
    return Commit(rev, commit, name, worker, subject, head, bool(changes))


@contextmanager
def checked_out(commit: Commit) -> Iterator[Path]:
    """A temporary folder with the files of a commit.

    The files are written through an index beside them. A `git worktree` would be entered in the repository, and the
    entry would stay if this process is killed.
    """
    with tempfile.TemporaryDirectory(prefix="jaxllm-commit-") as folder:
        tree = Path(folder) / "tree"
        for words in (["read-tree", commit.hash], ["checkout-index", "--all", f"--prefix={tree}/"]):
            done = _git(*words, GIT_INDEX_FILE=str(Path(folder) / "index"))
            if done.returncode:
                raise InputError(f"{commit.name} cannot be written to {folder}{_reason(done)}; make room there.")
        yield tree


def known_fields(commit: Commit, tree: Path) -> dict[str, list[str]]:
    """The names of the fields that a job of that commit has, by section. Raises InputError if its code cannot run."""
    code = FIELDS.format(worker=commit.worker)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=worker_environment(tree), capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(
            f"--against-commit {commit.rev}: the code of {commit.name} does not run here: "
            f"{last_line(done.stderr, f'exit code {done.returncode}')}; name a later commit."
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def fitted_job(job: dict[str, Any], known: dict[str, list[str]], name: str) -> dict[str, Any]:
    """The job without fields that the commit of that name does not know, which must have their default here.

    Raises InputError for another value of such a field.
    """
    fitted = dict(job)
    for section in SECTIONS.keys() & job.keys():
        defaults = {field.name: field.default for field in fields(SECTIONS[section])}
        for field in job[section].keys() - set(known[section]):
            if job[section][field] != defaults[field]:
                raise InputError(
                    f"{section}.{field} is {job[section][field]}, but {name} does not know this field; leave it at its "
                    f"default, {defaults[field]}."
                )
        fitted[section] = {field: value for field, value in job[section].items() if field in known[section]}
    return fitted


def _git(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """git, run where this code lies."""
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=alternate.ROOT, env=os.environ | environment,
            capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"--against-commit needs git, which cannot be started: {error.strerror}.") from None


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """git's own words, in brackets."""
    return f" ({done.stderr.splitlines()[0]})" if done.stderr else ""
