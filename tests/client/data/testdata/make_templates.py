"""Writes templates and what transformers (5.23, Jinja2 3.1.6) makes of them: templates.jsonl, one case a line.

    pip install transformers jinja2 && python make_templates.py

A case is a template, its variables, and the text (with the spans of {% generation %}, in bytes) or "error": true.
"""
import json
import os

from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices

HERE = os.path.dirname(os.path.abspath(__file__))

CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m['content'] + '<|im_end|>\\n' -}}
{%- endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
TURNS = """{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{{ bos_token }}
{%- for message in messages -%}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{ '<start>' + role + '\\n' + message['content'] | trim + '<end>\\n' }}
{%- endfor %}
"""
TOOLS = """{%- macro kind(p) -%}
  {%- if p.type is string %}{{ p.type | upper }}{% else %}{{ p.type | join(' or ') }}{% endif -%}
  {%- if p.properties is defined %}{ {%- for k, v in p.properties.items() %}{{ k }}: {{ kind(v) }}{{ ", " if not loop.last }}{% endfor %} }{% endif -%}
{%- endmacro -%}
{%- for tool in tools -%}
{{ loop.index }}. {{ tool.name }}({{ kind(tool.parameters) }})
{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{{ tool | tojson(separators=(',', ':'), sort_keys=true) }}
{% endfor %}"""
GENERATION = """{% for m in messages %}
{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<e>{% endgeneration %}

{% else %}
{{ m.content }}
{% endif %}
{% endfor %}"""

MESSAGES = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "  a \n"}],
    [{"role": "user", "content": "\u00e9\U0001f600"}, {"role": "assistant", "content": "\n\nyes \t"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user"}],
]
TOOL_LIST = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": ["int", "null"]}, "y": {"type": "object", "properties": {"z": {"type": "string"}}}}},
              "d": "<\u00e9> \"q\" \\ \u2028", "n": [1, 2.0, 1e-7, 1e22, True, None, {}, []]}]
VALUES = {"s": "Hello, W\u00f6rld \u00df", "e": "", "n": 7, "f": 2.5, "l": [3, 1, 2], "d": {"b": 1, "a": "x", "items": "I"}, "t": True, "z": None,
          "rows": [{"k": "b", "v": 2, "in": {"q": 1}}, {"k": "A", "v": 1}, {"k": "b", "v": 3}], "words": ["pear", "Apple", "fig", "apple"]}

WHITE_SPACE = [
    "a\n", "a\n\n", "a\r\nb\rc", "  {% if t %}\n  x\n  {% endif %}\n  y", "  {%+ if t %}\n  x\n  {%+ endif +%}\n  y", "a  {{- s -}}  b", "a \n {{ n }} \n b",
    "{# c #}\nx", "  {# c #}\nx", "x {#- c -#} y", "{%- if t -%} a {%- endif -%} b", "{% raw %}{{ x }} {% endraw %}\n!", "a {%- raw -%}  {% x %}  {%- endraw -%} b",
    "{% for i in l %}\n{{ i }}\n{% endfor %}\n", "{% for i in l -%}\n  {{ i }}\n{%- endfor %}", "\t{% set x = 1 %}\t{{ x }}", "{{ '}}' }}{{ \"%}\" }}", "{ {% if t %}{{ '{' }}{% endif %} }",
    "a\u00a0 {%- if t %}b{% endif %}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ {'a': {}} }}",
]
EXPRESSIONS = [
    "1 + 2 * 3 - 4 / 2", "7 // 2", "-7 // 2", "-7 % 3", "7 % -3", "2 ** 3 ** 2", "-2 ** 2", "1 / 4", "1e3", "1_000", "10 / 3", "0.1 + 0.2", "1e16", "123456789012345678", "5 // 0", "1.0 * 2",
    "n + 1 ~ 'a' ~ 2", "'a' 'b'", "'a' + 1", "'a' * 3", "[1] + [2]", "(1,) + (2,)", "[1] * 2", "'x' in 'axb'", "'x' in d", "'a' in d", "3 in l", "4 not in l", "1 < 2 < 3", "1 < 2 > 5", "'a' < 'b'",
    "not t", "not t or n", "t and s", "e or 'd'", "z", "t", "none is none", "x is defined", "x is not defined", "z is none", "n is number", "s is string", "l is iterable", "d is mapping", "l is sequence",
    "t is boolean", "n is integer", "f is float", "n is odd", "n is divisibleby 7", "n is divisibleby(2)", "n is sameas n", "t is true", "t is false", "n is eq 7", "n is in l", "x", "x.y", "d.x", "d.x.y", "d.b", "d['b']", "d['x']",
    "d.get('b')", "d.get('x')", "d.get('x', 5)", "d.keys() | list", "d.values() | list", "d.items() | list", "d | items | list", "d", "l", "(1, 'a')", "(1,)", "{'a': [1, none, true]}", "[\"it's\", 'q\"', '\\n\\t\\x01']", "\"a'\\\"\"",
    "s[0]", "s[-1]", "s[100]", "s[1:4]", "s[::-1]", "s[::2]", "s[-3:]", "l[0]", "l[-1]", "l[5]", "l[1:]", "l[:-1]", "l[::-1]", "l[5:1]", "rows[0].k", "rows[0]['in'].q", "l.0", "s.upper()", "s.lower()", "s.title()", "s.capitalize()",
    "s | upper", "s | lower", "s | title", "s | capitalize", "'  a b '.strip()", "'xxaxx'.strip('x')", "'xxaxx'.lstrip('x')", "'xxaxx'.rstrip('x')", "' a  b '.split()", "'a,b,,c'.split(',')", "'a,b,c'.split(',', 1)", "'a,b,c'.rsplit(',', 1)", "' a b c '.split(none, 1)",
    "'a'.split('')", "'a\\nb\\r\\nc'.splitlines()", "s.startswith('He')", "s.endswith(('x', '\u00df'))", "s.find('W')", "s.find('zz')", "s.index('zz')", "s.count('l')", "s.replace('l', 'L')", "s.replace('l', 'L', 1)", "'ab'.replace('', '-')", "', '.join(words)", "'-'.join([1])",
    "s | length", "l | length", "n | length", "x | length", "s | count", "l | first", "l | last", "e | first", "l | join", "l | join(', ')", "rows | join('-', attribute='k')", "l | sort", "l | sort(reverse=true)", "words | sort", "words | sort(case_sensitive=true)", "rows | sort(attribute='k') | map(attribute='v') | list",
    "rows | map(attribute='k') | list", "rows | map(attribute='in.q', default=0) | list", "words | map('upper') | list", "words | map('replace', 'p', 'q') | join(' ')", "l | select('odd') | list", "l | reject('gt', 1) | list", "rows | selectattr('k', 'equalto', 'b') | map(attribute='v') | list", "rows | rejectattr('k', '==', 'b') | list", "rows | selectattr('in') | list | length", "rows | selectattr('in', 'defined') | list | length",
    "words | unique | list", "words | unique(case_sensitive=true) | list", "l | sum", "rows | sum(attribute='v')", "l | min", "words | max", "l | reverse | list", "s | reverse", "d | dictsort", "d | dictsort(reverse=true)", "s | list | length", "x | default('d')", "e | default('d')", "e | default('d', true)", "z | default('d')", "z | d('q', true)",
    "'42' | int", "'4.7' | int", "'x' | int", "'x' | int(5)", "4.9 | int", "'1.5' | float", "'x' | float", "-5 | abs", "(-5) | abs", "2.567 | round(2)", "2.5 | round", "2.1 | round(method='ceil') | int", "n | string + 'a'", "'%s is %d' | format('a', 3)", "'%5s|%-5s|%05.1f' % ('a', 'b', 2.25)", "'{} {} {k}'.format(1, 2, k=3)", "'{1}{0}'.format(1, 2)", "'to-be (or) not[x]' | title", "'a.b c'.title()", "'{}-{}'.format('a', 'b')",
    "s | trim", "'\\u2003a\\x1f' | trim", "z | trim", "n | trim", "'a\\nb\\n\\nc' | indent", "'a\\nb' | indent(2, true)", "s | tojson", "x | tojson", "d | tojson", "[1.0, 1e100, -0.0] | tojson", "'\u00e9\\u007f\\n' | tojson(ensure_ascii=true)", "'\U0001f600' | tojson(true)", "f | tojson", "rows | tojson(indent=1)", "[] | tojson(indent=1)", "s | safe",
    "'a' if t else 'b'", "'a' if e", "'a' if e else 'b' if t else 'c'", "('a' if e) is defined", "range(3) | list", "range(1, 7, 2) | list", "range(3, 0, -1) | list", "dict(a=1, b=2)", "namespace(a=1).a", "nofunction()", "s.nomethod()", "l.append(1)", "d.update({})", "s | nofilter", "n is notest", "1 +", "(1", "'abc", "a b", "{{", "true and", "n.real.x.y", "z.x", "z['x']", "'a' > 1", "[] < {}", "+n", "-s", "n is lower", "s is upper", "'ABC' is upper",
    "'\\u00e9\\x41\\101\\q\\'\"' ", "d.a is string and d.a | length == 1", "not d.nope", "d.nope | default({}, true) | length", "loop", "caller", 
    "(l | select('gt', 9)) is sequence", "(l | select) is iterable", "(l | map('string')) | length", "l | map('string') | last", "l | reverse | last", "l | reverse | length", "(l | map('string')) | reverse | list", "(l | map('string')) + [1]", "[1] + (l | map('string'))", "(l | map('string')) == (l | map('string'))", "3 in (l | select)", "l | select | tojson", "l | map('string') | first", "(l | map('string'))[0]", "(l | map('string'))[0:1]", "l | unique | sum", "'a' if l | reverse", "{'a': 1}.items()", "{'a': 1}.keys()", "{}.values()", "rows[1].items()", "rows[1].items() | tojson", "rows[1].items() | length", "rows[1].items()[0]",
    "rows[1].keys() is sequence", "rows[1].keys() is iterable", "rows[1].items() | last", "rows[1].keys() | first", "rows[1].items() | reverse | list", "rows[1].keys() == {'v': 1, 'k': 2}.keys()", "rows[1].values() == rows[1].values()", "rows[1].items() + []", "rows[1].keys() | sort", "rows[1].keys() | join(',')", "rows[1] | items | length", "rows[1].keys() == ['k', 'v']", "{d.keys(): 1}", "'k' in rows[1].keys()", "3 | round", "3 | round(1)", "3.5 | round", "2.675 | round(2)", "0.285 | round(2)", "1250 | round(-2)", "1350 | round(-2)", "-1250 | round(-2)", "1250.0 | round(-2)", "7 | round(2, 'ceil')",
    "2.675 | round(2, 'floor')", "true | round", "1e300 | round(20)", "2.5 | round(400)", "2.5 | round(1, 'up')", "-2.5 | round", "'ff' | int(0, 16)", "'0xff' | int(0, 16)", "'0b11' | int(base=2)", "'0o17' | int(0, 8)", "'zz' | int(5, 16)", "' 12 ' | int", "'1_000' | int", "'1__0' | int", "'_1' | int(3)", "'0x1f' | int", "'0x1f' | float", "'0X1F' | int(base=0)", "'010' | int(base=0)", "'010' | int", "'4.7' | int(0, 16)", "'z' | int(1, 36)", "255 | int(base=16)", "'-ff' | int(0, 16)", "'- 1' | int",
    "'+5' | int", "'+-5' | int", "'x' | int(0, 1)", "'1' | int(9, 99)", "'inf' | int(3)", "'1e2' | int", "'0b' | int(4, 2)", "'00' | int(4, 0)", "s.find('o', 5)", "s.find('l', 0, 3)", "s.find('l', -3)", "s.rfind('l', 0, 4)", "s.index('l', 4)", "s.index('l', 4, 9)", "s.startswith('W', 7)", "s.startswith('\u00f6', 8, 9)", "s.endswith('W', 0, 8)", "s.endswith(('x', 'H'), 0, 1)", "s.find('', 20)", "s.find('', 14)", "s.startswith('', 14)", "s.startswith('', 15)", "s.endswith('', 99)", "s.count('l', 3)",
    "s.count('l', 0, 3)", "s.count('', 3)", "s.count('', 15)", "s.find('l', none, 4)", "s.rfind('', 0, 4)", "s.find('', 5, 2)", "s.startswith('He', -99)", "s.find('l', 'x')", "'42'.zfill(5)", "'-42'.zfill(5)", "'+4'.zfill(4)", "'\u00f6'.zfill(3)", "''.zfill(2)", "'12345'.zfill(2)", "'--1'.zfill(5)", "'a'.zfill(-1)", "'a'.zfill()",
    "s ~ z ~ x ~ t ~ f ~ l", "[1, [2, 'x']] == [1.0, [2, 'x']]", "(1,) == [1]", "1 == true", "x == y", "'isdigit'.isdigit()", "'12'.isdigit()", "'ab'.isalpha()", "' '.isspace()", "'a b'.partition(' ')", "'ab'.removeprefix('a')", "'%' % ()", "'a%%' % ()", "5 % 0",
]
STATEMENTS = [
    "{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace(a=[]) %}{% for i in l %}{% set ns.a = ns.a + [i * 2] %}{% endfor %}{{ ns.a }}",
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in l if i > 1 %}{{ loop.index }}:{{ i }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }} {% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in s %}{{ c }}.{% endfor %}", "{% for i in x %}a{% endfor %}", "{% for i in z %}a{% endfor %}", "{% for i in n %}a{% endfor %}", "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}", "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}", "{% for a in l %}{% for b in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% if e %}a{% elif n > 5 %}b{% else %}c{% endif %}", "{% if l and not e %}y{% endif %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = l %}", "{% set c %}x{{ n }}{% endset %}{{ c }}{{ c | length }}", "{% set c | upper | trim %} x{{ n }} {% endset %}[{{ c }}]", "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}banana{% endfilter %}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(c=2) }}", "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}in{{ n }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a + b }}{% endcall %}",
    "{% macro m() %}{{ q }}{% endmacro %}{% set q = 5 %}{{ m() }}", "{% with a = 1, b = n %}{{ a + b }}{% endwith %}{{ a }}", "{% set x.y = 1 %}", "{% set d.b = 1 %}", "{% for i in rows recursive %}{{ i.k }}{% if i.c %}{{ loop(i.c) }}{% endif %}{% endfor %}", "{% for i in l: %}{{ i }}{% endfor %}", "{% unknown %}", "{% if t %}", "{% endif %}", "{% for i in l %}{% endif %}", "{% break %}", "{{ raise_exception('no') }}",
    "{% for i in l %}{{ loop.index is odd }}{% endfor %}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}", "{% if x is not defined %}{% set x = 'D' %}{% endif %}{{ x }}", "{% for m in rows[::-1] %}{{ m.k }}{% endfor %}", "{% macro a() %}A{% endmacro %}{% macro b() %}{{ a() }}B{% endmacro %}{{ b() }}", "{% set ns = namespace(_a=1) %}", "{{- n -}} {%- set y = n -%} {{- y }}", "{% generation %}a{{ n }}{% endgeneration %}b{% generation %}c{% endgeneration %}",
    "{% if l | select('gt', 9) %}t{% else %}f{% endif %}", "{% if rows | selectattr('q') %}t{% endif %}{% if l | reject %}t{% endif %}{% if [] | map('upper') %}t{% endif %}{% if [] | unique %}t{% endif %}", "{% if {} | items %}t{% endif %}{% if {}.items() %}t{% endif %}{% if d.keys() %}t{% endif %}",
    "{% for k, v in d | items %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}{% for w in words | map('upper') %}{{ loop.length }}{{ w }}{% endfor %}", "{% for i in range(200000) %}{% endfor %}", "{% set x = [1, 2] %}{% for a in x %}{% for b in x %}{{ loop.first and loop.index0 }}{% endfor %}{% endfor %}",
]


def cases():
    for template in WHITE_SPACE + STATEMENTS + ["{{ %s }}" % e for e in EXPRESSIONS]:
        yield template, VALUES
    for messages in MESSAGES:
        for prompt in (True, False):
            for template in (CHATML, TURNS, GENERATION):
                yield template, {"messages": messages, "add_generation_prompt": prompt, "bos_token": "<s>"}
    yield TOOLS, {"tools": TOOL_LIST}


def main():
    with open(os.path.join(HERE, "templates.jsonl"), "w", encoding="ascii") as f:
        for template, variables in cases():
            case = {"template": template, "variables": variables}
            try:
                compiled = _compile_jinja_template(template)
                rest = {k: v for k, v in variables.items() if k not in ("messages", "tools", "add_generation_prompt")}
                text, spans = _render_with_assistant_indices(compiled, variables.get("messages", []), variables.get("tools"), None,
                                                             variables.get("add_generation_prompt", False), **rest)
                case["text"] = text
                case["spans"] = [[len(text[:i].encode()) for i in span] for span in spans]
            except Exception as error:
                case["error"] = str(error)
            f.write(json.dumps(case) + "\n")


if __name__ == "__main__":
    main()
