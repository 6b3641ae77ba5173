"""Chat templates: the small Jinja programs that pretrained models bring to write a conversation as one text.

transformers and llama.cpp run them as they come, the first in Jinja's sandbox and the second in an interpreter of its
own; neither bounds what they do. Here they run in the same sandbox as in transformers, with the same functions at hand,
and with an end: so many steps, so much text. What one expression may use up in memory has no bound, so a template that
was written to do harm can still fill it; it cannot reach files, the network or the program.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxllm.errors import InputError, printable

MOST_TEMPLATE = 2**18  # characters; the longest in use have 30,000
MOST_STEPS = 10**6  # rounds of all loops, and calls of macros
MOST_TEXT = 2**24  # characters of a conversation
MOST_PRODUCT = 2**24  # of two numbers, or of a length and how often to repeat it


class Refused(TemplateError):
    """What a template itself says of the messages, by `raise_exception`."""


def render_template(template: str, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> str:
    """The text that the template makes of the messages, as transformers' `apply_chat_template` does.

    Raises InputError for a template that is too long, damaged, fails, refuses the messages or comes to no end.
    """
    if len(template) > MOST_TEMPLATE:
        raise InputError(f"the chat template has {len(template):,} characters, more than {MOST_TEMPLATE:,}.")
    try:
        compiled = _Environment(MOST_STEPS).from_string(template)
        written = compiled.generate(messages=[dict(one) for one in messages], tools=None, documents=None, **variables)
        return "".join(_bounded(written))
    except Refused as error:
        raise InputError(f"the chat template refuses the messages: {printable(str(error)).rstrip('.!')}.") from None
    except Exception as error:  # it is a program, which can raise anything
        what = printable(str(error)) or "no message"
        raise InputError(
            f"the chat template failed: {type(error).__name__}, {what}; give the prompt without it, or mend it."
        ) from None


def _bounded(parts: Any) -> Any:
    left = MOST_TEXT
    for part in parts:
        left -= len(part)
        if left < 0:
            raise TemplateError(f"it writes more than {MOST_TEXT:,} characters")
        yield part


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what to train on; here it stands for what is in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})  # which could take for ever, or all memory, at once

    def __init__(self, steps: int) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.steps = steps
        self.filters["tojson"] = _to_json
        self.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template, with a call of `step` at the beginning of all that can run more than once."""
        template = super()._parse(source, name, filename)
        for node in template.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))  # type: ignore[attr-defined]
        return template

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"it takes more than {MOST_STEPS:,} steps")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        size, times = (len(one) if isinstance(one, str | list | tuple) else abs(one) for one in (left, right))
        if operator == "**" or size * times > MOST_PRODUCT:
            raise TemplateError(f"it computes {printable(f'{left!r} {operator} {right!r}')}, which no chat needs")
        return super().call_binop(context, operator, left, right)


def _refuse(message: Any) -> NoReturn:
    raise Refused(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own, without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
