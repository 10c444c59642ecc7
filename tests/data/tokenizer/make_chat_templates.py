#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja makes of chat templates.

    python3 make_chat_templates.py > chat_templates.json    (needs jinja2)

The templates have the shapes, and use the means of Jinja, of those that models
and trainers publish; environment and variables are set as transformers sets them.
"""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

LOOP = "{% for m in messages %}"

# ChatML with a default system prompt, before tools as well; how an answer
# begins is filled in.
DEFAULT = r"""
{%- set has_rules = messages[0].role == 'system' %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if has_rules %}
        {{- messages[0].content }}
    {%- else %}
        {{- 'Speak like a sailor.' }}
    {%- endif %}
    {{- '\n\nAt hand:' }}
    {%- for tool in tools %}
        {{- '\n' ~ tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif has_rules %}
    {{- '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nSpeak like a sailor.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first)
           or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|im_start|>' ~ m.role ~ '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\nBEGIN' }}
{%- endif %}
"""

# Answers keep their thoughts after the last question only.
THOUGHTS = r"""
{%- if tools %}{{ '<|im_start|>system\nAt hand:' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set last = namespace(sought=true, question=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- if last.sought and m.role == 'user' and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set last.question = messages|length - 1 - loop.index0 %}
        {%- set last.sought = false %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set answer = m.content %}
        {%- if '</think>' in m.content %}
            {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set answer = m.content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if (thought or loop.last) and loop.index0 > last.question %}
            {{- '<think>\n' + thought + '\n</think>\n\n' }}
        {%- endif %}
        {{- answer.rstrip('\t') ~ '<|im_end|>\n' }}
    {%- elif m.role == 'user' or not loop.first %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# The system prompt is set beforehand, and a question opens its answer.
SET_PROMPT = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set rules = messages[0]['content'] %}{% endif %}"
    "{% if rules is defined %}{{ RULES }}{% endif %}" + LOOP +
    "{% set said = m['content'] %}"
    "{% if m['role'] == 'user' %}{{ ASK }}"
    "{% elif m['role'] == 'assistant' %}{{ SAY }}{% endif %}{% endfor %}")
CHATML_ASK = "'<|im_start|>user\n' + said + '<|im_end|>\n<|im_start|>assistant\n'"
CHATML_SAY = "said + '<|im_end|>' + '\n'"

LLAMA3_DATE = r"""
{{- bos_token }}
{%- if my_tools is defined %}
    {%- set tools = my_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "1 May 2020" %}
{%- endif %}
{#- A system turn is always written. #}
{%- set rules = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set rules = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "At hand: python\n" }}
{%- endif %}
{{- "Learnt until: spring\n" }}
{{- "Day: " + date_string + "\n\n" }}
{{- rules }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {%- if not (m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# Where the system prompt goes, and what stands around questions and answers, is
# filled in.
MISTRAL = r"""
{%- set turns = messages %}
{%- if messages[0]["role"] == "system" %}
    {%- set rules = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if (m['role'] == 'user') == (loop.index0 % 2 == 1) %}
        {{- raise_exception('out of turn') }}
    {%- elif m["role"] == "user" and rules is defined and loop.WHERE %}
        {{- "OPEN" + rules + "\n\n" + m["content"] + "CLOSE" }}
    {%- elif m["role"] == "user" %}
        {{- "OPEN" + m["content"] + "CLOSE" }}
    {%- elif m["role"] == "assistant" %}
        {{- ANSWER + eos_token }}
    {%- else %}
        {{- raise_exception("a system prompt comes first") }}
    {%- endif %}
{%- endfor %}
"""

# The system prompt and the first question are stripped together; when it has a
# default is filled in. No message reaches the branch for systems.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set rules = messages[0]['content'] %}"
    "{% elif DEFAULT == true and '<<SYS>>' not in messages[0]['content'] %}"
    "{% set turns = messages %}{% set rules = 'Speak like a sailor.' %}"
    "{% else %}{% set turns = messages %}{% set rules = false %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('out of turn') }}{% endif %}"
    "{% if loop.index0 == 0 and rules != false %}"
    "{% set said = '<<SYS>>\\n' + rules + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set said = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}"
    "{{ '<<SYS>>\\n' + said.strip() + '\\n<</SYS>>\\n\\n' }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + said.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")

# Which messages are written, and what of them, is filled in.
SOME = (LOOP + "{% if KEPT %}{% set said = m.content %}"
        "{% if m.role == 'assistant' and '</think>' in said %}"
        "{% set said = said.split('</think>')[-1] %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + WHAT + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}")


def filled(template, **parts):
    for name, text in parts.items():
        assert name in template, name
        template = template.replace(name, text)
    return template


# Name, BOS, EOS, template.
TEMPLATES = [
    ("ChatML, tools and a default system prompt", None, "<|im_end|>",
     filled(DEFAULT, BEGIN="")),
    ("ChatML, a default system prompt in one string", None, "<|im_end|>",
     LOOP + "{% if loop.first and m['role'] != 'system' %}"
     "{{ '<|im_start|>system\nSpeak like a sailor.<|im_end|>\n' }}{% endif %}"
     "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
     "{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|im_start|>assistant\n' }}{% endif %}"),
    ("ChatML, a default system prompt that is set", None, "<|im_end|>",
     "{% set rules = 'Speak like a sailor.' %}" + filled(
         SET_PROMPT, ASK=CHATML_ASK, SAY=CHATML_SAY,
         RULES="'<|im_start|>system\n' + rules + '<|im_end|>\n'")),
    ("ChatML, a bare system prompt", "<s>", "<|im_end|>",
     filled(SET_PROMPT, ASK=CHATML_ASK, SAY=CHATML_SAY, RULES="rules")),
    ("ChatML", "<s>", "<|im_end|>",
     LOOP + "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
     "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|im_start|>assistant\n' }}{% endif %}"),
    ("ChatML, role by role", "<s>", "<|im_end|>",
     LOOP + "{% if m['role'] == 'user' %}"
     "{{'<|im_start|>user\n' + m['content'] + '<|im_end|>\n'}}"
     "{% elif m['role'] == 'assistant' %}"
     "{{'<|im_start|>assistant\n' + m['content'] + '<|im_end|>\n'}}"
     "{% else %}{{'<|im_start|>system\n' + m['content'] + '<|im_end|>\n'}}"
     "{% endif %}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|im_start|>assistant\n' }}{% endif %}"),
    ("ChatML, BOS and EOS by name", "<s>", "<|im_end|>",
     "{{ bos_token }}" + LOOP +
     "{{ '<|im_start|>' ~ m['role'] ~ '\n' ~ m['content'] ~ eos_token ~ '\n' }}"
     "{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|im_start|>assistant\n' }}{% endif %}"),
    ("ChatML, a generation prompt that thinks", None, "<|im_end|>",
     filled(DEFAULT, BEGIN=r"<think>\n")),
    ("ChatML, thoughts", None, "<|im_end|>", THOUGHTS),
    ("Llama 3", "<|begin_of_text|>", "<|eot_id|>",
     LOOP + "{% set turn = '<|start_header_id|>' + m['role'] + "
     "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
     "{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}"
     "{{ turn }}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    ("Llama 3, BOS spelled out, a default system prompt",
     "<|begin_of_text|>", "<|eot_id|>",
     "{% set rules = 'Speak like a sailor.' %}" + filled(
         SET_PROMPT,
         RULES="'<|begin_of_text|>' + '<|start_header_id|>system"
         "<|end_header_id|>\n\n' + rules + '<|eot_id|>'",
         ASK="'<|start_header_id|>user<|end_header_id|>\n\n' + said + "
         "'<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'",
         SAY="said + '<|eot_id|>'")),
    ("Llama 3 with a date", "<|begin_of_text|>", "<|eot_id|>", LLAMA3_DATE),
    ("Mistral without system prompts", "<s>", "</s>",
     "{{ bos_token }}" + LOOP +
     "{% if (loop.index0 % 2 == 0) != (m['role'] == 'user') %}"
     "{{ raise_exception('out of turn') }}{% endif %}"
     "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
     "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + ' ' }}"
     "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"),
    ("Mistral, system prompt with the first question", "<s>", "</s>",
     filled(MISTRAL, WHERE="first", OPEN=" [INST] ", CLOSE=" [/INST]",
            ANSWER='" " + m["content"]')),
    ("Mistral, system prompt with a last question", "<s>", "</s>",
     filled(MISTRAL, WHERE="last", OPEN="[INST] ", CLOSE="[/INST]",
            ANSWER='" " + m["content"]|trim')),
    ("Mistral without spaces", "<s>", "</s>",
     filled(MISTRAL, WHERE="last", OPEN="[INST]", CLOSE="[/INST]",
            ANSWER='m["content"]')),
    ("Mistral, BOS and EOS spelled out", "<s>", "</s>",
     "{{ '<s>' }}{% set turns = messages %}"
     "{% if messages[0]['role'] == 'system' %}"
     "{% set rules = messages[0]['content'] %}"
     "{% set turns = messages[1:] %}{% endif %}{% for m in turns %}"
     "{% set said = m['content'] %}{% if loop.first and rules is defined %}"
     "{% set said = rules + '\n\n' + said %}{% endif %}"
     "{% if m['role'] == 'user' %}{{ '[INST] ' + said + '[/INST]' }}"
     "{% elif m['role'] == 'assistant' %}{{ said + '</s>' }}{% endif %}"
     "{% endfor %}"),
    ("Mistral, a space after the system prompt", "<s>", "</s>",
     "{{ bos_token }}{% set turns = messages %}"
     "{% if messages[0]['role'] == 'system' %}{{ '[INST] ' + "
     "messages[0]['content'] }}{% if messages[1]['role'] == 'user' %}"
     "{{ ' ' + messages[1]['content'] }}{% set turns = messages[2:] %}"
     "{% else %}{% set turns = messages[1:] %}{% endif %}{{ ' [/INST]' }}"
     "{% endif %}{% for m in turns %}{% if m['role'] == 'user' %}"
     "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
     "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
     "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"),
    ("Llama 2", "<s>", "</s>",
     "{% set rules = false %}{% set turns = messages %}"
     "{% if messages[0]['role'] == 'system' %}"
     "{% set rules = messages[0]['content'] %}"
     "{% set turns = messages[1:] %}{% endif %}"
     "{% for m in turns %}"
     "{% if (loop.index0 % 2 == 0) != (m['role'] == 'user') %}"
     "{{ raise_exception('out of turn') }}{% endif %}"
     "{% if loop.index0 == 0 and rules != false %}"
     "{% set said = '<<SYS>>\\n' + rules + '\\n<</SYS>>\\n\\n' + m['content'] %}"
     "{% else %}{% set said = m['content'] %}{% endif %}"
     "{% if m['role'] == 'user' %}"
     "{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}"
     "{% elif m['role'] == 'assistant' %}"
     "{{ ' ' + said.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    ("Llama 2, a branch that nothing reaches", "<s>", "</s>",
     filled(LLAMA2, DEFAULT="false")),
    ("Llama 2, a default system prompt", "<s>", "</s>",
     filled(LLAMA2, DEFAULT="true")),
    ("ChatML, empty messages left out, thoughts taken away", None,
     "<|im_end|>", filled(SOME, KEPT="m.content", WHAT="said")),
    ("ChatML, empty system prompts left out", None, "<|im_end|>",
     filled(SOME, KEPT="m.role != 'system' or m.content", WHAT="said|trim")),
    ("ChatML, the part before a mark", None, "<|im_end|>",
     filled(SOME, KEPT="loop.index < 12 or m.role == 'user'",
            WHAT="said.split('###')[0]")),
]

# Roles, what users and systems say, what assistants say, generation prompt.
CASES = [
    ("UAUA", "q{}", "a{}", False),
    ("UA", " \n q{} \n", " \n a{} \n", False),
    ("SUAUA", "q{}", "a{}", False),
    ("SUA", " q{} ", " a{} ", False),
    ("SUAU", "q{}", "a{}", False),
    ("UAUAA", "q{}", "<think>\nt{}\n</think>\n\na", False),
    ("U", "q{}", "", True),
    ("SU", "q{}", "", True),
    ("UAU", "q{}", "<think>\nt{}\n</think>\n\na", True),
    ("UU", "q{}", "", False),
    ("AU", "q{}", "a{}", False),
    ("SU", "", "", False),
    ("SUA", " ", "a{}", False),
    ("UAU", "q{}", "", False),
    ("U", " \n<<SYS>> q{}###b</think>c", "", False),
    ("UAUAUAUAUAUU", "q{}", "<think>t</think>a{}###b", False),
]
ROLES = {"S": "system", "U": "user", "A": "assistant"}


def conversation(roles, asked, said):
    return [{"role": ROLES[r], "content": (said if r == "A" else asked).format(i)}
            for i, r in enumerate(roles)]


def refuse(message):
    raise ValueError(message)


def rendered(template, bos, eos, messages, generates):
    """The text, or None if the template refuses the conversation."""
    variables = {"messages": messages, "eos_token": eos, "tools": None,
                 "documents": None, "add_generation_prompt": generates}
    if bos:
        variables["bos_token"] = bos
    try:
        return template.render(**variables)
    except ValueError:
        return None


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    cases = [{"messages": conversation(roles, asked, said), "generates": generates}
             for roles, asked, said, generates in CASES]
    out = []
    for name, bos, eos, jinja in TEMPLATES:
        template = environment.from_string(jinja)
        texts = [rendered(template, bos, eos, **case) for case in cases]
        out.append({"name": name, "bos": bos, "eos": eos, "jinja": jinja,
                    "texts": texts})
    # One line for each conversation, template and text.
    print('{"cases": [')
    print(",\n".join(json.dumps(case) for case in cases))
    print('], "templates": [')
    for i, one in enumerate(out):
        texts = one.pop("texts")
        print(json.dumps(one)[:-1] + ', "texts": [')
        print(",\n".join(json.dumps(text) for text in texts))
        print("]}" + ("," if i + 1 < len(out) else ""))
    print("]}")


if __name__ == "__main__":
    main()
