"""Conversations with a pretrained model: its begin and end tokens and its chat template, and the ids of messages.

A ChatFormat is what a model's files say beside its weights; a run folder keeps it as pretrained.json. Messages are
always ordinary text: the name of a special token in a message does not become that token.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

from jaxllm.pretrained.tracked_text import TrackedText, user_mask
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.tokenizers.special_tokens import finder, without_spaces
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_json, replace_file
from jaxllm.utils.utf8 import to_utf8
from jaxllm.utils.validate import NonNegative, check_fields

Message = Mapping[str, Any]
BY_TEMPLATE = re.compile(rb"\0+")  # in a mask of `user_mask`


@dataclass(frozen=True)
class ChatFormat:
    """How texts and conversations begin and end. Raises InputError if a field is of another type."""

    begin_token: NonNegative | None = None  # id before a prompt; a chat template writes its own
    end_tokens: tuple[NonNegative, ...] = ()  # ids; any of them ends an answer
    bos_token: str | None = None  # name of a token that the template may write
    eos_token: str | None = None  # the same
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "pretrained.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> Self:
        """The inverse of `to_dict`. Raises InputError if a field is unknown or of another type."""
        if not isinstance(fields, dict) or (unknown := sorted(set(fields) - set(cls.__dataclass_fields__))):
            what = f"has the unknown field {shown(unknown[0])}" if isinstance(fields, dict) else "is not a table"
            raise InputError(f"pretrained.json {what}; its fields are {', '.join(cls.__dataclass_fields__)}.")
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Write the fields as JSON. Raises OSError if the file cannot be written."""
        replace_file(Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`. Raises InputError if it is missing or damaged."""
        return cls.from_dict(read_json(path, "pretrained.json"))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as one text, written by the model's chat template.

        `add_generation_prompt` appends the text that introduces an answer. A message has a `role`, such as "system",
        "user" or "assistant", and a `content`, both text. Further keys that a template may read, such as
        `reasoning_content` or `tool_calls`, may have any JSON value. Raises InputError if the model has no template, if
        a message has another form, or as `render_template` does.
        """
        return str.__str__(self.render_tracked(messages, add_generation_prompt))

    def render_tracked(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, day: date | None = None
    ) -> TrackedText:
        """As `render`, with a mask of the characters that come from messages; `day` is as in `render_template`."""
        if self.chat_template is None:
            raise InputError("this model has no chat template; give it a text to continue instead.")
        from jaxllm.pretrained.chat_template import render_template  # only here: it imports Jinja

        _check_messages(messages)
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        variables = {name: token for name, token in named.items() if token is not None}
        return render_template(
            self.chat_template, messages, {**variables, "add_generation_prompt": add_generation_prompt}, day
        )


def encode_chat(
    tokenizer: BPETokenizer | SentencePieceTokenizer,
    chat_format: ChatFormat,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    day: date | None = None,
) -> list[int]:
    """The ids of the conversation's text. Only the template writes special tokens.

    The name of a special token in a message is encoded as ordinary text, in answers of the assistant too: otherwise a
    model that was led to spell `<|im_end|>` would end its turn there in the next round. `day` is as in
    `render_template`. Raises InputError as `render`.
    """
    text = chat_format.render_tracked(messages, add_generation_prompt, day)
    return tokenizer.encode_parts(part for _, part in split_at_special(text, tokenizer))


def split_at_special(text: TrackedText, tokenizer: Tokenizer) -> list[tuple[int, str | int]]:
    """The text split at the special tokens that the template wrote: where each part begins, and its text or its id.

    White space that such a token takes is left out.
    """
    special_tokens, plain = tokenizer.special_tokens, str.__str__(text)
    names = finder(frozenset(special_tokens))
    parts: list[tuple[int, str | int]] = []
    end = 0
    for own in re.finditer(BY_TEMPLATE, user_mask(text)):  # a name that the template wrote lies within such a run
        for found in names.finditer(plain, *own.span()):
            parts += [(end, text[end : found.start()]), (found.start(), special_tokens[found.group()])]
            end = found.end()
    parts.append((end, text[end:]))
    kept = without_spaces((part for _, part in parts), tokenizer.strips_by_id)
    return [
        (start + part.find(new) if isinstance(part, str) and isinstance(new, str) else start, new)
        for (start, part), new in zip(parts, kept, strict=True)
        if new != ""
    ]


def _check_messages(messages: Sequence[Message]) -> None:
    """Raises InputError if a message lacks a role or a content, is not JSON or holds a lone surrogate."""
    for one in messages:
        if not isinstance(one.get("role"), str) or not _has_content(one):
            raise InputError(f"a message must have a role and a content, both text, but one is {shown(one)}.")
        try:
            text = json.dumps(dict(one), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"the values of a message must be JSON, but one is {shown(one)}.") from None
        to_utf8(text)


def _has_content(message: Message) -> bool:
    """A message that calls tools may have no content."""
    content = message.get("content")
    return isinstance(content, str) or (content is None and bool(message.get("tool_calls")))
