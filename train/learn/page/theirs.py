"""A learner's functions on the page of `jaxllm learn show`: run in the process of `child`, on the right numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import GPT
from jaxllm.gpt import apply_with_intermediates

from ..checking.calls import Failure
from ..checking.check import SECONDS
from ..checking.child import Child, Ended
from ..checking.wire import decode, encode
from ..course import ORDER, file_name
from ..folder import LearnFolder
from .calls import Call
from .values import Named, Trace

TOLERANCE = 1e-4  # relative to the largest number; functions may compute in float32


@dataclass
class Theirs:
    """What a learner's functions made: arrays by name, and for each whose it is, or why it is not theirs."""

    arrays: Named = field(default_factory=dict)  # those of one head end in its number, updates begin with "update:"
    made_by: dict[str, str] = field(default_factory=dict)  # "linear of p07_linear_map.py"
    wrong: set[str] = field(default_factory=set)  # the functions of which a number is not what is right
    failed: dict[str, str] = field(default_factory=dict)  # "your linear of p07_linear_map.py returns a tuple"

    def take(self, call: Call, result: Any, right: Trace) -> None:
        """Keep a result, if it has the shape of what is right."""
        if result is None:
            return self.fail(call, "returns nothing")
        try:
            made = {name: np.asarray(x, float) for name, x in call.placed(result).items()}
        except (TypeError, ValueError, IndexError, KeyError):
            return self.fail(call, "returns something of another type")
        for name, x in made.items():
            if x.shape != np.shape(wanted := array_of(right, name)):
                self.fail(call, f"returns the shape {x.shape} for {np.shape(wanted)}")
            else:
                self.keep(name, x, wanted, f"{call.function} of {file_name(call.piece)}")

    def keep(self, name: str, x: Any, wanted: Any, who: str) -> None:
        """Keep an array, and whether it is right."""
        self.arrays[name], self.made_by[name] = x, who
        if not np.allclose(x, wanted, rtol=0, atol=TOLERANCE * max(np.abs(wanted).max(), 1e-3)):
            self.wrong.add(who)

    def fail(self, call: Call, says: str) -> None:
        """Keep why a call has no result, unless an earlier piece has made the same."""
        for name in call.names:
            self.failed[name] = f"your {call.function} of {file_name(call.piece)} {says}"


def array_of(trace: Trace, name: str) -> Any:
    """The array of a name, of a head, or an update."""
    side, _, of_update = name.rpartition(":")
    if side:
        return trace.updates[of_update]
    base, _, head = name.rpartition("/")
    return trace.values[base][int(head)] if head.isdigit() else trace.values[name]


def run_theirs(model: GPT, params: Any, inputs: list[int], right: Trace) -> Theirs:
    """What a model whose block is the learner's computes from block to block; nothing for any other model."""
    found, block = Theirs(), model.config.block
    if block is not None:
        params = jax.tree.map(jnp.asarray, params)  # those of a run are NumPy's
        _, seen = apply_with_intermediates(model, params, jnp.asarray([inputs], jnp.int32))
        for name, x in seen.items():
            if name in right.values:
                found.keep(name, np.asarray(x[0], float), right.values[name], str(block))
    return found


def call_theirs(folder: LearnFolder, todo: list[Call], right: Trace, found: Theirs) -> Theirs:
    """Add what the calls of all pieces that are there return. A process that does not end costs its piece.

    Raises InputError if the language cannot be used.
    """
    left = [name for name in ORDER if folder.file(name).is_file() and any(call.piece == name for call in todo)]
    while left:
        running = left[0]
        try:
            for piece, call, answer in _answers(folder, left, todo):
                running = piece
                _take(found, call, answer, right)
            break
        except Ended as ended:
            for one in todo:
                if one.piece == running and not any(name in found.arrays for name in one.names):
                    found.fail(one, str(ended))
            left = left[left.index(running) + 1 :]
    return found


def _answers(
    folder: LearnFolder, names: list[str], todo: list[Call]
) -> Iterator[tuple[str, list[Call], dict[str, Any]]]:  # fmt: skip
    """Each answer with its piece and the calls that it is about."""
    by_file = {file_name(name).removesuffix(".py"): name for name in names}
    groups = {name: _by_function(call for call in todo if call.piece == name) for name in names}
    pieces = [
        {"module": module, "functions": [
            {"name": function, "calls": [{"arguments": encode(call.arguments), "cotangent": None} for call in group]}
            for function, group in groups[name].items()
        ]}
        for module, name in by_file.items()
    ]  # fmt: skip
    with Child({"language": folder.language, "folder": str(folder.path.resolve()), "pieces": pieces}) as child:
        for answer in child.answers(SECONDS[folder.language]):
            name = by_file[answer["piece"]]
            group = groups[name].get(answer.get("function", ""), [call for call in todo if call.piece == name])
            yield name, [group[answer["call"]]] if "call" in answer else group, answer


def _by_function(calls: Iterator[Call]) -> dict[str, list[Call]]:
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(call.function, []).append(call)
    return groups


def _take(found: Theirs, about: list[Call], answer: dict[str, Any], right: Trace) -> None:
    if answer.get("failed") or answer.get("missing"):
        says = Failure.of(answer["failed"]).says if answer.get("failed") else "is not in the file"
        for call in about:
            found.fail(call, says)
    elif "call" in answer:
        found.take(about[0], decode(answer["value"]), right)
