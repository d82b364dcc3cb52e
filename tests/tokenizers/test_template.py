"""Templates that mean harm, or go wrong. Whether a bound holds shows by the test's coming to an end."""

import pytest

from foretell.base.errors import ModelError, RequestError
from foretell.tokenizers.template import write

MESSAGES = [{"role": "user", "content": "Hello"}]
DOUBLE = "{{% set it = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set it.x = {step} %}}{{% endfor %}}{use}"

ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "empty loops": "{% set many = range(1000) %}" + "{% for a in many %}" * 6 + "{% endfor %}" * 6,
    "a filtered loop": "{% set m = range(50000) %}{% for a in m %}{% for b in m if false %}{% endfor %}{% endfor %}",
    "a range": "{{ range(10000000000) | list }}",
    "a loop of much text": "{% set x %}{% for a in range(99999) %}" + "x" * 60000 + "{% endfor %}{% endset %}",
    "doubled by +": DOUBLE.format(start="'x'", step="it.x + it.x", use=""),
    "doubled by ~": DOUBLE.format(start="'x'", step="it.x ~ it.x", use=""),
    "doubled by join": DOUBLE.format(start="'x'", step="[it.x, it.x] | join", use=""),
    "doubled by output": "{% set it = namespace(x='x') %}{% for i in range(60) %}{% set y %}{{ it.x }}{{ it.x }}{% endset %}"
    "{% set it.x = y %}{% endfor %}",
    "lists of lists written": DOUBLE.format(start="['x']", step="[it.x, it.x]", use="{{ it.x }}"),
    "lists of lists as JSON": DOUBLE.format(start="['x']", step="[it.x, it.x]", use="{{ it.x | tojson }}"),
    "pairs of pairs as a key": DOUBLE.format(start="('x',)", step="(it.x, it.x)", use="{{ {it.x: 1} }}"),
    "pairs of pairs looked up": DOUBLE.format(start="('x',)", step="(it.x, it.x)", use="{{ {}[it.x] }}"),
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a caller": "{% macro m() %}{% for i in range(999) %}{{ caller() }}{% endfor %}{% endmacro %}{% call m() %}"
    + "x" * 9999
    + "{% endcall %}",
    "replace": "{% set x = '" + "x" * 30000 + "' %}{{ x.replace('x', x) }}",
    "replace while compiling": "{{ '" + "x" * 30000 + "' | replace('x', '" + "x" * 30000 + "') }}",
    "indentation": "{{ [[1]] | tojson(indent=1000000000) }}",
    "filters": "{{ range(90000) | map('string') | list }}" * 100,
    "our own filters": "{% for i in range(999) %}{{ ['x'] | map('repeated', -1000000) | list }}{% endfor %}",
}
FORBIDDEN = {
    "{{ 'x' * 10**8 }}": "for numbers only",
    "{{ 'x' * 8 }}": "for numbers only",
    "{{ '%1000000000d' % 1 }}": "for numbers only",
    "{{ '%1000000000d' is odd }}": "invalid literal",
    "{{ '%1000000000d' is divisibleby(3) }}": "No test named",
    "{{ '%1000000000d' | format(1) }}": "No filter named",
    "{{ '{:1000000000}'.format(1) }}": "unsafe",
    "{{ 'x'.center(1000000000) }}": "unsafe",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe",
    "{{ strftime_now('%1000000000d') }}": "width",
    "{% set x = 9223372036854775807 %}{{ x * x * x }}": "63 bits",
    "{% set n = namespace() %}{% set n.__call__ = dict %}": "begins with _",
    "{% set n = namespace({'__call__': dict}) %}": "begins with _",
    "{% for i in [[1]] recursive %}{{ loop(i) }}{% endfor %}": "recursive loop",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}": "recursion",
    "{% include 'x' %}": "no loader",
    "{% for %}": "Expected an expression",
    "{{ messages[0].content + 1 }}": "chat template failed",
    "x" * 100001: "100001 characters",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_what_would_not_end_is_stopped(template: str) -> None:
    with pytest.raises(ModelError, match="more steps"):
        write(template, MESSAGES, "here")


@pytest.mark.parametrize(("template", "what"), FORBIDDEN.items(), ids=map(str, range(len(FORBIDDEN))))
def test_what_is_forbidden_is_told(template: str, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        write(template, MESSAGES, "here")


def test_long_conversations_have_their_steps() -> None:
    messages = [{"role": "user", "content": "word " * 2000}] * 300
    template = (
        "{% for message in messages[::-1] %}{% if message.content is string and '</think>' in message.content %}x{% endif %}"
        "{% endfor %}"
        "{% for message in messages %}{% set parts = message.content.split('</think>') %}"
        "{{ '<' + message.role + '>' + (parts | last | trim).lstrip('\n') ~ '</s>' }}{% endfor %}"
    )
    assert len(write(template, messages, "here")) == 300 * (10000 - 1 + 10)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n  {% if loop.last %}\n{{ m.content }}\n{% endif %}{% endfor %}", "Hello\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "013"),
        ("{% generation %}{{ messages[0]['content'] }}{% endgeneration %}", "Hello"),
        ("{{ {'ä': '<'} | tojson }}", '{"ä": "<"}'),
        ("{% set it = namespace(n=1) %}{% for m in messages %}{% set it.n = it.n + 1 %}{% endfor %}{{ it.n }}", "2"),
        ("{% for m in messages | selectattr('role', 'equalto', 'user') | map(attribute='content') %}{{ m }}{% endfor %}", "Hello"),
        ("{{ strftime_now('%%') }}{{ tools is none }}{{ unknown }}{{ messages | length }}", "%True1"),
        ("{% macro say(x) %}{{ x | upper }}{% endmacro %}{{ say(bos_token ~ messages[-1].content[1:3]) }}", "<S>EL"),
        ("{{ 7 // 2 * 3 % 4 }}{{ 3 is odd }}{{ dict(a=1).items() | list }}", "1True[('a', 1)]"),
    ],
)
def test_what_templates_use_works(template: str, text: str) -> None:
    assert write(template, MESSAGES, "here", bos_token="<s>") == text  # noqa: S106


def test_a_refusal_is_the_requests_fault() -> None:
    with pytest.raises(RequestError, match="refuses this conversation: no system prompts, please") as caught:
        write("{{ raise_exception('no system prompts, please') }}", MESSAGES, "line 7")
    assert caught.value.where == "line 7"
