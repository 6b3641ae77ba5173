"""`render_template` runs a chat template, a small Jinja program of a model that writes a conversation as text.

A template is untrusted. It runs in Jinja's sandbox, with the functions that transformers gives it, and cannot reach
files, the network or the program. Steps and text are limited; the memory of one expression is not, so a hostile
template can still exhaust it. Each character of the text is tracked to its origin, the template or a message
(`tracked_text`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes, pass_environment
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from jaxllm.pretrained.tracked_text import TrackedText, by_template, to_tracked, tracked, tracked_format, tracking
from jaxllm.utils.errors import InputError, printable

ROLE = re.compile(r"[\w-]+")
REASONING = ("reasoning_content", "thinking", "reasoning")  # keys of a message
MOST_TEMPLATE = 2**18  # characters; published ones have at most 30,000
MOST_STEPS = 10**6  # iterations of all loops and calls of macros
MOST_TEXT = 2**24  # characters of a conversation
MOST_PRODUCT = 2**24  # of two numbers, or of a length and a number of repetitions


class TemplateRefusal(TemplateError):
    """A template refuses the messages by calling `raise_exception`."""


def render_template(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], day: date | None = None
) -> TrackedText:
    """The text that transformers' `apply_chat_template` makes of the messages, with the origin of each character.

    Texts among the variables count as the template's. A template that asks for the time is given the beginning of the
    `day`, or the time itself. Raises InputError if the template is too long, is malformed,
    fails, refuses the messages or exceeds a limit of steps or text.
    """
    if len(template) > MOST_TEMPLATE:
        raise InputError(
            f"the chat template has {len(template):,} characters, more than {MOST_TEMPLATE:,}; give the prompt without "
            "it."
        )
    try:
        compiled = _compiled(template)
        cast(_Environment, compiled.environment).steps = MOST_STEPS
        named = {name: by_template(x) if isinstance(x, str) else x for name, x in variables.items()}
        now = datetime.combine(day, time()) if day else datetime.now()
        named["strftime_now"] = now.strftime
        written = compiled.generate(messages=[*map(_tracked_message, messages)], tools=None, documents=None, **named)
        return _joined(_bounded(written))
    except TemplateRefusal as error:
        raise InputError(f"the chat template refuses the messages: {printable(str(error)).rstrip('.!')}.") from None
    except Exception as error:  # a program can raise anything
        what = printable(str(error)) or "no message"
        raise InputError(
            f"the chat template failed: {type(error).__name__}, {what}; give the prompt without it, or correct it."
        ) from None


@lru_cache(4)
def _compiled(template: str) -> Template:
    """Compiling takes many times as long as rendering."""
    return _Environment().from_string(template)


def _tracked_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with all texts tracked as a user's, and its reasoning under the names that templates read.

    As in transformers 5.24, the reasoning is the first of REASONING that is not None. A role of one word counts as the
    template's, because templates make special tokens such as `<|user|>` of it.
    """
    role = message.get("role")
    safe_role = {"role": by_template(role)} if isinstance(role, str) and ROLE.fullmatch(role) else {}
    reasoning = next((message[key] for key in REASONING if message.get(key) is not None), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return _by_user(message) | safe_role


def _by_user(value: Any) -> Any:
    """The JSON value with its texts tracked as a user's."""
    if isinstance(value, Mapping):
        return {key: _by_user(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_by_user(one) for one in value]
    return TrackedText(value) if isinstance(value, str) else value


def _bounded(parts: Iterable[str]) -> Iterator[str]:
    """The parts, as long as they have at most MOST_TEXT characters together. Raises TemplateError."""
    left = MOST_TEXT
    for part in parts:
        left -= len(part)
        if left < 0:
            raise TemplateError(f"it writes more than {MOST_TEXT:,} characters")
        yield part


def _joined(parts: Iterable[str]) -> TrackedText:
    return TrackedText("").join(parts)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks text to train on; here it is replaced by its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _TrackOwnText(NodeTransformer):
    """Wraps texts of the template in calls of `_Environment.own`, and `~` in calls of `_Environment.concatenated`."""

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:
        return _call("own", node) if isinstance(node.value, str) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Expr:
        return _call("own", nodes.Const(node.data, lineno=node.lineno))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _call("concatenated", *node.nodes)


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    """The expression that calls a method of the environment."""
    line = arguments[0].lineno if arguments else None
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with tracked texts and a limit of steps. A template is compiled to calls of its methods."""

    intercepted_binops = frozenset({"*", "**"})  # a single one could take all time or memory
    concat = staticmethod(_joined)  # joins the texts of blocks and macros
    own = staticmethod(by_template)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=to_tracked
        )
        self.steps = MOST_STEPS  # left
        self.filters |= {"tojson": _to_json, "join": _join}
        self.filters = {name: _tracked_filter(one) for name, one in self.filters.items()}
        self.globals |= {"raise_exception": _refuse}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree, with a call of `step` at the beginning of each loop and macro."""
        template = _TrackOwnText().visit(super()._parse(source, name, filename))
        for node in template.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            node.body.insert(0, nodes.ExprStmt(_call("step")).set_lineno(node.lineno))
        return template

    def step(self) -> None:
        """Count a step. Raises TemplateError beyond the limit."""
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"it takes more than {MOST_STEPS:,} steps")

    @staticmethod
    def concatenated(*values: Any) -> TrackedText:
        """`a ~ b`."""
        return _joined(map(to_tracked, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        size, times = (len(one) if isinstance(one, str | list | tuple) else abs(one) for one in (left, right))
        if operator == "**" or size * times > MOST_PRODUCT:
            raise TemplateError(
                f"it computes {printable(f'{left!r} {operator} {right!r}')}, beyond the limits of a template"
            )
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox's `format`, with a tracked result."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None
        form, takes_mapping = tracked(value.__self__), value.__name__ == "format_map"

        def wrapper(*args: Any, **named: Any) -> str:
            text = safe(*args, **named)
            return tracked_format(text, form, () if takes_mapping else args, args[0] if takes_mapping else named)

        return wrapper


def _tracked_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    return tracking(function, skipped=hasattr(function, "jinja_pass_arg"))


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> TrackedText:
    """The `join` filter; Jinja's own converts its items to plain texts."""
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return to_tracked(d).join(map(to_tracked, items))


def _refuse(message: Any) -> NoReturn:
    raise TemplateRefusal(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The `tojson` filter of transformers; Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
