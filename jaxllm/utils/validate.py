"""One check for every config dataclass: each field against its own annotation.

The annotation is the whole rule (`Annotated[int, Meta(ge=1)]`). msgspec checks it, and the same check runs for a field
from Python, a TOML file or the command line.
"""

import dataclasses
import math
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.ideas import Idea, as_idea, is_reference

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
NonNegative = Annotated[int, Meta(ge=0, le=2**31 - 1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


def check_fields(config: Any, section: str = "") -> None:
    """Check each field of a frozen dataclass, and convert it where needed (1 to 1.0, NumPy scalars to Python ones).

    A field that may hold an `Idea` takes a function, or the name of one in a file. Raises InputError naming the field
    (after `section`, for example "train."), the value and what is allowed.
    """
    import numpy as np  # only here: the command line imports this module, and may start anew before it needs NumPy

    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), section + field.name.removesuffix("_")
        value = value.item() if isinstance(value, np.generic) else value
        hint = hints[field.name]
        if Idea in get_args(hint):
            value, hint = as_idea(value), _without_idea(hint)
            if isinstance(value, Idea) or is_reference(value):
                object.__setattr__(config, field.name, value)
                continue
        try:
            checked = msgspec.convert(value, hint)
            "".join(one for one in _inside(checked) if isinstance(one, str)).encode()
        except msgspec.ValidationError as error:
            rule = _rule(hints[field.name], str(error))
            raise InputError(f"{name} is {shown(value)}, but it must be {rule}.") from None
        except UnicodeEncodeError:  # a lone surrogate
            raise InputError(f"{name} is {shown(value)}, which is no valid text; use UTF-8.") from None
        if not all(math.isfinite(one) for one in _inside(checked) if isinstance(one, float)):
            raise InputError(f"{name} is {shown(value)}, but it must be a finite number.")
        object.__setattr__(config, field.name, checked)


def _without_idea(hint: Any) -> Any:
    return reduce(or_, [part for part in get_args(hint) if part is not Idea])


def _inside(value: Any) -> Iterable[Any]:
    """The value itself or, of a table, its keys and values."""
    return (*value, *value.values()) if isinstance(value, dict) else (value,)


def _rule(hint: Any, message: str) -> str:
    """What the annotation allows, in words, made from msgspec's "Expected `int | null`, got `str`"."""
    function = ' or a function, "FILE.py:FUNCTION"' if Idea in get_args(hint) else ""
    for part in (hint, *get_args(hint)):  # a choice, or a choice and None
        if get_origin(part) is Literal:
            truth = "true, false or " if bool in get_args(hint) else ""
            return truth + "one of " + ", ".join(repr(choice) for choice in get_args(part)) + function
    if function:
        return function.removeprefix(" or ")
    rule = message.removeprefix("Expected ").split(", got")[0].replace("`", "")
    rule = rule.replace(" | null", "").replace(" | object", " or a table of numbers")
    for python, word in {
        "int": "an integer",
        "float": "a number",
        "bool": "true or false",
        "str": "a string",
        "array": "a list",
    }.items():
        rule = word + rule.removeprefix(python) if rule.startswith(python) else rule
    return rule
