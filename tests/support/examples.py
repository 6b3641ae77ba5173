"""Files of examples for the tests of tuning, and a tokenizer and a chat format for them."""

import json
from pathlib import Path
from typing import Any

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = BPETokenizer([bytes([i]) for i in range(256)], SPECIAL)  # a token for each byte
MERGED = BPETokenizer([*(bytes([i]) for i in range(256)), b"\n\n", b"t\n", b"An"], SPECIAL, pattern=r"[\s\S]+")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def chat_format(template: str | None = CHATML, end: str = "<|im_end|>", begin: str | None = "<s>") -> ChatFormat:
    """A format of BYTES. Without a template, its texts begin with `begin`."""
    names = BYTES.special_tokens
    return ChatFormat(names[begin] if begin else None, (names[end],), "<s>", end, template)


def write_examples(path: Path, lines: list[Any]) -> str:
    """The file's path as a string. A line that is a string is written as it is."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def turn(role: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **others}
