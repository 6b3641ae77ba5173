"""The examples about this project: they are examples, they are short, and the commands that they name exist."""

import re
import shlex
from pathlib import Path

import pytest

from train.cli import build_parser
from train.tune.examples import read_examples

pytestmark = pytest.mark.newest

FILE = Path(__file__).parents[2] / "train" / "tune" / "examples" / "about-jaxllm.jsonl"
PAIRS = [[one["content"] for one in example.messages] for example in read_examples(str(FILE), "instruct").examples]
COMMANDS = sorted({command for _, answer in PAIRS for command in re.findall(r"`(jaxllm [^`]*)`", answer)})


def test_there_are_forty_questions_with_short_answers() -> None:
    assert len(PAIRS) == 40 == len({question for question, _ in PAIRS})
    for question, answer in PAIRS:
        assert question.endswith("?") and "jaxllm" in question
        assert answer.endswith(".") and len(answer) < 200


def test_what_is_validated_on_was_taught_in_other_words() -> None:
    """The last tenth asks again, so that its loss says whether the answers were learned."""
    taught = " ".join(answer for _, answer in PAIRS[:36])
    for _, answer in PAIRS[36:]:
        assert answer.rstrip(".").rpartition(". ")[2] in taught


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted(command: str) -> None:
    words = shlex.split(command)[1:]
    assert build_parser([words[0]]).parse_args(words).run
