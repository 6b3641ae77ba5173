"""Chat templates with the logic of published ones, written for these tests, and conversations for them."""

from typing import Any

from hypothesis import strategies as st

SPECIAL = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|end|>", "<|user|>", "<|assistant|>",
    "<|system|>", "<|tool|>", "[INST]", "[/INST]", "<turn>", "</turn>",
]  # fmt: skip
THINKS = """
{%- set found = namespace(open=true, last=messages | length) -%}
{%- for m in messages[::-1] -%}
    {%- set answers = m.content.startswith('<tool_response>') if m.content is string else false -%}
    {%- if found.open and m.role == 'user' and not (answers and m.content.endswith('</tool_response>')) -%}
        {%- set found.open = false -%}
        {%- set found.last = messages | length - loop.index -%}
    {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- set said = m.content if m.content is string else '' -%}
        {%- set thought = m.reasoning_content | default('') -%}
        {%- if not thought and '</think>' in said -%}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>' + m.role + '\\n' -}}
        {%- if loop.index0 > found.last and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
        {%- endif -%}
        {{- said -}}
        {%- for call in m.tool_calls or [] -%}
            {%- set call = call.function if call.function is defined else call -%}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' -}}
            {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
        {{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' -}}
        {%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
    {%- else -%}
        {{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
HEADS = """
{%- set turns = messages -%}
{%- set system = '' -%}
{%- if turns[0]['role'] == 'system' -%}
    {%- set system = turns[0]['content'] | trim -%}
    {%- set turns = turns[1:] -%}
{%- endif -%}
{{- bos_token + '<|head|>system<|/head|>\\n\\n' ~ 'Today: ' ~ 26 ~ '\\n' ~ system ~ '<|end|>' -}}
{%- for m in turns -%}
    {%- if m.tool_calls -%}
        {{- '<|head|>' + m.role + '<|/head|>\\n\\n' -}}
        {%- for call in m.tool_calls -%}
            {{- '{"name": "' + call.function.name + '", "parameters": ' + (call.function.arguments | tojson) + '}' -}}
        {%- endfor -%}
        {{- '<|end|>' -}}
    {%- elif m.role in ['tool', 'ipython'] -%}
        {{- '<|head|>' ~ 'ipython' ~ '<|/head|>\\n\\n' -}}
        {{- m.content | tojson if m.content is mapping or m.content is iterable and m.content is not string else m.content -}}
        {{- '<|end|>' -}}
    {%- else -%}
        {{- '<|head|>' ~ m.role ~ '<|/head|>\\n\\n' ~ (m.content | trim) ~ '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif -%}
"""
INSTRUCTIONS = """
{%- set before = messages[0].content ~ '\\n\\n' if messages[0].role == 'system' else '' -%}
{%- set turns = messages[1:] if before else messages -%}
{%- set last = (turns | selectattr('role', 'equalto', 'user') | list)[-1] -%}
{{- bos_token -}}
{%- for m in turns -%}
    {%- if m.role == 'user' -%}
        {{- '[INST] ' ~ (before if m == last else '') ~ m.content ~ '[/INST]' -}}
    {%- elif m.role == 'assistant' and m.content is string -%}
        {{- ' ' ~ m.content.strip() ~ eos_token -}}
    {%- elif m.role not in ('assistant', 'tool') -%}
        {{- raise_exception('only user and assistant take turns') -}}
    {%- endif -%}
{%- endfor -%}
"""
RENAMED = """
{{- bos_token -}}
{%- set lead = namespace(text='') -%}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}
        {%- set lead.text = [m.content, '', ''] | join('\\n') -%}
    {%- else -%}
        {%- set name = {'assistant': 'model'}.get(m.role, m.role) -%}
        <turn>{{ name }}
{{ lead.text ~ m.content | trim }}</turn>
{{ '' }}{% set lead.text = '' -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<turn>model
{% endif -%}
"""
BRACKETS = """
{%- macro tag(name) -%}{{ '<|' ~ name ~ '|>' }}{%- endmacro -%}
{%- for m in messages -%}
    {%- set body -%}
        {{- '<|' + m['role'] + '|>' + m['content'] | string -}}
    {%- endset -%}
    {{- body ~ tag('end') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
"""
FORGETS = """
{%- set first = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | first | default('') -%}
{{- '%s%s' | format(bos_token, first) -}}
{%- for m in messages if m.role != 'system' -%}
    {%- if m.role == 'user' -%}{{- '<|user|>' + m.content -}}
    {%- elif m.role == 'tool' -%}{{- '<|tool|>' + m.content | replace('\\n', ' ') + '<|end|>' -}}
    {%- else -%}
        {%- set said = m.content or '' -%}
        {%- if '</think>' in said -%}{%- set said = said.split('</think>')[-1] -%}{%- endif -%}
        {{- ['<|assistant|>', said, eos_token] | join -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' + '<think>\\n' -}}{%- endif -%}
"""
TEMPLATES = {
    "thinks": THINKS, "heads": HEADS, "instructions": INSTRUCTIONS, "renamed": RENAMED, "brackets": BRACKETS,
    "forgets": FORGETS,
}  # fmt: skip
MARKS = ["<think>", "</think>", "<tool_response>", "</tool_response>"]  # texts that templates search for
PLAIN = ["a", "Hi!", " ", "\n", "\n\n", "é", "|", "<", "4", *MARKS]
# Names of special tokens, and parts of names that the text of a template or another field completes.
HOSTILE = [*SPECIAL, "<|", "|>", "<|im_", "end|>", "user", "[/", "INST]", "<", "/s>", "s>", ">", "</tu", "rn>"]


@st.composite
def histories(draw: st.DrawFn, pieces: list[str] | None = None) -> list[dict[str, Any]]:
    """An optional system message, then questions and answers, some with reasoning or tool calls."""
    text = st.lists(st.sampled_from(pieces or PLAIN), max_size=5).map("".join)
    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(text)})
        if draw(st.booleans()):
            function = {"name": draw(text), "arguments": {draw(text): draw(text | st.integers() | st.none())}}
            call = {"id": draw(text), "type": "function", "function": function}
            messages.append({"role": "assistant", "content": draw(st.just("") | text), "tool_calls": [call]})
            messages.append({"role": "tool", "content": draw(text), "name": draw(text)})
        answer: dict[str, Any] = {"role": "assistant", "content": draw(text)}
        kind = draw(st.sampled_from(["plain", "within", "beside"]))
        if kind == "within":
            answer["content"] = f"<think>\n{draw(text)}\n</think>\n\n{draw(text)}"
        if kind == "beside":
            answer["reasoning_content"] = draw(text)
        messages.append(answer)
    return messages[:-1] if draw(st.booleans()) else messages
