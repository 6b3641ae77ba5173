"""What a pretrained model says of conversations, beside its weights: tokens that begin and end, and a chat template.

transformers keeps this in four files and llama.cpp in keys of a GGUF file; here it is one small record, and one file of
a run folder. transformers reads a special token that a user writes in a message as the token itself unless asked not
to; here a message is always ordinary text.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from jaxllm.pretrained.provenance import Followed, users_of
from jaxllm.pretrained.templates import render_template
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.tokenizers.special_tokens import any_of
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_json, replace_file
from jaxllm.utils.utf8 import to_utf8
from jaxllm.utils.validate import NonNegative, check_fields, shown

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatFormat:
    """How texts and conversations begin and end. Raises InputError for a field of another type."""

    begin_token: NonNegative | None = None  # id that is put before a prompt; a chat template writes its own
    end_tokens: tuple[NonNegative, ...] = ()  # ids, each of which ends an answer
    bos_token: str | None = None  # names that a template may write
    eos_token: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "pretrained.")

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> Self:
        """The inverse of `to_dict`. Raises InputError for a field that is unknown or of another type."""
        if not isinstance(fields, dict) or (unknown := sorted(set(fields) - set(cls.__dataclass_fields__))):
            what = f"has the unknown field {shown(unknown[0])}" if isinstance(fields, dict) else "is no table"
            raise InputError(f"pretrained.json {what}; its fields are {', '.join(cls.__dataclass_fields__)}.")
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Write the fields as JSON. Raises OSError where the file cannot be written."""
        replace_file(Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises InputError for a file that is missing or damaged."""
        return cls.from_dict(read_json(path, "pretrained.json"))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as one text, by the model's own template; then what comes before an answer.

        A message has a `role`, such as "system", "user" or "assistant", and a `content`, both text; a template may look
        at more, such as `reasoning_content` or `tool_calls`, which may be any JSON value. Raises InputError where the
        model has no template, and as `render_template` does.
        """
        return str.__str__(self.follow(messages, add_generation_prompt))

    def follow(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> Followed:
        """As `render`, a text that knows which of its characters the template wrote."""
        if self.chat_template is None:
            raise InputError("this model has no chat template; give it a text to go on with instead.")
        _check(messages)
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        variables = {name: token for name, token in named.items() if token is not None}
        return render_template(
            self.chat_template, messages, {**variables, "add_generation_prompt": add_generation_prompt}
        )


def encode_chat(
    tokenizer: BPETokenizer | SentencePieceTokenizer,
    chat_format: ChatFormat,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
) -> list[int]:
    """The ids of the conversation's text, in which special tokens are those that the template writes.

    Whatever is in a message is ordinary text, also the name of a special token, and also in what an assistant said: a
    model that was made to spell `<|im_end|>` must not end its turn by it one turn later. Raises InputError as `render`.
    """
    text = chat_format.follow(messages, add_generation_prompt)
    names = tokenizer.special_tokens
    blank = next(c for c in map(chr, range(sys.maxunicode)) if c not in "".join(names))
    own = "".join(blank if users else c for c, users in zip(str.__str__(text), users_of(text), strict=True))
    parts: list[str | int] = []
    end = 0
    for found in re.finditer(any_of(names), own):
        parts += [text[end : found.start()], names[found.group()]]
        end = found.end()
    return tokenizer.encode_parts(part for part in (*parts, text[end:]) if part != "")


def _check(messages: Sequence[Message]) -> None:
    for one in messages:
        if not isinstance(one.get("role"), str) or not _has_content(one):
            raise InputError(f"a message must have a role and a content, both text, but one is {shown(one)}.")
        try:
            text = json.dumps(dict(one), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"what a message holds must be JSON, but one is {shown(one)}.") from None
        to_utf8(text)


def _has_content(message: Message) -> bool:
    """A message that calls tools need not say anything."""
    content = message.get("content")
    return isinstance(content, str) or (content is None and bool(message.get("tool_calls")))
