"""What one run of a compiled program costs a device: operations, bytes of its memory, bytes over the links.

XLA's own cost analysis counts the body of a loop once, so the instructions are counted here. Operations are those of
matrix products. An instruction reads its operands from the device's memory and writes its result there; a fusion is one
instruction, and reads only the slices that it takes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from .hlo import CompiledProgram, Computation, Instruction
from .rings import Ring, ring_of

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")
FREE = {  # without traffic of their own: names for what is already there, or the end of what is counted at its start
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "copy-done", "slice-done", "async-done", "async-update", "all-gather-done", "all-reduce-done",
    "collective-permute-done", "iota",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of an instruction, on each device, in one run of the program."""

    opcode: str
    times: int  # how often it runs
    flops: int  # of matrix products, each time
    memory: int  # bytes read and written, each time
    moved: int = 0  # bytes that a device sends over the links, each time
    dtype: str = ""  # of what it sends
    group: Ring | None = None  # the devices among which it is sent
    elements: int = 0  # of the operands and results of its matrix products, each time


def costs(program: CompiledProgram, n_devices: int) -> Iterator[Cost]:
    """The cost of each instruction that has one, and of the collective operations in a fusion."""
    for times, computation, one in program.executed():
        for opcode, own, sending in collectives(program, computation, one):
            group = ring_of(sending.attributes, n_devices)
            if group.size > 1:
                dtype = max(sending.shapes, key=lambda shape: shape.bytes).dtype
                yield Cost(opcode, times, 0, 0, sent(own, sending, opcode, group.size), dtype, group)
        if one.opcode.removesuffix("-start") not in COLLECTIVES and one.opcode not in FREE:
            found = [*products(program, computation, one)]
            yield Cost(
                one.opcode, times, sum(flops for flops, _ in found), memory_bytes(program, computation, one),
                elements=sum(elements for _, elements in found),
            )  # fmt: skip


def collectives(
    program: CompiledProgram, computation: Computation, one: Instruction, scattered: bool = False
) -> Iterator[tuple[str, Computation, Instruction]]:
    """The collective operations in an instruction, or in what a fusion calls: each with its kind and its computation.

    A TPU's compiler writes a reduce-scatter as a fusion of this name, with an all-reduce and slices of its result.
    """
    opcode = one.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        yield "reduce-scatter" if scattered else opcode, computation, one
    elif one.opcode in ("fusion", "custom-call"):
        for name in one.called:
            body = program.computations[name]
            for inside in body.instructions.values():
                yield from collectives(program, body, inside, name.startswith("all-reduce-scatter"))


def sent(computation: Computation, one: Instruction, opcode: str, n: int) -> int:
    """The bytes that each device sends in a collective operation among n devices, by the ring algorithms.

    All-gather and reduce-scatter move (n - 1) / n of the whole array past each device, an all-reduce is one after the
    other (Patarasuk and Yuan 2009), an all-to-all keeps one part of n.
    """
    given = sum(shape.bytes for operand in computation.operands(one) for shape in operand.shapes)
    share = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
    return round(given * share.get(opcode, (n - 1) / n))


def products(program: CompiledProgram, computation: Computation, one: Instruction) -> Iterator[tuple[int, int]]:
    """Each matrix product in an instruction, or in what it calls: its multiplications and additions, and the elements
    of its operands and its result."""
    if one.opcode in ("dot", "convolution"):
        left, right = (operand.shapes[0] for operand in computation.operands(one)[:2])
        count = _dot_flops if one.opcode == "dot" else _convolution_flops
        yield count(computation, one), left.size + right.size + one.shapes[0].size
    elif one.opcode in ("fusion", "custom-call"):
        for name in one.called:
            body = program.computations[name]
            for inside in body.instructions.values():
                yield from products(program, body, inside)


def _dot_flops(computation: Computation, one: Instruction) -> int:
    left = computation.operands(one)[0].shapes[0]
    return 2 * one.shapes[0].size * prod(left.dims[i] for i in _numbers(one.attributes, "lhs_contracting_dims"))


def _convolution_flops(computation: Computation, one: Instruction) -> int:
    """Of a convolution, as which a TPU's compiler writes a matrix product.

    An axis of batches is a spatial one, with a window in which most products are of padding; they are not counted.
    """
    left, right = (operand.shapes[0] for operand in computation.operands(one)[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels
    of_left, of_right, of_out = labels.groups()
    window = dict(re.findall(r"(\w+)=([\w-]+)", (re.search(r"window=\{([^}]*)\}", one.attributes) or [""])[0]))
    out = one.shapes[0].dims
    count = 2 * right.dims[of_right.index("i")] * out[of_out.index("b")] * out[of_out.index("f")]
    for axis in sorted(set(of_out) - set("bf")):
        sizes = (left.dims[of_left.index(axis)], right.dims[of_right.index(axis)], out[of_out.index(axis)])
        count *= _pairs(sizes, {name: value.split("x")[int(axis)] for name, value in window.items()})
    return count


def _pairs(sizes: tuple[int, int, int], window: dict[str, str]) -> int:
    """How many pairs of a place of the result and one of the window meet an element that is no padding."""
    length, width, out = sizes
    stride, spread, dilated = (int(window.get(name, 1)) for name in ("stride", "rhs_dilate", "lhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    places = (o * stride + k * spread - before for o in range(out) for k in range(width))
    return sum(0 <= place <= (length - 1) * dilated and place % dilated == 0 for place in places)


def memory_bytes(program: CompiledProgram, computation: Computation, one: Instruction) -> int:
    """The bytes of the device's memory that an instruction reads and writes."""
    if one.opcode in ("copy-start", "slice-start"):  # between the memories of the device and of the core
        return min(shape.bytes for shape in one.shapes if shape.dims)
    read = sum(min(_held(value), _taken(program, computation, one, value)) for value in computation.operands(one))
    return read + _written(program, computation, one)


def _held(value: Instruction) -> int:
    """The bytes of a result that lie in the device's memory."""
    return sum(0 if shape.on_chip else shape.bytes for shape in value.shapes)


def _taken(program: CompiledProgram, computation: Computation, user: Instruction, value: Instruction) -> int:
    """The bytes of a value that one user of it reads."""
    if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == value.name:
        return sum(shape.bytes for shape in user.shapes)
    if user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == value.name:
        return 0  # the rest stays as it is, in place
    if user.opcode == "bitcast":
        return sum(_taken(program, computation, one, user) for one in computation.users[user.name])
    if user.opcode == "fusion":
        body = program.computations[user.called[0]]
        own = [one for name, one in zip(user.operands, body.parameters, strict=True) if name == value.name]
        return sum(_taken(program, body, one, parameter) for parameter in own for one in body.users[parameter.name])
    return sum(shape.bytes for shape in value.shapes)


def _written(program: CompiledProgram, computation: Computation, one: Instruction) -> int:
    """The bytes that an instruction writes to the device's memory."""
    if not _held(one):
        return 0
    if one.opcode == "fusion":
        body = program.computations[one.called[0]]
        return min(_held(one), _written(program, body, body.root))
    operands = computation.operands(one)
    if one.opcode in ("tuple", "bitcast") and operands:
        return sum(_written(program, computation, operand) for operand in operands)
    if one.opcode == "dynamic-update-slice":
        return sum(shape.bytes for shape in operands[1].shapes)
    if one.opcode == "scatter":
        return 2 * sum(shape.bytes for shape in operands[2].shapes)
    return sum(shape.bytes for shape in one.shapes)


def _numbers(attributes: str, name: str) -> list[int]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(number) for number in found[1].split(",") if number] if found else []
