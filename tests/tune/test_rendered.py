"""Which tokens of an example are learned, and that its ids are those that the model is given when it answers."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from chat_templates import SPECIAL as NAMES
from chat_templates import TEMPLATES, histories
from examples import BYTES, CHATML, MERGED, chat_format, turn
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, SentencePieceTokenizer, Tokenizer
from train.tune.examples import Conversation, LabelledText, Preference
from train.tune.rendered import Rendered, Renderer, check_mask

ASKED, ANSWERED, AGAIN = turn("user", "Why?"), turn("assistant", "So."), turn("user", "And?")
ALL = BPETokenizer([bytes([i]) for i in range(256)], NAMES)


def conversation(*messages: Any, bare: bool = False) -> Conversation:
    return Conversation("line 1 of x.jsonl", messages, bare)


def runs(one: Rendered, tokenizer: Tokenizer = BYTES) -> list[tuple[bool, str]]:
    """The text in pieces that are learned or not."""
    pairs = zip(one.learned.tolist(), one.ids.tolist(), strict=True)
    return [(key, tokenizer.decode([i for _, i in run])) for key, run in groupby(pairs, key=lambda pair: pair[0])]


def test_answers_are_learned_with_their_end_of_turn_and_nothing_else() -> None:
    second = turn("assistant", "é <|im_end|> 2")
    rendered = Renderer(BYTES, chat_format()).conversation(
        conversation(turn("system", "Be brief."), ASKED, ANSWERED, AGAIN, second, turn("user", "Thanks."))
    )
    start = "<|im_start|>"
    assert runs(rendered) == [
        (False, f"{start}system\nBe brief.<|im_end|>\n{start}user\nWhy?<|im_end|>\n{start}assistant\n"),
        (True, "So.<|im_end|>"),
        (False, f"\n{start}user\nAnd?<|im_end|>\n{start}assistant\n"),
        (True, "é <|im_end|> 2<|im_end|>"),  # of which the first is text, and the last the token
    ]
    end = BYTES.special_tokens["<|im_end|>"]
    assert rendered.ids[rendered.learned].tolist().count(end) == 2
    assert rendered.ids.dtype == rendered.inputs.dtype == rendered.targets.dtype == np.int32


def test_targets_are_the_learned_tokens_one_place_earlier() -> None:
    one = Rendered("", np.array([5, 6, 7, 8, 9], np.int32), np.array([False, False, True, False, True]))
    assert one.inputs.tolist() == [5, 6, 7, 8] and one.targets.tolist() == [-1, 7, -1, 9]
    labelled = Rendered("", np.array([5, 6, 7], np.int32), np.array([False, False, True]), 0)
    assert labelled.inputs.tolist() == [5, 6, 7] and labelled.targets.tolist() == [-1, -1, 0]


def test_the_ids_before_an_answer_are_those_that_the_model_is_given() -> None:
    """Also where a merge would join the question's last character and the answer's first."""
    chat = chat_format()
    text = turn("assistant", "\nSo.")
    rendered = Renderer(MERGED, chat).conversation(conversation(ASKED, text))
    given_ids = encode_chat(MERGED, chat, [ASKED])
    first = int(np.argmax(rendered.learned))
    assert rendered.ids[:first].tolist() == given_ids and MERGED.decode([given_ids[-1]]) == "t\n"
    assert runs(rendered, MERGED)[1] == (True, "\nSo.<|im_end|>")
    assert encode_chat(MERGED, chat, [ASKED, text], False)[: len(given_ids)] != given_ids  # it is joined in the whole


WITH_ENDS = {
    "thinks": "<|im_end|>",
    "heads": "<|end|>",
    "instructions": "</s>",
    "renamed": "</turn>",
    "brackets": "<|end|>",
}


@pytest.mark.parametrize("name", WITH_ENDS)
@given(messages=histories())
def test_what_is_learned_follows_what_the_model_is_given(name: str, messages: list[dict[str, Any]]) -> None:
    """For templates with the logic of published ones: a conversation is refused, or its answers are found exactly."""
    end = WITH_ENDS[name]
    chat = ChatFormat(None, (ALL.special_tokens[end],), "<s>", "</s>", TEMPLATES[name])
    answers = [i for i, one in enumerate(messages) if one["role"] == "assistant"]
    if not answers:
        return
    try:
        rendered = Renderer(ALL, chat).conversation(conversation(*messages))
    except InputError:
        return
    pieces = [ALL.decode_bytes([token]) for token in rendered.ids.tolist()]
    whole = chat.render(messages, False).encode()
    assert whole.startswith(b"".join(pieces))
    learned = np.repeat(rendered.learned, [len(piece) for piece in pieces])
    expected = np.zeros(len(learned), bool)
    for i in answers:
        given_text, answered = chat.render(messages[:i], True).encode(), chat.render(messages[: i + 1], False).encode()
        assert whole.startswith(given_text)
        expected[len(given_text) : answered.rindex(end.encode()) + len(end)] = True
    np.testing.assert_array_equal(learned, expected)


REFUSED: dict[str, tuple[str, list[Any], str]] = {
    "forgets": ("</s>", [ASKED, ANSWERED], "text that introduces message 2, an answer, is not how .* '<think>.n' against"),
    "instructions": ("</s>", [turn("system", "x"), ASKED, ANSWERED, AGAIN, ANSWERED], "introduces message 3, an answer, is not"),
    "thinks": ("<|im_end|>", [ASKED, ANSWERED, AGAIN, ANSWERED], "message 2, an answer, is written otherwise when more"),
    "heads": ("</s>", [ASKED, ANSWERED], "writes no end of turn after message 2, .* the end tokens are </s>, name one"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_does_not_fit_is_refused(name: str) -> None:
    end, messages, message = REFUSED[name]
    chat = ChatFormat(None, (ALL.special_tokens[end],), "<s>", end, TEMPLATES[name])
    with pytest.raises(InputError, match=f"line 1 of x.jsonl: .*{message}"):
        Renderer(ALL, chat).conversation(conversation(*messages))


def test_an_answer_that_the_template_leaves_out_is_refused() -> None:
    chat = chat_format("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(InputError, match="the chat template leaves out message 2"):
        Renderer(BYTES, chat).conversation(conversation(ASKED, ANSWERED))


def test_the_end_token_is_the_one_after_the_answer() -> None:
    """Not one before its end, and none of those that follow."""
    template = CHATML.replace("m.content + ", "m.content[:1] + '<|im_end|>' + m.content[1:] + ").replace(
        "{% if add", "{% if not add_generation_prompt %}</s>{% endif %}{% if add"
    )
    names = BYTES.special_tokens
    chat = ChatFormat(None, (names["<|im_end|>"], names["</s>"]), "<s>", "</s>", template)
    rendered = Renderer(BYTES, chat).conversation(conversation(ASKED, ANSWERED))
    assert runs(rendered)[-1] == (True, "S<|im_end|>o.<|im_end|>")


def test_a_preference_is_two_conversations_that_share_their_question() -> None:
    one = Preference("line 3 of x", (ASKED, ANSWERED, AGAIN), False, "yes", "no, no")
    chosen, rejected = Renderer(BYTES, chat_format()).preference(one)
    question = encode_chat(BYTES, chat_format(), [ASKED, ANSWERED, AGAIN])
    for rendered, text in ((chosen, "yes<|im_end|>"), (rejected, "no, no<|im_end|>")):
        assert rendered.ids[~rendered.learned].tolist() == question  # earlier answers are part of the question
        assert runs(rendered)[-1] == (True, text) and rendered.where == "line 3 of x"


def test_without_a_template_prompt_and_answer_are_one_text() -> None:
    bare = conversation(turn("user", "Q: a A:"), turn("assistant", " b"), bare=True)
    rendered = Renderer(BYTES, chat_format(None, "</s>")).conversation(bare)
    assert runs(rendered) == [(False, "<s>Q: a A:"), (True, " b</s>")]
    rendered = Renderer(BYTES).conversation(bare)  # a model trained here: no begin token, and the tokenizer's end
    assert runs(rendered) == [(False, "Q: a A:"), (True, " b</s>")]
    with pytest.raises(InputError, match="has no token that ends a text, so the model would not learn to stop"):
        Renderer(CharTokenizer.train("Q: a A b")).conversation(bare)
    with pytest.raises(InputError, match="line 1 of x.jsonl: this model has no chat template, which messages need"):
        Renderer(BYTES).conversation(bare._replace(bare=False))
    with pytest.raises(InputError, match="the tokenizer is of the kind char, but a chat template needs bpe"):
        Renderer(CharTokenizer.train("Q: a A b"), chat_format()).conversation(bare)


@pytest.mark.parametrize("prefix", ["none", "first", "always", "part"])
@pytest.mark.parametrize("gap", ["", " ", "</s>"])
def test_sentencepiece_puts_no_space_where_an_answer_begins(prefix: str, gap: str) -> None:
    """The ids are those of the whole text where no token holds characters of both."""
    tokens = ["<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abc", "▁b"]
    merges = [(tokens.index("▁"), tokens.index("b"))]
    tokenizer = SentencePieceTokenizer(tokens, merges, ["<s>", "</s>"], (), prefix)
    template = f"{{% for m in messages %}}{{{{ m.content + ('{gap}' if m.role == 'user' else '</s>') }}}}{{% endfor %}}"
    chat = ChatFormat(None, (1,), "<s>", "</s>", template)
    messages = [turn("user", "a c"), turn("assistant", "bc")]
    rendered = Renderer(tokenizer, chat).conversation(conversation(*messages))
    given_ids = encode_chat(tokenizer, chat, messages[:1])
    assert rendered.ids[~rendered.learned].tolist() == given_ids
    if gap != " ":
        assert rendered.ids.tolist() == encode_chat(tokenizer, chat, messages, False)


def test_a_label_is_learned_at_the_last_token() -> None:
    rendered = Renderer(BYTES, chat_format()).text(LabelledText("line 2", "ab", "spam"), 3)
    begin = BYTES.special_tokens["<s>"]
    assert rendered.inputs.tolist() == [begin, *b"ab"] and rendered.targets.tolist() == [-1, -1, 3]
    lacking = BPETokenizer([b"a"], [])
    with pytest.raises(InputError, match="line 2: the tokenizer has no token for any character of the text"):
        Renderer(lacking).text(LabelledText("line 2", "b", "spam"), 0)


@given(st.lists(st.booleans(), min_size=2, max_size=6))
def test_masks_of_nothing_and_of_everything_are_refused(learned: list[bool]) -> None:
    row = Rendered("", np.zeros(len(learned), np.int32), np.array(learned))
    if not any(learned[1:]):
        with pytest.raises(InputError, match="nothing of it would be learned; give an answer"):
            check_mask(row)
    elif all(learned[1:]):
        with pytest.raises(InputError, match="every token of it would be learned, from no question; give a prompt"):
            check_mask(row)
    else:
        check_mask(row)


def test_an_answer_to_nothing_is_refused() -> None:
    bare = conversation(turn("user", ""), ANSWERED, bare=True)
    with pytest.raises(InputError, match="line 1 of x.jsonl: every token of it would be learned"):
        Renderer(BYTES).conversation(bare)
    with pytest.raises(InputError, match="every token of it would be learned"):  # the begin token is no question
        Renderer(BYTES, chat_format(None)).conversation(bare)
