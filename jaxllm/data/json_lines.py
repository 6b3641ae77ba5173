"""Files of JSON lines: one value in each line."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from jaxllm.utils.errors import InputError, printable
from jaxllm.utils.utf8 import not_utf8, without_mark

LONGEST_LINE = 2**28  # bytes


def json_lines(file: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    """Each line's place for messages, such as "line 3 of a.jsonl", and its value; blank lines are left out.

    Raises InputError for a line that is not JSON, not UTF-8 or longer than LONGEST_LINE.
    """
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        where = f"line {number:,} of {name}"
        if len(line) > LONGEST_LINE:
            raise InputError(f"{where} is longer than {LONGEST_LINE:,} bytes; is it a file of JSON lines?")
        if number == 1:
            line = without_mark(line, name)
        if line.strip():
            yield where, _value(line, where)


def _value(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_utf8(where, error) from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        raise InputError(
            f"{where} is not JSON: {printable(message)}, column {getattr(error, 'colno', 1)}; each line must hold one "
            "JSON value."
        ) from None
