"""Hostile files: random changes of bytes, and values of JSON, TOML and binary formats replaced by extreme ones.

Seeds are small and valid, so that mutations reach every rule of the loaders. A file is a function of its generator alone.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

MOST = 2**16  # bytes of an input
INTEGERS = [0, 1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
# Values for JSON and TOML. A value that is valid in one of them tests the parser of the other.
VALUES = [
    '""', "0", "1", "-1", "2", "-0.0", "1.5", "1e-400", "1e999", "-1e999", "NaN", "nan", "Infinity", "-inf", "null",
    "true", "false", "[]", "{}", "[[]]", "[{}]", '{"a": 1, "a": 2}', '{"": ""}', '[1, "x", null]', "9" * 30, "9" * 400,
    "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 6000, "1." + "0" * 5000 + "1", "1e" + "9" * 300,
    "[" * 5 + "]" * 5, "[" * 200 + "]" * 200, "[" * 3000 + "]" * 3000, "[" * 60000, '{"a":' * 150 + "1" + "}" * 150,
    '{"a":' * 9000, "{a = " * 300 + "1" + "}" * 300, '"' + "x" * 9000 + '"', '"' + "é" * 4000 + '"', '"\\ud800"',
    '"\\udc00\\ud800"', '"\\u0000"', '"a\\u0000b"', '"\\n\\r\\u001b[31m"', '"\\u2028\\u0085"', '"\\ud83d\\ude42"', '"../x"', '"/"',
    '"/dev/zero"', '"."', '".."', '"a/../../x"', '"..\\\\x"', '"C:\\\\x"', '"int"', '"uint16"', '"bpe"', '"F32"', '"U8"', "'x'", "1979-05-27",
    "07:32:00", "1979-05-27T07:32:00Z", "{a = 1}", "{a.b = 1, a.b = 2}", '"""\n\n"""', "[1, 2, 3]", "[4294967296]", "#", "=", "\x00", "\ufeff",
    *map(str, INTEGERS[3:]),
]  # fmt: skip


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def mutate_bytes(rng: Rng, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after one to eight random changes."""
    content = bytearray(pick(rng, seeds))
    for _ in range(min(8, int(rng.geometric(0.5)))):
        pick(rng, ACCIDENTS)(rng, content, seeds)
    return bytes(content[:MOST])


def _place(rng: Rng, content: bytearray) -> int:
    """A random position; the first 64 bytes, where headers are, are drawn more often."""
    n = len(content) + 1
    return int(rng.integers(min(n, 64) if rng.random() < 0.3 else n))


def _flip(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    if content:
        content[_place(rng, content) % len(content)] ^= 1 << int(rng.integers(8))


def _cut(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    del content[_place(rng, content) :]


def _remove(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    start = _place(rng, content)
    del content[start : start + int(rng.integers(1, 40))]


def _insert(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, content)
    content[at:at] = rng.bytes(int(rng.integers(1, 20)))


def _double(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    start = _place(rng, content)
    piece = content[start : start + int(rng.integers(1, 200))]
    content[start:start] = piece * min(int(rng.geometric(0.3)), max(1, MOST // (len(piece) + 1)))


def _splice(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    other = pick(rng, seeds)
    content[_place(rng, content) :] = other[int(rng.integers(len(other) + 1)) :]


def _integer(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    width = pick(rng, (1, 2, 4, 8))
    at = _place(rng, content)
    at -= at % pick(rng, (1, 4, 8))
    value = int(pick(rng, INTEGERS)) + int(rng.integers(-1, 2))
    content[at : at + width] = (value % 256**width).to_bytes(width, "little")


def _value(rng: Rng, content: bytearray, seeds: Sequence[bytes]) -> None:
    at = _place(rng, content)
    content[at:at] = pick(rng, VALUES).encode("utf-8")


ACCIDENTS: list[Callable[[Rng, bytearray, Sequence[bytes]], None]] = [_flip, _flip, _cut, _remove, _insert, _double, _splice, _integer, _integer, _value]  # fmt: skip


def mutate_json(rng: Rng, content: Any) -> bytes:
    """The content as JSON, with one to three of its values or keys replaced, doubled, added or removed."""
    for _ in range(min(3, int(rng.geometric(0.6)))):
        content = _mutated(rng, content)
    return _json(content).encode("utf-8", "surrogatepass")


class Raw(str):
    """Text that is written unchanged in place of a value."""


class Pairs(list[tuple[str, Any]]):
    """An object whose names may occur twice."""


def _mutated(rng: Rng, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return Raw(pick(rng, VALUES))
    if isinstance(value, Pairs | dict):
        pairs = Pairs(value.items() if isinstance(value, dict) else value)
        i = int(rng.integers(len(pairs)))
        name, old = pairs[i]
        what = rng.random()
        if what < 0.6:
            pairs[i] = (name, _mutated(rng, old))
        elif what < 0.75:
            pairs.append((name, pick(rng, (old, _mutated(rng, old)))))
        elif what < 0.85:
            del pairs[i]
        elif what < 0.95:
            pairs[i] = (json.loads(pick(rng, [text for text in VALUES if text.startswith('"\\') or text == '""'])), old)
        else:
            pairs.append((f"more{rng.integers(10)}", Raw(pick(rng, VALUES))))
        return pairs
    items, i, what = list(value), int(rng.integers(len(value))), rng.random()
    if what < 0.6:
        items[i] = _mutated(rng, items[i])
    elif what < 0.75:
        items.insert(int(rng.integers(len(items))), items[i])
    elif what < 0.9:
        del items[i]
    else:
        items[i], items[0] = items[0], items[i]
    return items


def _json(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {_json(one)}" for name, one in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value)


def mutate_lines(rng: Rng, text: str) -> bytes:
    """Lines `name = value` with values replaced, and lines doubled, removed or added."""
    lines = text.split("\n")
    for _ in range(min(4, int(rng.geometric(0.5)))):
        i, what = int(rng.integers(len(lines))), rng.random()
        name, equals, _ = lines[i].partition("=")
        if what < 0.6 and equals:
            lines[i] = f"{name}= {pick(rng, VALUES)}"
        elif what < 0.7:
            lines.insert(int(rng.integers(len(lines))), lines[i])
        elif what < 0.8 and len(lines) > 1:
            del lines[i]
        elif what < 0.9:
            lines.insert(i, f"{pick(rng, ('x', 'a.b', '[x]', '[[x]]', VALUES[-8]))} = {pick(rng, VALUES)}")
        else:
            lines[i] = pick(rng, VALUES)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# Difficult text: surrogates, control characters, combining and zero-width characters, and runs.
CHARACTERS = ["a", "é", "東", "🙂", "\ud800", "\udfff", "\x00", "\x1c", "\x7f", "\x85", "\r\n", "\n", " ", "\t", "\u00a0", "\u200d", "\u2028", "\u0301", "\ufeff", "\ufffd", "'s", "'", "1", "!", "_", "<|endoftext|>", "--", "\U0010ffff", "ſ", "İ"]  # fmt: skip


def hostile_text(rng: Rng, most: int) -> str:
    """A text of at most `most` characters, usually short: a run of one character, or random ones."""
    n = int(rng.integers(most)) if rng.random() < 0.02 else int(rng.geometric(0.03))
    if rng.random() < 0.2:
        return str(pick(rng, CHARACTERS) * n)[:most]
    parts = [
        pick(rng, CHARACTERS) if rng.random() < 0.6 else chr(int(rng.integers(0x110000))) for _ in range(min(n, 300))
    ]
    return ("".join(parts) * (1 + n // 300))[:most]
