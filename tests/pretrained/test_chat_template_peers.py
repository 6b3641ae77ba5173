"""Templates with the constructs of published ones, as transformers renders them. Needs the extra `peers`.

Written for these tests, after what the templates of Qwen 2.5 and 3, Gemma 2 and 3, Phi-3, OLMo 2, SmolLM 3 and gpt-oss
use of Jinja.
"""

import warnings
from datetime import date
from typing import Any

import pytest
from chat_templates import histories
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm import InputError
from jaxllm.pretrained.chat_template import render_template

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other packages
    chat_template_utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="needs the extra `peers`"
    )

TOOLS = """
{%- if tools %}{{ '# Tools\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{%- elif messages[0]['role'] == 'system' %}{{- '<|im_start|>' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>You help.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- message.role + '\\n' + message.content }}
    {%- elif message.role == "assistant" %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
"""
ALTERNATING = """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
    {%- if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
    {{- '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}
{%- endfor %}
"""
LISTS = """
{%- set first = messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text'] -%}
{%- for message in messages -%}
    {{ (first if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
{%- endfor -%}
"""
BLOCKS = """
{%- for message in messages -%}
    {%- for block in message.content -%}{{ block.text if block.type == 'text' else block }}{%- endfor -%}
{%- endfor -%}
"""
LAST = """
{{- bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% if not loop.last %}
{{- '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{%- endif %}{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}
{%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}
"""
MODES = """
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{%- set custom = none -%}
{%- if messages[0].role == "system" -%}
    {%- if "/no_think" in messages[0].content -%}{%- set mode = "/no_think" -%}{%- endif -%}
    {%- set custom = messages[0].content.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "Today: " -}}{{- strftime_now("%d %B %Y") -}}{{- "\\nMode: " + mode + "\\n" -}}
{%- if custom -%}{{- custom + "\\n" -}}{%- elif xml_tools or python_tools or tools -%}{{- xml_tools | string -}}{%- endif -%}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "assistant" -%}
        {%- generation -%}{{ content.lstrip("\\n") + "\\n" }}{%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""
ALIASES = "{% for m in messages %}{{ m.thinking ~ '|' ~ m.reasoning_content ~ '|' ~ m.reasoning }}{% endfor %}"
OURS = {
    "tools": TOOLS, "alternating": ALTERNATING, "lists": LISTS, "blocks": BLOCKS, "last": LAST, "modes": MODES,
    "aliases": ALIASES,
}  # fmt: skip
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def theirs(template: str, messages: Any, prompt: bool) -> str | None:
    """What transformers writes; None if it raises."""
    rendered = chat_template_utils.render_jinja_template
    try:
        return rendered([messages], chat_template=template, add_generation_prompt=prompt, **VARIABLES)[0][0]
    except Exception:  # a program can raise anything
        return None


def ours(template: str, messages: Any, prompt: bool) -> str | None:
    try:
        text = render_template(template, messages, {**VARIABLES, "add_generation_prompt": prompt}, date.today())
    except InputError:
        return None
    return str.__str__(text)


BLOCK = st.sampled_from([{"type": "text", "text": " a\n"}, {"type": "image"}, {"type": "text", "text": "/no_think é"}])


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Those of `histories`, some with a content in blocks, others with reasoning under another name."""
    messages = draw(histories(["a", " ", "\n", "é", "/think", "/no_think", "<think>", "</think>"]))
    one = draw(st.sampled_from(messages))
    kind = draw(st.sampled_from(["as it is", "blocks", "thinking", "reasoning"]))
    if kind == "blocks":
        one["content"] = draw(st.lists(BLOCK, max_size=3))
    elif kind != "as it is":
        one[kind] = draw(st.sampled_from(["", "hm", None]))
    return messages


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=40)
@given(conversations(), st.booleans())
def test_the_text_is_that_of_transformers(name: str, messages: Any, prompt: bool) -> None:
    """Or both refuse the messages."""
    assert ours(OURS[name], messages, prompt) == theirs(OURS[name], messages, prompt)
