"""Files of examples: what is read, and how each mistake is named."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from examples import turn, write_examples

from jaxllm import InputError
from train.tune.examples import Conversation, Kind, LabelledText, Preference, read_examples

ASKED, ANSWERED = turn("user", "Why?"), turn("assistant", "So.")
SYSTEM = turn("system", "Be brief.")


def read(tmp_path: Path, kind: Kind, *lines: Any) -> list[Any]:
    return [
        one._replace(where="") for one in read_examples(write_examples(tmp_path / "x.jsonl", [*lines]), kind).examples
    ]


def test_each_kind_has_its_forms(tmp_path: Path) -> None:
    both = [
        {"messages": [SYSTEM, ASKED, ANSWERED], "source": "ignored"},
        {"prompt": "Why?", "answer": "So."},
    ]
    assert read(tmp_path, "instruct", *both) == [
        Conversation("", (SYSTEM, ASKED, ANSWERED), False),
        Conversation("", (ASKED, ANSWERED), True),
    ]
    assert read(tmp_path, "classify", {"text": " a ", "label": "spam"}, {"text": "b", "label": 7}) == [
        LabelledText("", " a ", "spam"),
        LabelledText("", "b", "7"),
    ]
    answers = {"chosen": "yes", "rejected": "no"}
    assert read(tmp_path, "prefer", {"messages": [ASKED, ANSWERED, ASKED]} | answers, {"prompt": "Why?"} | answers) == [
        Preference("", (ASKED, ANSWERED, ASKED), False, "yes", "no"),
        Preference("", (ASKED,), True, "yes", "no"),
    ]


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    """Blank lines are counted, and a byte-order mark is no part of the first line."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "label": "b"}\n\n \n{"text": "\xc3\xa9", "label": "b"}')
    file = read_examples(str(path), "classify")
    assert [one.where for one in file.examples] == [f"line 1 of {path}", f"line 4 of {path}"]
    text = path.read_bytes()[3:]
    assert (file.sha256, file.characters) == (hashlib.sha256(text).hexdigest(), len(text) - 1)


def test_a_call_of_a_tool_needs_no_content(tmp_path: Path) -> None:
    call = turn("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": {}}}])
    assert read(tmp_path, "instruct", {"messages": [ASKED, call]})[0].messages == (ASKED, call)


WRONG: list[tuple[Kind, Any, str]] = [
    ("instruct", '{"prompt": ', "line 2 of .* is not JSON"),
    ("instruct", "[1, 2]", r"is \[1, 2\], but an example must be a table"),
    ("instruct", {"question": "a"}, r"has only \['question'\]; give either messages, or a prompt with answer"),
    ("instruct", {}, "has only an empty table; give either"),
    ("instruct", {"messages": [ASKED, ANSWERED], "prompt": "a"}, "has both 'messages' and 'prompt'"),
    ("instruct", {"prompt": "a"}, r"has no 'answer', only \['prompt'\]; add it"),
    ("instruct", {"prompt": 3, "answer": "b"}, "has 3 under 'prompt', but it must be a text"),
    ("instruct", {"prompt": "a", "answer": " \n"}, "has an empty text under 'answer'"),
    ("instruct", '{"prompt": "a", "answer": "\\ud800"}', "line 2 of .*: the text holds a lone surrogate"),
    ("instruct", {"messages": []}, r"has \[\] under 'messages', but it must be a list of messages"),
    ("instruct", {"messages": ["hi"]}, "has the message 'hi', but it must have a role and a content"),
    ("instruct", {"messages": [turn("bot", "a")]}, "role is 'bot'; the roles are system, developer, user, assistant, tool"),
    ("instruct", {"messages": [turn("user", 1), ANSWERED]}, "content is 1, but it must be a text"),
    ("instruct", {"messages": [turn("user", None), ANSWERED]}, "content is None, but it must be a text"),
    ("instruct", {"messages": [ASKED, turn("assistant", " ")]}, "has an empty answer; write it"),
    ("instruct", {"messages": [ASKED, turn("assistant", None)]}, "content is None, but it must be a text"),
    ("instruct", {"messages": [SYSTEM, ASKED]}, "has no message of the assistant, so nothing of it would be learned"),
    ("instruct", {"messages": [SYSTEM, ANSWERED, ASKED, ANSWERED]}, "must begin with a message of the user"),
    ("classify", {"text": "a"}, r"has no 'label', only \['text'\]"),
    ("classify", {"text": "", "label": "b"}, "has an empty text under 'text'"),
    ("classify", {"text": "a", "label": ""}, "has an empty text under 'label'"),
    ("classify", {"text": "a", "label": True}, "has True under 'label', but it must be a text"),
    ("prefer", {"prompt": "a", "chosen": "b"}, "has no 'rejected'"),
    ("prefer", {"prompt": "a", "chosen": "b", "rejected": "b"}, "the same text under 'chosen' and 'rejected'"),
    ("prefer", {"prompt": "a", "chosen": "b", "rejected": [ANSWERED]}, r"has \[.*\] under 'rejected'"),
    ("prefer", {"messages": [ASKED, ANSWERED], "chosen": "b", "rejected": "c"}, "has an answer as its last message"),
]  # fmt: skip
RIGHT: dict[str, Any] = {
    "instruct": {"prompt": "a", "answer": "b"},
    "classify": {"text": "a", "label": "b"},
    "prefer": {"prompt": "a", "chosen": "b", "rejected": "c"},
}


@pytest.mark.parametrize(("kind", "line", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_line_is_named(tmp_path: Path, kind: Kind, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, kind, RIGHT[kind], line)
    assert "line 2 of" in str(error.value) and str(error.value).endswith(".")


def test_a_file_without_examples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x.jsonl holds no examples"):
        read(tmp_path, "classify", " ")
    with pytest.raises(InputError, match="cannot read .*absent.jsonl: No such file"):
        read_examples(str(tmp_path / "absent.jsonl"), "classify")
