"""One character, one id."""

from collections.abc import Iterable
from typing import Any, Self

from jaxllm.tokenizers.base import Tokenizer, as_texts, token_to_id, vocabulary_from
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import to_utf8


class CharTokenizer(Tokenizer):
    """The vocabulary is characters in code point order, as in nanoGPT's character-level data."""

    kind = "char"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = tuple(characters)
        self._ids = token_to_id(self.characters)

    @classmethod
    def train(cls, text: str | Iterable[str]) -> Self:
        """The characters that occur. Raises InputError for empty text."""
        characters = sorted({character for part in as_texts(text) for character in part})
        if not characters:
            raise InputError("the text is empty; a character tokenizer needs at least one character.")
        to_utf8("".join(characters))
        return cls(characters)

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The ids. Raises InputError naming the first unknown character and its position."""
        return self.encode_chunk(text, 0)

    def encode_chunk(self, text: str, start: int) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise InputError(
                f"character {character!r} (U+{ord(character):04X}) at position "
                f"{start + text.index(character)} is not among "
                f"the {self.vocab_size} characters of the tokenizer; remove it or train on text that has it."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in self.check_ids(ids))

    def to_dict(self) -> dict[str, Any]:
        return {"characters": list(self.characters)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        characters = vocabulary_from(fields, "characters")
        if not characters or any(len(character) != 1 for character in characters):
            raise InputError("the tokenizer file is damaged: 'characters' must be single characters.")
        return cls(characters)
