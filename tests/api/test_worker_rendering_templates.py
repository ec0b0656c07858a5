"""Models of no known family: their own template, run in a sandbox, gives the skeleton only."""

import re
import resource
import subprocess
from collections.abc import Sequence
from time import perf_counter, thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.wire.worker_api import Message, Role
from onbook.worker.purity import probe_purity
from onbook.worker.rendering import (
    FAMILY_LITERALS,
    MessagesNotRenderableError,
    PlainText,
    TemplateRenderer,
    UnsupportedModelError,
    chat_renderer,
    control_literals,
)
from onbook.worker.rendering.sandbox import written

SPECIAL = {
    "<|role|>": -2,
    "<|said|>": -3,
    "<|end|>": -4,
    "<s>": -5,
    "<think>": -6,
    "</think>": -7,
    "<|im_start|>": -8,
    "<|im_end|>": -9,
    "<|im_sep|>": -10,
}
BY_ID = {token: literal for literal, token in SPECIAL.items()}
_TOKEN = re.compile("|".join(map(re.escape, SPECIAL)) + "|.", re.DOTALL)
TURNS = "{% for m in messages %}<|role|>{{ m.role }}<|said|>{{ m.content }}<|end|>\n{% endfor %}"
PLAIN = TURNS + "<|role|>assistant<|said|>"
S, U, A = Message("system", "S."), Message("user", "U."), Message("assistant", "A.")


def _eager(text: str) -> list[int]:
    return [SPECIAL.get(part, ord(part[0])) for part in _TOKEN.findall(text)]


TEXT = PlainText(_eager, SPECIAL, eos=SPECIAL["<|end|>"])


def _decoded(ids: Sequence[int]) -> str:
    return "".join(BY_ID[token] if token < 0 else chr(token) for token in ids)


def test_a_template_that_adds_nothing_is_rendered_by_its_skeleton() -> None:
    chat = chat_renderer(TEXT, PLAIN)
    assert chat.name == "template"
    assert _decoded(chat.render([S, U])) == (
        "<|role|>system<|said|>S.<|end|>\n<|role|>user<|said|>U.<|end|>\n<|role|>assistant<|said|>"
    )
    report = probe_purity(chat, TEXT, PLAIN)
    assert (report.passed, report.failures, report.notes) == (True, [], [])
    assert report.rendering == "template"


def test_the_first_token_comes_once_whether_the_template_writes_it_or_not() -> None:
    text = PlainText(_eager, SPECIAL, bos=SPECIAL["<s>"], eos=SPECIAL["<|end|>"])
    for template in (PLAIN, "{{ bos_token }}" + PLAIN):
        assert _decoded(chat_renderer(text, template).render([U])).count("<s>") == 1
    assert "<s>" not in _decoded(chat_renderer(TEXT, "{{ bos_token }}" + PLAIN).render([U]))


ROLES: tuple[Role, ...] = ("system", "user", "assistant")
contents = st.lists(
    st.one_of(st.sampled_from([*SPECIAL, "<|", "|>", "{{ 7 * 7 }}", "{% raw %}"]), st.text())
).map("".join)
CHAT = TemplateRenderer(TEXT, PLAIN)


@settings(max_examples=40, deadline=None)  # a new sequence of roles starts a process
@given(st.lists(st.tuples(st.sampled_from(ROLES), contents), min_size=1, max_size=3))
def test_any_content_comes_back_whole_and_brings_no_control_token(
    turns: list[tuple[Role, str]],
) -> None:
    ids = CHAT.render([Message(role, content) for role, content in turns])
    expected = "".join(f"<|role|>{role}<|said|>{text}<|end|>\n" for role, text in turns)
    assert _decoded(ids) == expected + "<|role|>assistant<|said|>"
    controls = [token for token in ids if token < 0]
    assert controls == [-2, -3, -4] * len(turns) + [-2, -3]


ADDING = {
    "a default system text": (
        "{% if messages[0].role != 'system' %}<|role|>system<|said|>Be good.<|end|>{% endif %}"
        + PLAIN,
        "adds text of its own (2 words) (user only)",
    ),
    "a reminder": (PLAIN + "Sure,", "adds text of its own (1 word) (user only)"),
    "a date": ("{{ strftime_now('%Y') }}" + PLAIN, "adds text of its own"),
    "a look at the clock": ("{% set day = strftime_now('%d') %}" + PLAIN, "asks for the date"),
    "words as marks of turns": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
        "adds text of its own",
    ),
    "no marks of turns": (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n{% endfor %}",
        "does not set the turns off",
    ),
    "one mark for all turns": (
        "<|role|>{% for m in messages %}{{ m.content }}\n{% endfor %}<|end|>",
        "does not set the turns off",
    ),
    "an end that nothing marks": (
        "{% for m in messages %}<|role|>{{ m.content }}\n{% endfor %}",
        "does not set the turns off with control tokens (user only)",
    ),
    "only the last turn": (
        "<|role|>{{ messages[-1].content }}<|end|>", "leaves a content out (system and user)"
    ),
    "turns backwards": (
        "{% for m in messages | reverse %}<|role|>{{ m.content }}<|end|>{% endfor %}",
        "changes their order (system and user)",
    ),
    "turns twice": (
        "{% for m in messages %}<|role|>{{ m.content }}<|said|>{{ m.content }}<|end|>{% endfor %}",
        "repeats contents",
    ),
    "changed contents": (PLAIN.replace("m.content", "m.content | upper"), "adds text of its own"),
    "cut contents": (PLAIN.replace("m.content", "m.content[:4]"), "adds text of its own"),
    "no system turn": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN,
        "refuses these turns or fails on them (system and user)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ADDING))
def test_a_template_that_adds_or_drops_anything_is_refused_and_says_what(kind: str) -> None:
    template, says = ADDING[kind]
    with pytest.raises(UnsupportedModelError) as caught:
        chat_renderer(TEXT, template)
    sentence = str(caught.value)
    assert says in sentence
    assert sentence.endswith("cannot be run purely.")
    assert "\n" not in sentence


HOSTILE = {
    "not a template": "{% for %}",
    "an endless loop": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + PLAIN
    ),
    "a huge range": "{% for a in range(10 ** 12) %}{% endfor %}" + PLAIN,
    "a huge number": "{{ 9 ** (9 ** 9) }}" + PLAIN,
    "a huge text": "{{ 'a' * 10 ** 10 }}" + PLAIN,
    "a text that doubles": (
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set n.t = n.t + n.t %}"
        "{% endfor %}" + PLAIN
    ),
    "wide padding": "{{ 'a'.center(10 ** 10) }}{{ '%10000000000d' % 1 }}" + PLAIN,
    "long output": "{% for a in range(90000) %}{{ '<|end|>' * 20 }}{% endfor %}" + PLAIN,
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}" + PLAIN,
    "attributes by a filter": "{{ (messages | attr('__class__')).mro() }}" + PLAIN,
    "globals": "{{ raise_exception.__globals__['sys'].exit(0) }}" + PLAIN,
    "globals of a builtin": "{{ cycler.__init__.__globals__.os.system('true') }}" + PLAIN,
    "an import": "{% import 'os' as os %}" + PLAIN,
    "an include": "{% include '/etc/passwd' %}" + PLAIN,
    "format strings": "{{ '{0.__class__.__mro__}'.format(messages) }}" + PLAIN,
    "a change of the messages": "{% set _ = messages.append(messages[0]) %}" + PLAIN,
    "ten megabytes": PLAIN + "{# " + "x" * 10_000_000 + " #}",
    "deep nesting": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}" + PLAIN,
    "chance": "{{ ['<s>', '<|end|>'] | random }}" + PLAIN,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_a_hostile_template_is_bounded_and_refused(kind: str) -> None:
    started = perf_counter()
    with pytest.raises(UnsupportedModelError) as caught:
        chat_renderer(TEXT, HOSTILE[kind])
    assert len(str(caught.value)) < 200
    # Its limit is two seconds of one core; the machine may be busy.
    assert perf_counter() - started < 29


@pytest.mark.parametrize(
    "inside", ["''.__class__", "messages.__class__", "raise_exception.__globals__"]
)
def test_what_python_is_made_of_is_not_there_for_a_template(inside: str) -> None:
    # It would write, and be refused, if it saw anything.
    peeking = f"{{% if {inside} is defined %}}escaped{{% endif %}}" + PLAIN
    assert chat_renderer(TEXT, peeking).name == "template"


def test_a_template_can_change_no_list_not_even_its_own() -> None:
    with pytest.raises(UnsupportedModelError):
        chat_renderer(TEXT, "{% set _ = [].append(1) %}" + PLAIN)


def test_a_template_cannot_take_the_machines_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    (result,) = written(HOSTILE["a huge text"], "", "", (("user",),))
    assert (result.text, result.failure) == (None, "refused")
    # In KiB; the limit is 512 MiB of addresses.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 600 * 1024)


def test_a_hostile_template_of_a_known_family_does_not_hinder_its_renderer() -> None:
    chat = chat_renderer(TEXT, "<|im_start|>" + HOSTILE["an endless loop"])
    assert chat.name == "chatml"
    report = probe_purity(chat, TEXT, "<|im_start|>" + HOSTILE["a huge text"])
    assert report.passed
    assert all("does not come to an end" in note or "fails" in note for note in report.notes)


def test_the_sandbox_is_given_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONBOOK_WORKER_KEY", "secret")
    seen: list[object] = []
    original = subprocess.run

    def run(*args: object, **options: object) -> object:
        seen.append(options["env"])
        return original(*args, **options)  # type: ignore[call-overload]  # passed through as it is

    monkeypatch.setattr(subprocess, "run", run)
    assert written("{{ messages | length }}", "", "", (("user",),))[0].text == "1"
    assert seen == [{}]


def test_a_sequence_of_roles_that_the_template_refuses_is_the_callers_error() -> None:
    template = (
        "{% for m in messages %}{% if loop.length > 4 and loop.first and m.role == 'assistant' %}"
        "{{ raise_exception('no') }}{% endif %}{% endfor %}" + PLAIN
    )
    chat = chat_renderer(TEXT, template)
    assert len(chat.render([U, A] * 30 + [U])) > 60
    with pytest.raises(MessagesNotRenderableError) as caught:
        chat.render([A, U, A, U, A])
    assert "A." not in str(caught.value)


def test_a_template_runs_once_per_sequence_of_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = TemplateRenderer(TEXT, PLAIN)
    original, runs = subprocess.run, 0

    def run(*args: object, **options: object) -> object:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise subprocess.TimeoutExpired("a busy machine", 1)
        return original(*args, **options)  # type: ignore[call-overload]  # passed through as it is

    monkeypatch.setattr(subprocess, "run", run)
    # Conversations that grow turn by turn are ready from the start.
    for pairs in range(12):
        chat.render([S, *[U, A] * pairs, U])
    assert runs == 0
    # A run that the machine was too busy for says nothing about the template.
    with pytest.raises(MessagesNotRenderableError, match="come to an end"):
        chat.render([A, A, S])
    for _ in range(3):
        assert _decoded(chat.render([A, A, S])).count("<|role|>") == 4
    assert runs == 2


def test_a_format_that_only_looks_like_a_familys_keeps_its_own_tokens() -> None:
    own = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>"
    chat = chat_renderer(TEXT, own + "{% endfor %}<|im_start|>assistant<|im_sep|>")
    assert chat.name == "template"
    assert _decoded(chat.render([U])) == (
        "<|im_start|>user<|im_sep|>U.<|im_end|><|im_start|>assistant<|im_sep|>"
    )
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n<think>\n' }}"
    )
    assert _decoded(chat_renderer(TEXT, thinking).render([U])).endswith("assistant\n<think>\n")
    same = thinking.replace("<think>\n", "")
    assert chat_renderer(TEXT, same).name == "chatml"


def test_a_template_that_ends_its_turns_with_an_unknown_token_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="ends a text"):
        chat_renderer(PlainText(_eager, SPECIAL), PLAIN + "{{ eos_token }}")


def test_a_model_with_neither_template_nor_known_tokens_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        chat_renderer(PlainText(_eager, {"<|im_start|>": -8}), None)


def test_candidates_for_control_tokens_are_the_families_and_the_templates() -> None:
    found = control_literals(
        "{{ '<|User|>' }}{{ '<\uff5cAssistant\uff5c>' }}[gMASK]<sop>{% if a < b %}"
    )
    assert {"<|User|>", "<\uff5cAssistant\uff5c>", "[gMASK]", "<sop>"} <= found
    assert control_literals(None) == FAMILY_LITERALS
    assert {"<|im_start|>", "<|eot_id|>", "<end_of_turn>", "[/INST]"} <= FAMILY_LITERALS


@pytest.mark.parametrize("unit", ["<", "[", "<|", "<a", "[A", "<" + "a" * 64])
def test_looking_for_candidates_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        started = thread_time()
        control_literals(text)
        return thread_time() - started

    seconds(10_000)
    assert min(seconds(400_000) for _ in range(3)) < 60 * max(0.005, seconds(20_000))
