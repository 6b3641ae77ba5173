"""A template sees the messages unchanged; in the text that it writes, only its own characters are special tokens."""

import json
from typing import Any

import pytest
from chat_templates import HOSTILE, PLAIN, SPECIAL, TEMPLATES, histories
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxllm import InputError
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.tokenizers import BPETokenizer

pytestmark = pytest.mark.newest

TOKENIZER = BPETokenizer([bytes([i]) for i in range(256)], SPECIAL)
SOME = settings(max_examples=40)
KINDS = pytest.mark.parametrize("kind", TEMPLATES)


def chat_format(template: str) -> ChatFormat:
    return ChatFormat(None, (257,), "<s>", "</s>", template)


def by_jinja(template: str, messages: Any, prompt: bool) -> str:
    """The text that Jinja alone writes, configured as in transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    variables = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompt}
    return environment.from_string(template).render(messages=messages, tools=None, **variables)


def special_in(ids: list[int]) -> list[int]:
    return [i for i in ids if i > 255]


def between(ids: list[int]) -> list[bytes]:
    """The text between special tokens."""
    texts = [b""]
    for i in ids:
        texts = [*texts, b""] if i > 255 else [*texts[:-1], texts[-1] + bytes([i])]
    return texts


@KINDS
@SOME
@given(histories(), st.booleans())
def test_the_text_is_jinjas_and_the_ids_are_the_texts(kind: str, messages: Any, prompt: bool) -> None:
    chat = chat_format(TEMPLATES[kind])
    text = chat.render(messages, prompt)
    assert type(text) is str and text == by_jinja(TEMPLATES[kind], messages, prompt)
    ids = encode_chat(TOKENIZER, chat, messages, prompt)
    assert ids == TOKENIZER.encode(text, SPECIAL)
    assert special_in(ids)


@KINDS
@SOME
@given(histories([*HOSTILE, *PLAIN]), st.booleans())
def test_the_text_is_jinjas_whatever_is_in_it(kind: str, messages: Any, prompt: bool) -> None:
    chat = chat_format(TEMPLATES[kind])
    text = chat.render(messages, prompt)
    assert text == by_jinja(TEMPLATES[kind], messages, prompt)
    assert TOKENIZER.decode(encode_chat(TOKENIZER, chat, messages, prompt)) == text


@KINDS
@SOME
@given(histories([chr(0xE000 + i) for i in range(len(HOSTILE))]), st.booleans())
def test_what_a_user_wrote_is_never_a_special_token(kind: str, messages: Any, prompt: bool) -> None:
    """Special tokens and the text between them are those of harmless messages with the same parts."""
    chat = chat_format(TEMPLATES[kind])
    parts = str.maketrans({chr(0xE000 + i): part for i, part in enumerate(HOSTILE)})

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {hostile(k) if "\ue000" <= k[:1] else k: hostile(v) for k, v in value.items()}
        return [hostile(v) for v in value] if isinstance(value, list) else translated(value)

    def translated(value: Any) -> Any:
        return value.translate(parts) if isinstance(value, str) else value

    harmless = encode_chat(TOKENIZER, chat, messages, prompt)
    ids = encode_chat(TOKENIZER, chat, hostile(messages), prompt)
    assert special_in(ids) == special_in(harmless)
    assert between(ids) == [part.decode().translate(parts).encode() for part in between(harmless)]


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ("{{ '<s>'[:2] + '<s>'[2] }}", ["<s>"]),
        ("{{ '-<s>-'.strip('-') ~ '-<s>'.lstrip('-') ~ '<s>-'.rstrip('-') }}", ["<s>"] * 3),
        ("{{ '<s>x'.removesuffix('x') ~ 'x<s>'.removeprefix('x') }}", ["<s>"] * 2),
        ("{{ '<s>,<s>'.split(',')[1] ~ '<s> x'.rsplit(none, 1)[0] ~ '<s>\\n'.splitlines()[0] }}", ["<s>"] * 3),
        ("{{ 'x:<s>'.partition(':')[2] ~ '<s>:x'.rpartition(':')[0] }}", ["<s>"] * 2),
        ("{{ '<S>' | lower ~ '<S>'.lower() ~ '<s>'.center(9) ~ '<s>' | indent }}", ["<s>"] * 4),
        ("{{ '<X>' | replace('X', 's') ~ '<X>'.replace('X', 's') ~ '<>'.join(['', 's']) }}", ["<s>", "<s>", "<>s"]),
        ("{{ '<s>' * 2 ~ ''.join(['<', 's>']) ~ ['<', '>'] | join('s') }}", ["<s>"] * 4),
        ("{{ '<%s>' % 's' ~ '%s' | format('<s>') ~ '<{}>'.format('s') }}", ["<s>"] * 3),
        ("{{ '%s<s>%%' % 's' ~ '%(a)s' % {'a': '<s>'} ~ '{{{a}}}{0}'.format('<s>', a='<s>') }}", ["<s>"] * 4),
        ("{{ '<s>%s' % messages[0].content ~ '{}{}'.format('<s>', messages[0].content) }}", ["<s>"] * 2),
        ("{{ '{a}<s>'.format_map({'a': messages[0].content}) ~ '%d%s' % (1, '<s>') }}", ["<s>"]),
        ("{% for c in '<s>' %}{{ c }}{% endfor %}{{ '<s>' | list | join }}", ["<s>"] * 2),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('s') }}", ["<s>"]),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}s{% endcall %}", ["<s>"]),
        ("{% filter trim %} <s>{% endfilter %}{% set x %}<s>{% endset %}{{ x }}", ["<s>"] * 2),
        ("<{{ 's' }}>{{ ['<s>'] | first ~ {'a': '<s>'}['a'] ~ '<s>' | default('') }}", ["<s>"] * 4),
        ("{{ bos_token ~ ('<s>' if true) ~ '<s>' | string }}{{ eos_token }}", ["<s>", "<s>", "<s>", "</s>"]),
    ],
)
def test_what_a_template_makes_of_its_own_text_is_its_own(template: str, want: list[str]) -> None:
    ids = encode_chat(TOKENIZER, chat_format(template), [{"role": "user", "content": "s"}])
    assert [TOKENIZER.decode([i]) for i in special_in(ids)] == [name for name in want if name in SPECIAL]


@pytest.mark.parametrize(
    "template",
    [
        "{{ x }}", "<{{ x[1] }}>", "{{ x[::-1][::-1] }}", "{{ x | upper | lower }}", "{{ x.strip().split(',')[0] }}",
        "{{ '<%s>' % x[1] }}", "{{ '<%(a)s>' % {'a': x[1]} }}", "{{ '<%s>' | format(x[1]) }}", "{{ '<{}>'.format(x[1]) }}",
        "{{ '<{a}>'.format_map({'a': x[1]}) }}", "{{ '<' ~ x[1] ~ '>' }}", "{{ '<' + x[1:] }}", "{{ x[:1] + 's>' }}",
        "{{ '<>' | replace('>', x[1:]) }}", "{{ '<>'.replace('', x[1], 2).replace('s', '', 1) }}", "{{ '<' ~ x[1] * 1 ~ '>' }}",
        "{{ ['<', '>'] | join(x[1]) }}", "{{ ''.join(x) }}", "{{ x | list | join }}", "{{ x.center(9) }}", "{{ x | indent }}",
        "{{ x | tojson | trim('\"') }}", "{{ x | e | string | replace('&lt;', '<') | replace('&gt;', '>') }}",
        "{{ x | safe }}", "{{ x | wordwrap }}", "{{ x | title | lower }}", "{{ x.encode().decode() }}", "{{ x | pprint }}",
        "{{ '<x>'.translate({120: x[1]}) }}", "{{ x.ljust(4).zfill(9) }}", "{% for c in x %}{{ c }}{% endfor %}",
        "{% set y %}{{ x }}{% endset %}{{ y }}", "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(x[1]) }}",
        "{% filter trim %}{{ x }}{% endfilter %}", "{{ messages[0] }}",
        "{{ messages[0].name ~ '>' }}", "{{ messages[0].role }}", "{{ x.partition('x') | join }}", "{{ x.replace('<', '<') }}",
        "{{ messages | map(attribute='content') | join }}", "{{ messages[0].more[0].a }}", "{{ [x] | random }}",
        "{{ messages[0].more[0] | items | first | last }}", "{% for key in messages[0].keyed %}{{ key }}{% endfor %}",
        "{{ [messages[0]] | groupby('content') | map('first') | join }}", "{{ messages | join(attribute='content') }}",
        "{{ {'a': x} | xmlattr }}", "{{ x | truncate(3) }}", "{{ joiner(x)() }}{% set j = joiner(x) %}{{ j() ~ j() }}",
        "{{ raise_exception if false else x | default(x) }}", "{{ x | forceescape | striptags }}", "{{ '%c' % 60 ~ x[1:] }}",
    ],
)  # fmt: skip
def test_what_comes_of_a_message_is_the_users(template: str) -> None:
    """Also if an operation does not track the origin of characters."""
    message = {"role": "us<s>er", "content": "<s>", "name": "<s", "more": [{"a": "<s>"}], "keyed": {"<s>": 1}}
    template = "{% set x = messages[0].content %}" + template
    text = chat_format(template).render([message])
    assert text == by_jinja(template, [message], True)
    assert encode_chat(TOKENIZER, chat_format(template), [message]) == [*text.encode()]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_names_that_templates_read(key: str) -> None:
    """And a text has no keys: templates ask each part of a content for its type."""
    template = "{{ messages[0].thinking ~ messages[0].reasoning_content ~ messages[0].content.type }}"
    assert chat_format(template).render([{"role": "assistant", "content": "", key: "hm"}]) == "hmhm"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.split.__globals__.x }}", "{{ ''.replace.__func__.x }}", "{{ x.join.__self__.x }}", "{{ x.__init__.x }}",
        "{{ x.lower.__wrapped__.x }}", "{{ x.__class__.replace.x }}", "{{ '{0.__class__.__mro__}'.format(x) }}",
        "{{ '{a.__class__.__mro__}'.format_map({'a': x}) }}", "{{ x._users.x }}", "{{ x.__slots__.x }}",
    ],
)  # fmt: skip
def test_the_sandbox_holds_for_tracked_text(template: str) -> None:
    with pytest.raises(InputError, match="failed: SecurityError"):
        chat_format("{% set x = messages[0].content %}" + template).render([{"role": "user", "content": "x"}])
