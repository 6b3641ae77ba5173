"""The process that runs the learner's functions: `python -m PACKAGE.learn.checking.runner`, started by `child`.

It reads a job as JSON on standard input and writes a line of JSON for each thing that it finds out. The lines leave by
a copy of standard output; to the learner's functions standard output is a place that keeps what they print.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .guards import Guards
from .languages import LANGUAGES
from .trees import leaves_of, mapped
from .wire import Odd, decode, encode

MEMORY = 4 * 2**30  # bytes that functions may take beyond what the libraries have
DEEPEST = 10  # own lines of a traceback; a recursion has a thousand
LONGEST = 300  # characters of an exception's message


class Runner:
    """Runs the pieces of a job."""

    def __init__(self, job: dict[str, Any], answers: TextIO) -> None:
        self._answers = answers
        self._folder = Path(job["folder"])
        self._language = LANGUAGES[job["language"]]()
        sys.path.append(job["folder"])  # at the end: a learner's `random.py` must not hide Python's
        sys.dont_write_bytecode = True
        limit_memory()
        self._guards = Guards(self._folder)

    def say(self, **answer: Any) -> None:
        """Write a line to the parent."""
        print(json.dumps(answer), file=self._answers, flush=True)

    def piece(self, piece: dict[str, Any]) -> None:
        """Import a file and call its functions."""
        answer, module = self._tried(lambda: importlib.import_module(piece["module"]))
        self.say(piece=piece["module"], imported=True, **answer)
        for function in [] if "failed" in answer else piece["functions"]:
            self._function(piece["module"], module, function)

    def _function(self, piece: str, module: Any, function: dict[str, Any]) -> None:
        name = function["name"]
        found = getattr(module, name, None)
        if not callable(found):
            self.say(piece=piece, function=name, missing=True)
            return
        for number, call in enumerate(function["calls"]):
            self.say(piece=piece, function=name, call=number, **self._call(found, call))
        self.say(piece=piece, function=name, done=True)

    def _call(self, function: Callable[..., Any], call: dict[str, Any]) -> dict[str, Any]:
        """The result of a call, or how it failed, and the gradients."""
        given = decode(call["arguments"])
        arguments = self._converted(given)
        answer, result = self._tried(lambda: function(*arguments))
        if "failed" in answer:
            return answer
        answer["value"] = encode(result, self._plain)
        answer["changed"] = [
            i for i, (old, new) in enumerate(zip(given, arguments, strict=True)) if self._changed(old, new)
        ]
        if call["cotangent"] is not None:
            fresh = self._converted(given)
            cotangent = decode(call["cotangent"])
            tried, gradients = self._tried(lambda: self._language.gradients(function, fresh, cotangent))
            answer["gradient_failed"] = tried.get("failed")
            answer["gradients"] = encode(gradients)
        return answer

    def _tried(self, call: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
        """What a call returns, or the failure, and what it printed."""
        failed, result = None, None
        with self._guards.watched():
            try:
                with np.errstate(all="ignore"):
                    result = call()
            except BaseException as error:  # SystemExit too
                failed = self._failure(error)
        answer: dict[str, Any] = {"printed": self._guards.heard.text}
        if self._guards.touched:
            failed = (failed or {"lines": []}) | {"kind": "refused", "says": self._guards.touched}
        return (answer | {"failed": failed}, None) if failed else (answer, result)

    def _converted(self, given: list[Any]) -> list[Any]:
        """The arguments as the learner gets them; a copy at each call."""
        return list(mapped(lambda x: self._language.array(x) if isinstance(x, np.ndarray) else x, given))

    def _plain(self, leaf: Any) -> Any:
        try:
            return self._language.plain(leaf)
        except Exception:
            return Odd(f"a value of the type {type(leaf).__name__}")

    def _changed(self, old: Any, new: Any) -> bool:
        """Whether a function has changed an argument in place."""
        before, after = leaves_of(old), leaves_of(new)
        return len(before) != len(after) or not all(
            np.array_equal(a, self._plain(b), equal_nan=isinstance(a, np.ndarray) and a.dtype.kind == "f")
            for a, b in zip(before, after, strict=True)
        )

    def _failure(self, error: BaseException) -> dict[str, Any]:
        """An exception with the lines of the traceback that are in the learner's folder."""
        lines = []
        frames = traceback.extract_tb(error.__traceback__)
        for frame in frames:
            path = Path(frame.filename)
            if path.parent == self._folder:
                lines.append([path.name, frame.lineno, frame.name, frame.line or ""])
        if isinstance(error, SyntaxError) and error.filename:
            lines.append([Path(error.filename).name, error.lineno or 1, "", (error.text or "").strip()])
        if len(lines) > DEEPEST:
            lines = [*lines[: DEEPEST // 2], *lines[-DEEPEST // 2 :]]
        kind = "syntax" if isinstance(error, SyntaxError) else "exit" if isinstance(error, SystemExit) else "raised"
        if isinstance(error, NotImplementedError) and len(frames) and Path(frames[-1].filename).parent == self._folder:
            kind = "not written"
        try:
            message = str(error.msg if isinstance(error, SyntaxError) else error)[:LONGEST]
        except BaseException:
            message = ""
        return {"kind": kind, "type": type(error).__name__, "message": message, "lines": lines}


def limit_memory() -> None:
    """Let an array that is far too large raise MemoryError, before the machine swaps. Windows has no such limit."""
    try:
        import resource
    except ImportError:
        return
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else open(os.devnull) as file:
        pages = file.read().split()
    if pages:
        limit = int(pages[0]) * resource.getpagesize() + MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def main() -> None:
    """Take the job, keep the way to the parent, close all others."""
    job = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    runner = Runner(job, answers)
    os.dup2(nowhere, 2)  # until here an error of the libraries reaches the parent
    runner.say(ready=True)
    for piece in job["pieces"]:
        runner.piece(piece)
    runner.say(finished=True)
    os._exit(0)  # threads or exit handlers of the learner's cannot hold the process


if __name__ == "__main__":
    main()
