"""From examples to ids, and which of them are learned.

Of a conversation, the messages of the assistant are learned, each with its end of turn, and nothing else. Where they
stand in the text is found by rendering the conversation's beginnings with the chat template: the text up to a
question, with what introduces the answer, is what the model is given when it answers, so the learned part begins where
that text ends. It is checked that these texts are the beginning of the whole conversation's text; a template may write
a message otherwise once more messages follow.

The ids before the first answer are exactly those that `encode_chat` gives the model. For this the text is cut where an
answer begins, so that no token holds characters of both the question and the answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxllm.data.windows import Ids
from jaxllm.pretrained.chat import ChatFormat, split_at_special
from jaxllm.pretrained.tracked_text import USERS, TrackedText, user_mask
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer
from jaxllm.utils.errors import InputError, shown

from .examples import Conversation, LabelledText, Messages, Preference


class Rendered(NamedTuple):
    """The ids of an example, and which are learned: predicted from those before them or, of a text, given a label."""

    where: str
    ids: Ids  # [N] int32
    learned: NDArray[np.bool_]  # [N]
    label: int | None = None  # the label's number; then only the last id is learned

    @property
    def inputs(self) -> Ids:
        """The ids that the model is given: [N - 1] int32, or with a label [N]."""
        return self.ids[:-1] if self.label is None else self.ids

    @property
    def targets(self) -> Ids:
        """What is predicted at each input, a token or the label's number, as long as `inputs`; -1 for nothing."""
        if self.label is not None:
            return np.where(self.learned, np.int32(self.label), np.int32(-1))
        return np.where(self.learned[1:], self.ids[1:], np.int32(-1))


@dataclass(frozen=True)
class Renderer:
    """What an example's text is made with."""

    tokenizer: Tokenizer
    chat: ChatFormat | None = None
    day: date | None = None  # that a template is given as today

    def conversation(self, one: Conversation) -> Rendered:
        """All messages of the assistant are learned. Raises InputError, naming the line, as the module says."""
        with _named(one.where):
            return self._rendered(one.where, one.messages, one.bare, learn_all=True)

    def preference(self, one: Preference) -> tuple[Rendered, Rendered]:
        """The conversation with the chosen and with the rejected answer; only that one is learned."""
        with _named(one.where):
            chosen, rejected = (
                self._rendered(one.where, (*one.messages, {"role": "assistant", "content": text}), one.bare, False)
                for text in (one.chosen, one.rejected)
            )
        return chosen, rejected

    def text(self, one: LabelledText, number: int) -> Rendered:
        """The text after the begin token; the label, of this number, is predicted at the last token."""
        with _named(one.where):
            ids = np.array([*self.begin, *self.tokenizer.encode(one.text)], np.int32)
            if len(ids) == len(self.begin):
                raise InputError("the tokenizer has no token for any character of the text; remove the line.")
        return Rendered(one.where, ids, np.arange(len(ids)) == len(ids) - 1, number)

    @property
    def begin(self) -> list[int]:
        """What stands before a text that no template writes."""
        token = self.chat.begin_token if self.chat else None
        return [] if token is None else [token]

    @cached_property
    def ends(self) -> dict[int, str]:
        """The ids of the tokens that end an answer, and their names."""
        chat, names = self.chat or ChatFormat(), self.tokenizer.special_tokens
        ids = {*chat.end_tokens, names.get(chat.eos_token or "")}
        return {i: name for name, i in names.items() if i in ids}

    def _rendered(self, where: str, messages: Messages, bare: bool, learn_all: bool) -> Rendered:
        if self.chat and self.chat.chat_template is not None:
            ids, learned = self._by_template(messages, learn_all)
        elif bare:
            ids, learned = self._as_one_text(*(one["content"] for one in messages))
        else:
            raise InputError(
                'this model has no chat template, which messages need; write the example as "prompt" and answer.'
            )
        last = int(np.flatnonzero(learned)[-1])  # nothing is learned from what follows
        row = Rendered(where, np.array(ids[: last + 1], np.int32), np.array(learned[: last + 1]))
        check_mask(row)
        return row

    def _as_one_text(self, prompt: str, answer: str) -> tuple[list[int], list[bool]]:
        """Begin token, prompt, answer and end token; no space or line is put between prompt and answer."""
        before = [*self.begin, *self.tokenizer.encode(prompt)]
        after = [*self.tokenizer.encode_chunk(answer, len(prompt)), self._end_of_text()]
        return [*before, *after], [False] * len(before) + [True] * len(after)

    def _end_of_text(self) -> int:
        """The token that ends an answer without a template. Raises InputError if there is none."""
        chat, names = self.chat or ChatFormat(), self.tokenizer.special_tokens
        known = [names.get(chat.eos_token or ""), *chat.end_tokens, self.tokenizer.end_of_text]
        end = next((one for one in known if one is not None), None)
        if end is None:
            raise InputError(
                "the tokenizer has no token that ends a text, so the model would not learn to stop; use a tokenizer "
                "with an end token."
            )
        return end

    def _by_template(self, messages: Messages, learn_all: bool) -> tuple[list[int], list[bool]]:
        assert self.chat is not None
        if not isinstance(self.tokenizer, BPETokenizer | SentencePieceTokenizer):
            raise InputError(f"the tokenizer is of the kind {self.tokenizer.kind}, but a chat template needs bpe.")
        whole = self.chat.render_tracked(messages, add_generation_prompt=False, day=self.day)
        answers = [i for i, one in enumerate(messages) if one["role"] == "assistant"]
        spans = [self._span(messages, i, whole) for i in (answers if learn_all else answers[-1:])]
        pieces = encode_between(self.tokenizer, whole, [place for span in spans for place in span])
        learned = [i % 2 == 1 for i, piece in enumerate(pieces) for _ in piece]
        return [token for piece in pieces for token in piece], learned

    def _span(self, messages: Messages, i: int, whole: TrackedText) -> tuple[int, int]:
        """Where message i, an answer, begins and ends in the text of the whole conversation.

        It ends after the first end token that follows the message's last character.
        """
        assert self.chat is not None
        before = self.chat.render_tracked(messages[:i], add_generation_prompt=True, day=self.day)
        after = self.chat.render_tracked(messages[: i + 1], add_generation_prompt=False, day=self.day)
        start, message = len(before), f"message {i + 1}, an answer,"
        _check_prefix(before, whole, f"the text that introduces {message} is not how the conversation begins")
        last = user_mask(after).rfind(USERS, start)
        if last < 0:
            raise InputError(f"the chat template leaves out {message}; correct the template or the conversation.")
        parts = split_at_special(after, self.tokenizer)
        found = [(place, part) for place, part in parts if part in self.ends and place > last]
        if not found:
            raise InputError(
                f"the chat template writes no end of turn after {message} so the model would not learn to stop; the "
                f"end tokens are {', '.join(self.ends.values()) or 'none'}, name one in the template."
            )
        end = found[0][0] + len(self.ends[int(found[0][1])])
        _check_prefix(after[:end], whole, f"{message} is written otherwise when more messages follow")
        return start, end


def ending_answers(chat: ChatFormat | None, tokenizer: Tokenizer) -> ChatFormat:
    """The chat format of a model that has learned answers: the tokens that end them in training end them in writing."""
    chat, end = chat or ChatFormat(), tokenizer.end_of_text
    ids = tuple(Renderer(tokenizer, chat).ends) or (() if end is None else (end,))
    return replace(chat, end_tokens=tuple(dict.fromkeys((*chat.end_tokens, *ids))))


def encode_between(
    tokenizer: BPETokenizer | SentencePieceTokenizer, text: TrackedText, cuts: Sequence[int]
) -> list[list[int]]:
    """The ids of a text's pieces between the increasing `cuts` [N]: N + 1 lists.

    Only the template writes special tokens, none of which a cut may divide. What follows a cut within other text
    continues it, so a SentencePiece tokenizer puts no space there.
    """
    pieces: list[list[int]] = [[] for _ in range(len(cuts) + 1)]
    before: str | int | None = None
    for start, part in split_at_special(text, tokenizer):
        inside = [cut for cut in cuts if isinstance(part, str) and start < cut < start + len(part)]
        bounds = [0, *(cut - start for cut in inside), None]
        for a, b in zip(bounds, bounds[1:], strict=False):
            one = part[a:b] if isinstance(part, str) else part
            number = sum(cut <= start + (a or 0) for cut in cuts)
            pieces[number] += _ids(tokenizer, one, before)
            before = one
    return pieces


def _ids(tokenizer: BPETokenizer | SentencePieceTokenizer, part: str | int, before: str | int | None) -> list[int]:
    """The ids of a text or special token that follows `before` in a text."""
    if isinstance(part, int) or before is None:
        return tokenizer.encode_parts([part])
    return tokenizer.encode_chunk(part, 1) if isinstance(before, str) else tokenizer.encode_parts([before, part])[1:]


def check_mask(row: Rendered) -> None:
    """Raises InputError unless some but not all ids after the first are learned."""
    if not row.learned[1:].any():
        raise InputError("nothing of it would be learned; give an answer.")
    if row.learned[1:].all() and row.label is None:
        raise InputError("every token of it would be learned, from no question; give a prompt.")


def _check_prefix(text: str, whole: str, what: str) -> None:
    """Raises InputError unless the whole text begins with the text."""
    if not str.startswith(whole, text):
        at = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), min(len(text), len(whole)))
        raise InputError(
            f"by the chat template {what}: {shown(str.__str__(text[at:]), 40)} against "
            f"{shown(str.__str__(whole[at:]), 40)}; give a line to each answer, or correct the template."
        )


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
