"""Tokenizers from and to the files of other programs: Hugging Face's tokenizer.json, tiktoken's ranks, GPT-2's files.

A file whose settings would give other ids than the program that wrote it is refused, and the setting is named.
"""

from jaxllm.tokenizers.formats.read_tokenizer_json import from_hugging_face
from jaxllm.tokenizers.formats.tiktoken_files import from_tiktoken, to_tiktoken
from jaxllm.tokenizers.formats.write_tokenizer_json import to_hugging_face

__all__ = ["from_hugging_face", "from_tiktoken", "to_hugging_face", "to_tiktoken"]
