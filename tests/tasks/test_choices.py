"""Questions of a file, and the rules by which a choice is taken."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jaxllm import InputError
from jaxllm.tokenizers import CharTokenizer
from train.tasks.choices import RULES, Choices, Question, accuracy, by_question, chance, completions, read_questions
from train.tasks.likelihood import Completion, Likelihood

GOOD = {"query": "The sky is", "choices": [" blue", " a river"], "answer": 0}


def written(path: Path, *lines: Any) -> Path:
    """A file with these lines; what is no text is written as JSON."""
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))
    return path


def test_questions_are_read_in_order(tmp_path: Path) -> None:
    file = written(tmp_path / "q.jsonl", GOOD, "", {**GOOD, "answer": 1, "id": 7})
    found = read_questions(file)
    assert [(q.query, q.choices, q.answer) for q in found] == [("The sky is", (" blue", " a river"), i) for i in (0, 1)]
    assert [q.where for q in found] == [f"line {n} of {file}" for n in (1, 3)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 of FILE is not JSON"),
        ("[]", r"line 2 of FILE is \[\]; a question is an object with query, choices, answer."),
        ({"query": "a", "choices": ["b", "c"]}, "line 2 of FILE has no 'answer'; a question is"),
        ({**GOOD, "query": 1}, "line 2 of FILE: query is 1, but it must be a text."),
        ({**GOOD, "choices": ["a"]}, r"choices is \['a'\], but it must be a list of at least two texts."),
        ({**GOOD, "choices": "ab"}, "choices is 'ab', but it must be a list"),
        ({**GOOD, "choices": ["a", None]}, "but it must be a list of at least two texts."),
        ({**GOOD, "choices": ["a", " \n"]}, r"a choice is ' \\n', but it needs a character other than white space."),
        ({**GOOD, "answer": 2}, "answer is 2, but it must be the number of a choice, 0 to 1."),
        ({**GOOD, "answer": -1}, "answer is -1, but"),
        ({**GOOD, "answer": True}, "answer is True, but"),
        ({**GOOD, "answer": "0"}, "answer is '0', but"),
        ({**GOOD, "query": "\ud800"}, "line 2 of FILE: "),
        ({**GOOD, "choices": ["a", "\ud800"]}, "line 2 of FILE: "),
    ],
)
def test_a_wrong_line_is_named(line: Any, says: str, tmp_path: Path) -> None:
    file = written(tmp_path / "q.jsonl", GOOD, line)
    with pytest.raises(InputError, match=says.replace("FILE", str(file))):
        read_questions(file)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no question; give one in each line"):
        read_questions(written(tmp_path / "q.jsonl", " "))
    with pytest.raises(InputError, match="cannot read"):
        read_questions(tmp_path / "none.jsonl")


def question(*choices: str, query: str = "q", answer: int = 0) -> Question:
    return Question("line 1 of q.jsonl", query, choices, answer)


def test_a_choice_follows_its_query() -> None:
    encode = CharTokenizer("ab ").encode
    a, b, space = encode("ab ")
    found = completions([question(" a", "b", query="ab"), question("a", "b", query=" ")], encode, 9, 4)
    assert found == [((a, b), (space, a)), ((a, b), (b,)), ((9,), (space, a)), ((9,), (space, b))]


@pytest.mark.parametrize(
    ("query", "choice", "says"),
    [
        ("", "a", "line 1 of q.jsonl: the query holds no token, and the tokenizer has none that begins a text; give"),
        (
            "a",
            "bbbbb",
            "line 1 of q.jsonl: the choice 'bbbbb' has 5 tokens after the query, but it must have from 1 to 4",
        ),
        ("a", "x", "line 1 of q.jsonl: "),
    ],
)
def test_a_choice_that_cannot_be_scored_is_named(query: str, choice: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        completions([question(choice, "b", query=query)], CharTokenizer("ab ").encode, None, 4)


def test_a_choice_that_merges_with_the_query_is_named() -> None:
    with pytest.raises(InputError, match="has 0 tokens after the query"):
        completions([question("b", "c", query="a")], lambda text: [0], None, 4)


def test_each_rule_divides_by_its_own_length() -> None:
    """The space before a choice is no part of its length."""
    asked = question("  abcd", "é", "abcdef", " ab")
    scored = Choices(asked, (-8.0, -3.0, -9.0, -3.5), (2, 1, 3, 1))
    by_length = {
        "sum": [-8, -3, -9, -3.5],
        "per byte": [-8 / 4, -3 / 2, -9 / 6, -3.5 / 2],
        "per character": [-8 / 4, -3 / 1, -9 / 6, -3.5 / 2],
        "per token": [-8 / 2, -3 / 1, -9 / 3, -3.5 / 1],
    }
    assert {rule.name: scored.chosen(rule) for rule in RULES} == {
        name: values.index(max(values)) for name, values in by_length.items()
    }
    assert [rule.name for rule in RULES if scored.is_right(rule)] == []
    assert [scored.chosen(rule) for rule in RULES] == [1, 1, 2, 1]


def test_likelihoods_are_put_together_to_questions() -> None:
    asked = [question("a", "b", "c"), question("d", "e")]
    completed = [Completion((1,) * n, (0,) * k) for n, k in [(1, 1), (1, 2), (9, 2), (1, 4), (1, 5)]]
    found = [Likelihood(-float(i), False) for i in range(5)]
    assert by_question(asked, completed, found, 8) == [
        Choices(asked[0], (0.0, -1.0, -2.0), (1, 2, 2), 2),
        Choices(asked[1], (-3.0, -4.0), (4, 5), 0),
    ]


def test_accuracy_has_the_error_of_a_mean() -> None:
    scored = [Choices(question("a", "b", answer=i), (-1.0, -2.0), (1, 1)) for i in (0, 0, 1, 0)]
    mean, error = accuracy(scored, RULES[0])
    assert mean == 0.75 and error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert math.isnan(accuracy(scored[:1], RULES[0]).error)
    assert chance([question("a", "b"), question("a", "b", "c", "d")]) == pytest.approx(3 / 8)
