"""The text of a compiled program (XLA's HLO) as data: its computations, and their instructions in order.

Only what costs are counted from is kept: shapes, operands, the computations that an instruction calls, and its
attributes as text. https://openxla.org/xla/operation_semantics describes the operations.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}  # others end in their number of bits
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](\{[^}]*\})?")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)")
CONDITION = re.compile(r"condition=%([\w.\-]+)")
TRIPS = re.compile(r"known_trip_count\D*(\d+)")


class ArrayShape(NamedTuple):
    """An array of a program, on one device."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False  # in the memory of the core (a TPU's VMEM), and not in that of the device

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        """Its bytes."""
        digits = re.search(r"\d+", self.dtype)
        return self.size * BITS.get(self.dtype, int(digits[0]) if digits else 0) // 8


@dataclass(frozen=True)
class Instruction:
    """One operation of a computation."""

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]  # of the result: one, or those of a tuple
    operands: tuple[str, ...]  # names of instructions of the same computation
    attributes: str
    arguments: str  # what stands in its brackets: the number of a parameter, the value of a constant

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls; of a loop its body."""
        return [name for found in CALLED.findall(self.attributes) for name in NAME.findall(found)]


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in order. The last is the result."""

    instructions: dict[str, Instruction]

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take the result of each one."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for name in dict.fromkeys(one.operands):
                found[name].append(one)
        return found

    @cached_property
    def parameters(self) -> list[Instruction]:
        """Its parameters by number."""
        own = [one for one in self.instructions.values() if one.opcode == "parameter"]
        return sorted(own, key=lambda one: int(one.arguments))

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(reversed(self.instructions.values()))

    def operands(self, one: Instruction) -> list[Instruction]:
        """The instructions whose results an instruction takes."""
        return [self.instructions[name] for name in one.operands]


class CompiledProgram(NamedTuple):
    """A compiled program, as it runs on each device."""

    entry: str
    computations: dict[str, Computation]

    def executed(self) -> Iterator[tuple[int, Computation, Instruction]]:
        """Each instruction that runs as one unit, such as a fusion, and how often it runs in one run of the program."""
        waiting = [(1, self.entry)]
        while waiting:
            times, name = waiting.pop()
            computation = self.computations[name]
            for one in computation.instructions.values():
                if one.opcode in ("while", "call", "conditional", "async-start"):
                    waiting += [(times * self.trips(one), called) for called in one.called]
                else:
                    yield times, computation, one

    def trips(self, one: Instruction) -> int:
        """How often a loop runs its body: as XLA states, else the number below which its condition keeps a counter.

        1 for what is no loop, or one whose condition is another.
        """
        if found := TRIPS.search(one.attributes):
            return int(found[1])
        if not (condition := CONDITION.search(one.attributes)):
            return 1
        inside = self.computations[condition[1]].instructions.values()
        limits = [each.arguments for each in inside if each.opcode == "constant" and not each.shapes[0].dims]
        return int(limits[0]) if len(limits) == 1 and limits[0].isdigit() else 1


def parse(text: str) -> CompiledProgram:
    """The program of `jax.stages.Compiled.as_text`."""
    entry, own = "", None
    computations: dict[str, Computation] = {}
    for line in text.splitlines():
        if line.endswith("{") and " -> " in line:
            own = Computation({})
            name = line.removeprefix("ENTRY ").split(" (")[0].strip().removeprefix("%")
            computations[name] = own
            entry = name if line.startswith("ENTRY ") else entry
        elif own is not None and " = " in line:
            one = _instruction(line)
            own.instructions[one.name] = one
            if line.lstrip().startswith("ROOT "):
                root = one.name
        elif own is not None and line == "}":
            own.instructions[root] = own.instructions.pop(root)
            own = None
    return CompiledProgram(entry, computations)


def _instruction(line: str) -> Instruction:
    """An instruction of a line such as `ROOT %dot.1 = f32[2,3]{1,0} dot(%a, %b), lhs_contracting_dims={1}, ...`."""
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    shape_end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    opcode, _, rest_of = rest[shape_end:].lstrip().partition("(")
    end = _closing(f"({rest_of}") - 1
    arguments, attributes = rest_of[: end - 1], rest_of[end:]
    shapes = tuple(_array(*found.groups()) for found in ARRAY.finditer(rest[:shape_end]))
    return Instruction(name.removeprefix("%"), opcode, shapes, tuple(NAME.findall(arguments)), attributes, arguments)


def _array(dtype: str, dims: str, layout: str | None) -> ArrayShape:
    sizes = tuple(int(size.strip("<= ")) for size in dims.split(",") if size.strip())
    return ArrayShape(dtype, sizes, "S(1)" in (layout or ""))


def _closing(text: str) -> int:
    """The place after the bracket that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i + 1
    raise ValueError(f"no bracket closes {text[:80]}")
