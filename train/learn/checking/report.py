"""What `jaxllm learn check` prints: the map of the course, and for what is wrong its smallest input and its name."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from rich.text import Text

from jaxllm.utils.errors import printable, shown

from ..course import ORDER, file_name
from .calls import Attempt, Case, Failure
from .check import Checked, CheckedPiece
from .compare import Mismatch
from .diagnosis import Diagnosis
from .gradients import gradient_difference
from .grids import WIDTH, argument_lines, comparison_lines

STYLES = {"right": "green", "wrong": "red", "broken": "red", "not written": "dim", "missing": "yellow"}
NO_GRADIENT = ("TracerArrayConversionError", "ConcretizationTypeError", "TracerBoolConversionError")


def map_lines(checked: Sequence[CheckedPiece]) -> Iterator[Text]:
    """A line for each piece: its number, name, state, and what is wrong in a few words."""
    width = max(len(one.piece.title) for one in checked)
    for one in checked:
        number = f"{ORDER.index(one.piece.name) + 1:3}"
        done = [each.state for each in one.functions].count("right")
        part = f"{done} of {len(one.functions)} functions are right" if one.state == "not written" and done else ""
        line = Text(f"{number}  {one.piece.title.ljust(width)}  ")
        line.append(one.state.ljust(11), style=STYLES[one.state])
        line.append(f"  {part}".rstrip())
        yield line
    right = sum(one.state == "right" for one in checked)
    next_one = next((file_name(one.piece.name) for one in checked if one.state != "right"), None)
    yield Text(f"{right} of {len(checked)} pieces are right" + (f"; next: {next_one}" if next_one else ""))


def piece_lines(one: CheckedPiece, others: Mapping[str, CheckedPiece], asked: bool) -> Iterator[Text]:
    """What is to be said of a piece; nothing of one that is not written.

    A piece that imports a wrong one is described only if it was `asked` for.
    """
    if one.absent:
        yield Text(f"{one.label}: the file is missing; `jaxllm learn start` writes it again and keeps all others.")
        return
    earlier = [others[name].label for name in one.imports if name in others and others[name].is_faulty]
    if one.is_faulty and earlier:
        yield Text(f"{one.label} imports {_and(earlier)}, which is not right yet; begin there.", style="bold")
        if not asked:
            return
    if one.printed:
        yield Text(f"{one.label}: note: it prints {shown(one.printed, 60)} when it is imported.")
    if one.failure:
        yield Text(f"{one.label}: the file {printable(one.failure.says)}.", style="bold")
        yield from traceback_lines(one.failure)
        return
    for function in one.functions:
        yield from _function_lines(one, function)


def _function_lines(one: CheckedPiece, checked: Checked) -> Iterator[Text]:
    name = checked.function.name
    if checked.missing:
        yield Text(
            f"{one.label}: the function {name} is missing; write `def {name}(...)` as in the lesson.", style="bold"
        )
    elif checked.state == "not written":
        yield from _unwritten_lines(one, checked)
    elif checked.first_wrong is not None:
        case, attempt = checked.cases[checked.first_wrong], checked.attempts[checked.first_wrong]
        yield from _wrong_lines(one, checked, case, attempt, checked.differences[checked.first_wrong])
    elif checked.first_wrong_gradient is not None:
        yield from _gradient_lines(one, checked)
    yield from _note_lines(one, checked)


def _unwritten_lines(one: CheckedPiece, checked: Checked) -> Iterator[Text]:
    """Only where the body that is not written is in another file."""
    assert checked.failure
    lines = checked.failure[1].lines
    if lines and lines[-1][0] != file_name(one.piece.name):
        other = lines[-1][0].removesuffix(".py")
        yield Text(f"{one.label}: {checked.function.name} needs {lines[-1][2]} of {other}, which is not written yet.")


def _wrong_lines(
    one: CheckedPiece, checked: Checked, case: Case, attempt: Attempt, found: Mismatch | None
) -> Iterator[Text]:  # fmt: skip
    name = checked.function.name
    if attempt.failure:
        yield Text(f"{one.label}: {name} {printable(attempt.failure.says, 400)}.", style="bold")
        yield from traceback_lines(attempt.failure)
    elif found:
        says = found.says or "returns wrong numbers" if found.kind != "value" else "is wrong"
        yield Text(f"{one.label}: {name} {says}.", style="bold")
    yield Text("  The smallest input that shows it:")
    yield from _indented(argument_lines(case.arguments))
    if found:
        for line in comparison_lines(found):
            yield Text("    ") + line
        if found.kind == "value" and found.index:
            yield Text(f"  The first difference is at {_index(found.index)}, marked >.")
    yield from _diagnosis_lines(name, checked.diagnoses, found.says if found else "")
    if not attempt.failure and (raised := checked.failure):
        yield Text(f"  On other inputs it {printable(raised[1].says, 400)}.", style="bold")
        yield from traceback_lines(raised[1])
    elif not checked.diagnoses and not attempt.failure and found and found.kind == "value":
        yield Text("  No usual mistake explains the results.")


def _gradient_lines(one: CheckedPiece, checked: Checked) -> Iterator[Text]:
    name, number = checked.function.name, checked.first_wrong_gradient
    assert number is not None
    case, attempt = checked.cases[number], checked.attempts[number]
    if failure := attempt.gradient_failure:
        yield Text(
            f"{one.label}: {name} returns the right value, but has no gradient: it {printable(failure.says)}.", "bold"
        )
        yield from traceback_lines(failure)
        if failure.type in NO_GRADIENT or "numpy()" in failure.says:
            yield Text("  A value leaves the library there: NumPy, float() and `if` do not pass gradients on.")
        return
    found = gradient_difference(case, attempt)
    assert found
    yield Text(f"{one.label}: {name} returns the right value, but its gradient is wrong.", style="bold")
    yield Text("  The smallest input that shows it:")
    yield from _indented(argument_lines(case.arguments))
    yield Text(f"  The gradient of sum(result * cotangent), first where it is wrong, with respect to {found.place[0]}:")
    for line in comparison_lines(found):
        yield Text("    ") + line
    yield from _diagnosis_lines(name, checked.diagnoses)


def _diagnosis_lines(name: str, diagnoses: Sequence[Diagnosis], said: str = "") -> Iterator[Text]:
    if len(diagnoses) > 1:
        yield Text("  Several mistakes give these results, and no input of this check tells them apart:")
    for one in diagnoses:
        if one.says != said:
            yield Text(f"  Your {name} {one.says}.", style="bold yellow")
        for text in (one.explanation, one.hint and f"Hint: {one.hint}"):
            yield from (Text(f"  {line}") for line in wrap(text, WIDTH))


def _note_lines(one: CheckedPiece, checked: Checked) -> Iterator[Text]:
    """What is no fault."""
    name = checked.function.name
    if printed := next((attempt.printed for attempt in checked.attempts if attempt.printed), ""):
        yield Text(f"{one.label}: note: {name} prints {shown(printed, 60)}.")
    if changed := next((attempt.changed for attempt in checked.attempts if attempt.changed), ()):
        yield Text(f"{one.label}: note: {name} changes {_and(changed)} in place, which the caller still uses.")


def traceback_lines(failure: Failure) -> Iterator[Text]:
    """The lines of the learner's own files."""
    for file, number, function, text in failure.lines:
        yield Text(f"    {file}, line {number}" + (f", in {function}" if function else ""))
        if text:
            yield Text(f"      {printable(text)}")


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _indented(lines: Iterator[str]) -> Iterator[Text]:
    for line in lines:
        yield Text(f"    {line}")


def _index(index: Sequence[int]) -> str:
    return f"[{', '.join(map(str, index))}]"
