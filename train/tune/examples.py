"""Examples of a task, read from a file of JSON lines and checked.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}     instruct
    {"prompt": "...", "answer": "..."}                                                              instruct
    {"text": "...", "label": "..."}                                                                 classify
    {"prompt": "...", "chosen": "...", "rejected": "..."}, or "messages" for "prompt"               prefer

Other keys of a line are ignored. Every error names the line.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

from jaxllm.data.json_lines import json_lines
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_text
from jaxllm.utils.utf8 import to_utf8

Kind = Literal["instruct", "classify", "prefer"]
ROLES = ("system", "developer", "user", "assistant", "tool")
Messages = tuple[dict[str, Any], ...]  # each with a role and a content


class Conversation(NamedTuple):
    """An example of instruct: a conversation whose assistant's messages are learned."""

    where: str  # its line, for messages
    messages: Messages
    bare: bool  # a prompt and its answer: without a chat template, one text


class LabelledText(NamedTuple):
    """An example of classify."""

    where: str
    text: str
    label: str


class Preference(NamedTuple):
    """An example of prefer: a conversation up to a question, and two answers."""

    where: str
    messages: Messages
    bare: bool
    chosen: str
    rejected: str


class ExampleFile(NamedTuple):
    """The examples of a file, with what identifies it."""

    examples: list[Conversation] | list[LabelledText] | list[Preference]
    sha256: str  # of the file's text
    characters: int


def read_examples(path: str, kind: Kind) -> ExampleFile:
    """Raises InputError for a file that cannot be read or is empty, and for a line that is no example of the kind."""
    text = read_text(path)
    content = text.encode()
    read: Any = {"instruct": _conversation, "classify": _labelled, "prefer": _preference}[kind]
    examples = [read(where, _table(where, line)) for where, line in json_lines(io.BytesIO(content), path)]
    if not examples:
        raise InputError(f"{path} holds no examples; write each as a line of JSON.")
    return ExampleFile(examples, hashlib.sha256(content).hexdigest(), len(text))


def labels_in(path: str) -> set[str]:
    """The labels of a file of texts with labels. Raises InputError as `read_examples`."""
    return {cast(LabelledText, one).label for one in read_examples(path, "classify").examples}


def _table(where: str, line: Any) -> Mapping[str, Any]:
    if not isinstance(line, dict):
        raise InputError(f'{where} is {shown(line)}, but an example must be a table, {{"key": ...}}.')
    return line


def _conversation(where: str, line: Mapping[str, Any]) -> Conversation:
    messages, bare = _question(where, line, "answer")
    if bare:
        answer = {"role": "assistant", "content": _answer(where, line, "answer")}
        return Conversation(where, (*messages, answer), bare)
    if not any(one["role"] == "assistant" for one in messages):
        raise InputError(f"{where} has no message of the assistant, so nothing of it would be learned; add the answer.")
    return Conversation(where, messages, bare)


def _labelled(where: str, line: Mapping[str, Any]) -> LabelledText:
    """Numbers are labels too, by their digits."""
    label = line.get("label")
    if type(label) is int:
        line = {**line, "label": str(label)}
    return LabelledText(where, _answer(where, line, "text"), _answer(where, line, "label"))


def _preference(where: str, line: Mapping[str, Any]) -> Preference:
    messages, bare = _question(where, line, "chosen and rejected")
    if messages[-1]["role"] == "assistant":
        raise InputError(f'{where} has an answer as its last message; give the answers as "chosen" and "rejected".')
    chosen, rejected = (_answer(where, line, key) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise InputError(f"{where} has the same text under 'chosen' and 'rejected'; remove it, it prefers nothing.")
    return Preference(where, messages, bare, chosen, rejected)


def _question(where: str, line: Mapping[str, Any], rest: str) -> tuple[Messages, bool]:
    """The messages of "messages", or the one of "prompt" and True."""
    if ("messages" in line) == ("prompt" in line):
        has = "both 'messages' and 'prompt'" if "messages" in line else f"only {_names(line)}"
        raise InputError(f"{where} has {has}; give either messages, or a prompt with {rest}.")
    if "prompt" in line:
        return ({"role": "user", "content": _text(where, line, "prompt")},), True
    messages = line["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where} has {shown(messages)} under 'messages', but it must be a list of messages.")
    for one in messages:
        _check_message(where, one)
    first = next((one["role"] for one in messages if one["role"] not in ("system", "developer")), None)
    if first != "user":
        raise InputError(f"{where} must begin with a message of the user, after one of the system or without.")
    return tuple(messages), False


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise InputError(f"{where} has the message {shown(message)}, but it must have a role and a content.")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(f"{where} has a message whose role is {shown(role)}; the roles are {', '.join(ROLES)}.")
    calls = role == "assistant" and bool(message.get("tool_calls"))
    if not isinstance(content, str) and not (content is None and calls):
        raise InputError(f"{where} has a message whose content is {shown(content)}, but it must be a text.")
    if role == "assistant" and not (content or "").strip() and not calls:
        raise InputError(f"{where} has an empty answer; write it, or remove the line.")


def _answer(where: str, line: Mapping[str, Any], key: str) -> str:
    text = _text(where, line, key)
    if not text.strip():
        raise InputError(f"{where} has an empty text under {key!r}; write it, or remove the line.")
    return text


def _text(where: str, line: Mapping[str, Any], key: str) -> str:
    if key not in line:
        raise InputError(f"{where} has no {key!r}, only {_names(line)}; add it.")
    text = line[key]
    if not isinstance(text, str):
        raise InputError(f"{where} has {shown(text)} under {key!r}, but it must be a text.")
    try:
        to_utf8(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return text


def _names(keys: Iterable[str]) -> str:
    return shown([*keys]) if keys else "an empty table"
