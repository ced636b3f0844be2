"""A chat template in Ollama's language: found by rendering, used only if it reproduces every dialogue."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gpu.gguf.modelfile import NotExpressible, Render, Turns, find_turns, go_template, modelfile

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + CHATML
)
LLAMA_3 = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|header|>' + message.role + '<|/header|>\n\n' + message.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ '<|user|>\n' + message.content + '</s>\n' }}"
    "{% elif message.role == 'system' %}{{ '<|system|>\n' + message.content + '</s>\n' }}"
    "{% else %}{{ '<|assistant|>\n' + message.content + '</s>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
MISTRAL = (
    "{{ '<s>' }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '[INST] ' + message.content + '[/INST]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content + '</s>' }}{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
SYSTEM_IN_USER = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}"
    "{% if message.role == 'user' %}{{ '<u>' + (s if loop.first else '') + message.content + '</u>' }}"
    "{% else %}{{ '<m>' + message.content + '</m>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<m>' }}{% endif %}"
)


def renderer(template: str) -> Render:
    """Render as transformers does, without it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(what: str) -> None:
        raise ValueError(what)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(template)

    def render(messages: Sequence[tuple[str, str]], answer: bool) -> str:
        return compiled.render(
            messages=[{"role": role, "content": text} for role, text in messages], add_generation_prompt=answer
        )

    return render


@pytest.mark.parametrize("template", [CHATML, WITH_DEFAULT, LLAMA_3, ZEPHYR, NO_SYSTEM, MISTRAL])
def test_turns_render_what_the_chat_template_renders(template: str) -> None:
    render = renderer(template)
    turns = find_turns(render, bos="<|begin|>")
    dialogues = [
        [("user", "Hi?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    ]
    if "system" in turns.before:
        dialogues.append([("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")])
    for dialogue in dialogues:
        assert turns.render(dialogue) == render(dialogue, True)


def test_a_default_system_message_is_kept() -> None:
    assert find_turns(renderer(WITH_DEFAULT)).default_system == "<|im_start|>system\nYou help.<|im_end|>\n"
    assert "You help." in go_template(find_turns(renderer(WITH_DEFAULT)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (SYSTEM_IN_USER, "into the user's"),
        ("{{ messages | length }}" + CHATML, "by other rules|differently"),
        ("{{ messages[0].content }}" + CHATML, "twice"),
        ("{{ raise_exception('never') }}", "refuses"),
        (CHATML + "{{ strftime_now('%Y') }}", "date"),
    ],
)
def test_a_template_with_other_rules_is_not_expressed(template: str, reason: str) -> None:
    with pytest.raises(NotExpressible, match=reason):
        find_turns(renderer(template), template)


def test_literals_cannot_end_the_template() -> None:
    text = '}}"""{{ .System }}\n\\'
    turns = Turns(text, "", {"user": text}, {"user": ""}, "")
    written = modelfile("v001-q8_0.gguf", go_template(turns), ['"</s>'])
    assert written.count('"""') == 2
    assert r"}}\"\"\"{{ .System }}\n\\" in written
    assert 'PARAMETER stop "\\"</s>"' in written


def test_modelfile_names_file_stops_and_system() -> None:
    written = modelfile("v001.gguf", "{{ .Prompt }}", ["<|im_end|>"], "Be brief.")
    assert written.splitlines() == [
        "FROM ./v001.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        'PARAMETER stop "<|im_end|>"',
        'SYSTEM """Be brief."""',
    ]
