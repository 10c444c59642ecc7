#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja makes of chat templates.

    pip install jinja2 && python3 make_chat_templates.py > chat_templates.json

The templates are short forms of those that models and trainers publish; the
environment is the one that transformers runs them in.
"""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

# Name, BOS, EOS, template.
TEMPLATES = [
    ('ChatML, tools and a default system prompt', None, '<|im_end|>',
     '{%- if tools %}\n'
     "    {{- '<|im_start|>system\\n' }}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- messages[0]['content'] }}\n"
     '    {%- else %}\n'
     "        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant"
     ".' }}\n"
     '    {%- endif %}\n'
     '    {{- "\\n\\n# Tools\\n\\n" }}\n'
     '{%- else %}\n'
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
     '    {%- else %}\n'
     "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are"
     " a helpful assistant.<|im_end|>\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endif %}\n'
     '{%- for message in messages %}\n'
     '    {%- if (message.role == "user") or (message.role == "system" and not loop.fi'
     'rst) or (message.role == "assistant" and not message.tool_calls) %}\n'
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>"
     "' + '\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endfor %}\n'
     '{%- if add_generation_prompt %}\n'
     "    {{- '<|im_start|>assistant\\n' }}\n"
     '{%- endif %}\n'),
    ('ChatML, a default system prompt in one string', None, '<|im_end|>',
     "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system"
     "' %}{{ '<|im_start|>system\n"
     'You are a helpful assistant.<|im_end|>\n'
     "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
     "' + message['content'] + '<|im_end|>' + '\n"
     "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
     "' }}{% endif %}"),
    ('ChatML, a default system prompt that is set', None, '<|im_end|>',
     "{% set system_message = 'You are a helpful assistant.' %}{% if messages[0]['role"
     "'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}{% "
     "if system_message is defined %}{{ '<|im_start|>system\n"
     "' + system_message + '<|im_end|>\n"
     "' }}{% endif %}{% for message in messages %}{% set content = message['content'] "
     "%}{% if message['role'] == 'user' %}{{ '<|im_start|>user\n"
     "' + content + '<|im_end|>\n"
     '<|im_start|>assistant\n'
     "' }}{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\n"
     "' }}{% endif %}{% endfor %}"),
    ('ChatML, a bare system prompt', '<s>', '<|im_end|>',
     "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['con"
     "tent'] %}{% endif %}{% if system_message is defined %}{{ system_message }}{% end"
     "if %}{% for message in messages %}{% set content = message['content'] %}{% if me"
     "ssage['role'] == 'user' %}{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_"
     "start|>assistant\\n' }}{% elif message['role'] == 'assistant' %}{{ content + '<|i"
     "m_end|>' + '\\n' }}{% endif %}{% endfor %}"),
    ('ChatML', '<s>', '<|im_end|>',
     "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n"
     "' + message['content'] + '<|im_end|>' + '\n"
     "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
     "' }}{% endif %}"),
    ('ChatML, role by role', '<s>', '<|im_end|>',
     "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|im_start|>us"
     'er\n'
     "' + message['content'] + '<|im_end|>\n"
     "'}}{% elif message['role'] == 'assistant' %}{{'<|im_start|>assistant\n"
     "' + message['content'] + '<|im_end|>\n"
     "' }}{% else %}{{ '<|im_start|>system\n"
     "' + message['content'] + '<|im_end|>\n"
     "' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assista"
     'nt\n'
     "' }}{% endif %}"),
    ('ChatML, BOS and EOS by name', '<s>', '<|im_end|>',
     "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' ~ message['role'] "
     "~ '\n"
     "' ~ message['content'] ~ eos_token ~ '\n"
     "' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
     "' }}{% endif %}"),
    ('ChatML, a generation prompt that thinks', None, '<|im_end|>',
     '{%- if tools %}\n'
     "    {{- '<|im_start|>system\\n' }}\n"
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- messages[0]['content'] }}\n"
     '    {%- else %}\n'
     "        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant"
     ".' }}\n"
     '    {%- endif %}\n'
     '    {{- "\\n\\n# Tools\\n\\n" }}\n'
     '{%- else %}\n'
     "    {%- if messages[0]['role'] == 'system' %}\n"
     "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
     '    {%- else %}\n'
     "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are"
     " a helpful assistant.<|im_end|>\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endif %}\n'
     '{%- for message in messages %}\n'
     '    {%- if (message.role == "user") or (message.role == "system" and not loop.fi'
     'rst) or (message.role == "assistant" and not message.tool_calls) %}\n'
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>"
     "' + '\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endfor %}\n'
     '{%- if add_generation_prompt %}\n'
     "    {{- '<|im_start|>assistant\\n<think>\\n' }}\n"
     '{%- endif %}\n'),
    ('ChatML, thoughts', None, '<|im_end|>',
     "{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{%- for tool in tools %}{{ t"
     'ool | tojson }}{% endfor %}\n'
     "{%- elif messages[0].role == 'system' %}\n"
     "    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n"
     '{%- endif %}\n'
     '{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - '
     '1) %}\n'
     '{%- for message in messages[::-1] %}\n'
     '    {%- set index = (messages|length - 1) - loop.index0 %}\n'
     '    {%- if ns.multi_step_tool and message.role == "user" and not(message.content'
     ".startswith('<tool_response>') and message.content.endswith('</tool_response>'))"
     ' %}\n'
     '        {%- set ns.multi_step_tool = false %}\n'
     '        {%- set ns.last_query_index = index %}\n'
     '    {%- endif %}\n'
     '{%- endfor %}\n'
     '{%- for message in messages %}\n'
     '    {%- if (message.role == "user") or (message.role == "system" and not loop.fi'
     'rst) %}\n'
     "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>"
     "' + '\\n' }}\n"
     '    {%- elif message.role == "assistant" %}\n'
     '        {%- set content = message.content %}\n'
     "        {%- set reasoning_content = '' %}\n"
     "        {%- if '</think>' in message.content %}\n"
     "            {%- set content = message.content.split('</think>')[-1].lstrip('\\n')"
     ' %}\n'
     "            {%- set reasoning_content = message.content.split('</think>')[0].rst"
     "rip('\\n').split('<think>')[-1].lstrip('\\n') %}\n"
     '        {%- endif %}\n'
     '        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_con'
     'tent) %}\n'
     "            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_conten"
     "t.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n"
     '        {%- else %}\n'
     "            {{- '<|im_start|>' + message.role + '\\n' + content }}\n"
     '        {%- endif %}\n'
     "        {{- '<|im_end|>\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endfor %}\n'
     '{%- if add_generation_prompt %}\n'
     "    {{- '<|im_start|>assistant\\n' }}\n"
     '    {%- if enable_thinking is defined and enable_thinking is false %}\n'
     "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
     '    {%- endif %}\n'
     '{%- endif %}\n'),
    ('Llama 3', '<|begin_of_text|>', '<|eot_id|>',
     '{% set loop_messages = messages %}{% for message in loop_messages %}{% set conte'
     "nt = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n"
     '\n'
     "'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set co"
     'ntent = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_gene'
     "ration_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n"
     '\n'
     "' }}{% endif %}"),
    ('Llama 3, BOS spelled out, a default system prompt', '<|begin_of_text|>', '<|eot_id|>',
     "{% set system_message = 'You are a helpful assistant.' %}{% if messages[0]['role"
     "'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}{% "
     "if system_message is defined %}{{ '<|begin_of_text|>' + '<|start_header_id|>syst"
     'em<|end_header_id|>\n'
     '\n'
     "' + system_message + '<|eot_id|>' }}{% endif %}{% for message in messages %}{% s"
     "et content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|start_"
     'header_id|>user<|end_header_id|>\n'
     '\n'
     "' + content + '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
     '\n'
     "' }}{% elif message['role'] == 'assistant' %}{{ content + '<|eot_id|>' }}{% endi"
     'f %}{% endfor %}'),
    ('Llama 3 with a date', '<|begin_of_text|>', '<|eot_id|>',
     '{{- bos_token }}\n'
     '{%- if custom_tools is defined %}\n'
     '    {%- set tools = custom_tools %}\n'
     '{%- endif %}\n'
     '{%- if not date_string is defined %}\n'
     '    {%- set date_string = "26 Jul 2024" %}\n'
     '{%- endif %}\n'
     '{%- if not tools is defined %}\n'
     '    {%- set tools = none %}\n'
     '{%- endif %}\n'
     '{#- This block extracts the system message, so we can slot it into the right pla'
     'ce. #}\n'
     "{%- if messages[0]['role'] == 'system' %}\n"
     "    {%- set system_message = messages[0]['content']|trim %}\n"
     '    {%- set messages = messages[1:] %}\n'
     '{%- else %}\n'
     '    {%- set system_message = "" %}\n'
     '{%- endif %}\n'
     '{#- System message + builtin tools #}\n'
     '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n'
     '{%- if builtin_tools is defined or tools is not none %}\n'
     '    {{- "Environment: ipython\\n" }}\n'
     '{%- endif %}\n'
     '{{- "Cutting Knowledge Date: December 2023\\n" }}\n'
     '{{- "Today Date: " + date_string + "\\n\\n" }}\n'
     '{{- system_message }}\n'
     '{{- "<|eot_id|>" }}\n'
     '{%- for message in messages %}\n'
     "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_cal"
     "ls' in message) %}\n"
     "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ m"
     "essage['content'] | trim + '<|eot_id|>' }}\n"
     '    {%- endif %}\n'
     '{%- endfor %}\n'
     '{%- if add_generation_prompt %}\n'
     "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
     '{%- endif %}\n'),
    ('Mistral without system prompts', '<s>', '</s>',
     "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') !="
     " (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
     "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user'"
     " %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == '"
     "assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}{{ raise_except"
     "ion('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"),
    ('Mistral, system prompt with the first question', '<s>', '</s>',
     '{%- if messages[0]["role"] == "system" %}\n'
     '    {%- set system_message = messages[0]["content"] %}\n'
     '    {%- set loop_messages = messages[1:] %}\n'
     '{%- else %}\n'
     '    {%- set loop_messages = messages %}\n'
     '{%- endif %}\n'
     '\n'
     '{{- bos_token }}\n'
     '{%- for message in loop_messages %}\n'
     "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
     "        {{- raise_exception('x') }}\n"
     '    {%- endif %}\n'
     '    {%- if message["role"] == "user" %}\n'
     '        {%- if loop.first and system_message is defined %}\n'
     '            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/'
     'INST]" }}\n'
     '        {%- else %}\n'
     '            {{- " [INST] " + message["content"] + " [/INST]" }}\n'
     '        {%- endif %}\n'
     '    {%- elif message["role"] == "assistant" %}\n'
     '        {{- " " + message["content"] + eos_token}}\n'
     '    {%- else %}\n'
     '        {{- raise_exception("Only user and assistant roles are supported, with t'
     'he exception of an initial optional system message!") }}\n'
     '    {%- endif %}\n'
     '{%- endfor %}\n'),
    ('Mistral, system prompt with a last question', '<s>', '</s>',
     '{%- if messages[0]["role"] == "system" %}\n'
     '    {%- set system_message = messages[0]["content"] %}\n'
     '    {%- set loop_messages = messages[1:] %}\n'
     '{%- else %}\n'
     '    {%- set loop_messages = messages %}\n'
     '{%- endif %}\n'
     '\n'
     '{{- bos_token }}\n'
     '{%- for message in loop_messages %}\n'
     "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
     "        {{- raise_exception('x') }}\n"
     '    {%- endif %}\n'
     '    {%- if message["role"] == "user" %}\n'
     '        {%- if loop.last and system_message is defined %}\n'
     '            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/IN'
     'ST]" }}\n'
     '        {%- else %}\n'
     '            {{- "[INST] " + message["content"] + "[/INST]" }}\n'
     '        {%- endif %}\n'
     '    {%- elif message["role"] == "assistant" %}\n'
     '        {{- " " + message["content"]|trim + eos_token}}\n'
     '    {%- else %}\n'
     '        {{- raise_exception("Only user and assistant roles are supported, with t'
     'he exception of an initial optional system message!") }}\n'
     '    {%- endif %}\n'
     '{%- endfor %}\n'),
    ('Mistral without spaces', '<s>', '</s>',
     '{%- if messages[0]["role"] == "system" %}\n'
     '    {%- set system_message = messages[0]["content"] %}\n'
     '    {%- set loop_messages = messages[1:] %}\n'
     '{%- else %}\n'
     '    {%- set loop_messages = messages %}\n'
     '{%- endif %}\n'
     '\n'
     '{{- bos_token }}\n'
     '{%- for message in loop_messages %}\n'
     "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
     "        {{- raise_exception('x') }}\n"
     '    {%- endif %}\n'
     '    {%- if message["role"] == "user" %}\n'
     '        {%- if loop.last and system_message is defined %}\n'
     '            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INS'
     'T]" }}\n'
     '        {%- else %}\n'
     '            {{- "[INST]" + message["content"] + "[/INST]" }}\n'
     '        {%- endif %}\n'
     '    {%- elif message["role"] == "assistant" %}\n'
     '        {{- message["content"] + eos_token}}\n'
     '    {%- else %}\n'
     '        {{- raise_exception("Only user and assistant roles are supported, with t'
     'he exception of an initial optional system message!") }}\n'
     '    {%- endif %}\n'
     '{%- endfor %}\n'),
    ('Mistral, BOS and EOS spelled out', '<s>', '</s>',
     "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messag"
     "es[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_"
     'messages = messages %}{% endif %}{% for message in loop_messages %}{% set conten'
     "t = message['content'] %}{% if loop.index0 == 0 and system_message is defined %}"
     "{% set content = system_message + '\n"
     '\n'
     "' + message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ '[INST]"
     " ' + content + '[/INST]' }}{% elif message['role'] == 'assistant' %}{{ content +"
     " '</s>' }}{% endif %}{% endfor %}"),
    ('Mistral, a space after the system prompt', '<s>', '</s>',
     "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% if messages[1]['role']"
     " == 'user' %}{{ '[INST] ' + messages[0]['content'] + ' ' + messages[1]['content'"
     "] + ' [/INST]' }}{% set loop_messages = messages[2:] %}{% else %}{{ '[INST] ' + "
     "messages[0]['content'] + ' [/INST]' }}{% set loop_messages = messages[1:] %}{% e"
     'ndif %}{% else %}{% set loop_messages = messages %}{% endif %}{% for message in '
     "loop_messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['conten"
     "t'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'"
     "] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are "
     "supported!') }}{% endif %}{% endfor %}"),
    ('Llama 2', '<s>', '</s>',
     "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{%"
     " set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = "
     'messages %}{% set system_message = false %}{% endif %}{% for message in loop_mes'
     "sages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_e"
     "xception('Conversation roles must alternate user/assistant/user/assistant/...') "
     '}}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content'
     " = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% els"
     "e %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'u"
     "ser' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message"
     "['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif"
     ' %}{% endfor %}'),
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
]
ROLES = {"S": "system", "U": "user", "A": "assistant"}


def refuse(message):
    raise ValueError(message)


def rendered(template, variables):
    """The text, or None if the template refuses the conversation."""
    try:
        return template.render(**variables)
    except ValueError:
        return None


def main():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    out = []
    for name, bos, eos, jinja in TEMPLATES:
        template = environment.from_string(jinja)
        cases = []
        for roles, asked, said, generates in CASES:
            if generates and "add_generation_prompt" not in jinja:
                continue
            messages = [
                {"role": ROLES[r],
                 "content": (said if r == "A" else asked).format(i)}
                for i, r in enumerate(roles)]
            variables = {"messages": messages, "eos_token": eos,
                         "add_generation_prompt": generates}
            if bos:
                variables["bos_token"] = bos
            cases.append({"messages": messages, "generates": generates,
                          "text": rendered(template, variables)})
        out.append({"name": name, "bos": bos, "eos": eos, "jinja": jinja,
                    "cases": cases})
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
