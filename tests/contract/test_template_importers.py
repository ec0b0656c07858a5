"""Prompts of other tools become templates, or are refused by name; nothing is silently lost."""

import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.files.template_toml import to_toml
from onbook.adapters.template_files import Format, detect_format, read_templates
from onbook.adapters.template_formats import dotprompt, langfuse, openai_prompt
from onbook.adapters.template_formats.source import ImportDefaults, ImportedTemplate
from onbook.domain.templates import (
    Example,
    Template,
    TemplateInvalid,
    TemplateSampling,
    Variable,
    checked,
)

SAMPLES = Path(__file__).parent / "imports"
DEFAULTS = ImportDefaults(
    model_type="qwen_instruct",
    use_case="enhancement",
    target="sdxl",
    token_limit=75,
    token_unit="clip",
    max_tokens=500,
)
NO_CARRIER = "No variable carries the user's text; it is a message of its own."


def _sample(name: str, defaults: ImportDefaults = DEFAULTS) -> list[ImportedTemplate]:
    return read_templates((SAMPLES / name).read_bytes(), file=name, format_=None, defaults=defaults)


def _template(**values: object) -> Template:
    template = Template(
        template_name="t",
        version=1,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt="",
        token_limit=75,
        token_unit="clip",
        max_tokens=500,
    )
    return checked(replace(template, **values))  # type: ignore[arg-type]  # fields of every type


def _langfuse(prompt: object, defaults: ImportDefaults = DEFAULTS, **more: object) -> Template:
    return _langfuse_read(prompt, defaults, **more).template


def _langfuse_read(
    prompt: object, defaults: ImportDefaults = DEFAULTS, **more: object
) -> ImportedTemplate:
    data = json.dumps({"name": "t", "prompt": prompt, **more}).encode()
    return langfuse.parse(data, file="t.json", defaults=defaults)


def _chat(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _refused(name: str, text: str | bytes, defaults: ImportDefaults = DEFAULTS) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(TemplateInvalid) as caught:
        read_templates(data, file=name, format_=None, defaults=defaults)
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message
    assert (caught.value.details or {})["file"] == name
    return caught.value.message


def test_a_langfuse_chat_prompt() -> None:
    assert _sample("langfuse_chat.json") == [
        ImportedTemplate(
            _template(
                template_name="images_tag_writer",
                system_prompt=(
                    "You turn a short idea into tags for {{reader}}.\n"
                    "Answer in {{language}} with the tags only."
                ),
                max_tokens=180,
                sampling=TemplateSampling(temperature=0.4, top_p=0.95, stop=("\n\n",)),
                examples=(Example("a red hat on snow", "red hat, fresh snow, morning light"),),
                examples_sent=1,
                variables=(Variable("reader", required=True), Variable("language", required=True)),
            ),
            (
                "The prompt's name is not one for a template; it is called images_tag_writer here.",
                (
                    "Not carried over: id, createdAt, updatedAt, projectId, createdBy, version, "
                    "isActive, labels, tags, commitMessage, prompt[3] (a placeholder), "
                    "config.model, config.supported_languages."
                ),
            ),
        )
    ]


def test_a_langfuse_text_prompt() -> None:
    assert _sample("langfuse_text.json") == [
        ImportedTemplate(
            _template(
                template_name="movie-critic",
                system_prompt=(
                    "As a {{criticLevel}} critic of pictures, "
                    "say in one sentence what a picture lacks."
                ),
                sampling=TemplateSampling(temperature=0.5),
                variables=(Variable("criticLevel", required=True),),
            ),
            ("Not carried over: version, labels, config.model_parameters.seed.", NO_CARRIER),
        )
    ]


def test_a_langfuse_list_gives_one_template_per_name() -> None:
    captions, titles = _sample("langfuse_list.json")
    assert captions.template == _template(
        template_name="captions", system_prompt="Write a caption."
    )
    assert captions.warnings == (
        "Not carried over: version, labels.",
        "Version 1 of the same prompt is not carried over.",
        "Version 3 of the same prompt is not carried over.",
        NO_CARRIER,
    )
    assert titles.template.system_prompt == "Write a title."
    assert titles.template.sampling.temperature == 0.2


def test_langfuse_lines_of_json_give_one_template_each() -> None:
    names = [item.template.template_name for item in _sample("langfuse_lines.jsonl")]
    assert names == ["one", "two"]


def test_a_dotprompt_file() -> None:
    assert _sample("scene.formal.prompt") == [
        ImportedTemplate(
            _template(
                template_name="scene.formal",
                description="Describes a scene for a video model.",
                system_prompt=(
                    "You describe one scene at {{location}} in {{shots}} shots.\n"
                    "Its mood is {{mood}}{{style}}."
                ),
                max_tokens=300,
                sampling=TemplateSampling(temperature=0.9, top_p=0.8, top_k=20, stop=("END",)),
                examples=(Example("a boat", "A small boat drifts past the pier."),),
                examples_sent=1,
                variables=(
                    Variable("location", default="a harbour"),
                    Variable("style"),
                    Variable("shots", "integer", default=2),
                    Variable("mood", required=True),
                ),
            ),
            (
                "1 comment(s) in the text are not carried over.",
                (
                    "Not carried over: model, output, config.version, input.schema.props, "
                    "input.schema (the descriptions)."
                ),
                "The choices of {{mood}} are not carried over; it is any text.",
            ),
        )
    ]


def test_a_dotprompt_file_without_roles_is_a_user_message() -> None:
    assert _sample("plain.prompt") == [
        ImportedTemplate(
            _template(
                template_name="plain",
                system_prompt="Write one line of tags for a picture.\n\nAnswer in English.",
            ),
            (
                "The 5 characters around {{prompt}} on its line are not carried over.",
                "The lines around {{prompt}} were moved to the end of the system text.",
            ),
        )
    ]


def test_an_openai_prompt() -> None:
    assert _sample("openai_prompt.json") == [
        ImportedTemplate(
            _template(
                template_name="Tag_writer",
                system_prompt="You write tags for {{reader}}.\n\nUse {{count}} tags at most.",
                max_tokens=220,
                sampling=TemplateSampling(temperature=0.6, top_p=1.0),
                variables=(Variable("reader", default="SDXL"), Variable("count", required=True)),
            ),
            (
                "The prompt's name is not one for a template; it is called Tag_writer here.",
                "Not carried over: id, object, version, created_at, model, text, store.",
                "The 5 characters around {{idea}} on its line are not carried over.",
                "The default of {{idea}} is not carried over.",
            ),
        )
    ]


def test_an_openai_request_with_its_text() -> None:
    (read,) = _sample("openai_request.json")
    assert read.template == _template(
        template_name="pmpt_abc123",
        system_prompt="Greet {{customer_name}} in one line.",
        max_tokens=100,
        variables=(Variable("customer_name", default="Jane Doe"),),
    )
    assert read.warnings == ("Not carried over: model, prompt.id, prompt.version.",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("greeting.prompt", "line 11: holds {{#if}}, which is logic; a template has none."),
        ("openai_reference.json", "holds no text of a prompt, at most a reference to it"),
        ("langfuse_names_only.json", "lists prompts without their texts; fetch each one"),
    ],
)
def test_a_sample_that_cannot_be_a_template(name: str, message: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        _sample(name)
    assert message in caught.value.message
    assert caught.value.message.startswith(name)


BASE = replace(DEFAULTS, model_type="qwen_base", completion=True)


def test_a_base_model_keeps_the_text_around_the_users() -> None:
    text = "Tags for {{reader}}.\n\nIdea: {{idea}}\nTags:"
    read = _langfuse_read(text, replace(BASE, user_variable="idea"))
    assert read.template == _template(
        model_type="qwen_base",
        system_prompt="Tags for {{reader}}.\n\n",
        user_format="Idea: {{prompt}}\nTags:",
        variables=(Variable("reader", required=True),),
    )
    assert read.warnings == ()
    chat = _chat(("system", "Write tags."), ("user", "Now:\nIdea: {{idea}}\nTags:"))
    moved = _langfuse_read(chat, replace(BASE, user_variable="idea"))
    assert moved.template.system_prompt == "Write tags.\n\nNow:\n"
    assert moved.template.user_format == "Idea: {{prompt}}\nTags:"
    assert moved.warnings == (
        "The lines before {{idea}} were moved to the end of the system text.",
    )


def test_the_users_variable_can_be_named_and_is_no_variable_of_the_template() -> None:
    chat = _chat(("system", "Tags in {{tone}}."), ("user", "In short:\n{{idea}}"))
    read = _langfuse_read(chat, replace(DEFAULTS, user_variable="idea"))
    assert read.template.system_prompt == "Tags in {{tone}}.\n\nIn short:"
    assert [item.name for item in read.template.variables] == ["tone"]
    assert read.warnings == ("The lines around {{idea}} were moved to the end of the system text.",)


def test_roles_by_other_names_and_parts_of_text() -> None:
    parts = [{"type": "text", "text": "Two"}, {"type": "text", "text": "lines."}]
    prompt = [
        {"role": "developer", "content": parts, "name": "x"},
        {"role": "user", "content": "a"},
        {"role": "model", "content": "b"},
        {"role": "system", "content": "Late."},
    ]
    read = _langfuse_read(prompt)
    assert read.template.system_prompt == "Two\nlines.\n\nLate."
    assert read.template.examples == (Example("a", "b"),)
    assert read.warnings == (
        "A system message after the first other message was moved to the front.",
        "Not carried over: prompt[0].name.",
        NO_CARRIER,
    )


def test_a_fixed_user_message_alone_is_the_system_text() -> None:
    read = _langfuse_read(_chat(("user", "Tell a joke about {{topic}} in {{tone}}.")))
    assert read.template.system_prompt == "Tell a joke about {{topic}} in {{tone}}."
    assert read.warnings == (
        "The user message, which is fixed text, is the system text here.",
        NO_CARRIER,
    )


def test_the_name_can_be_given() -> None:
    assert _langfuse("Write.", replace(DEFAULTS, template_name="mine")).template_name == "mine"
    message = _refused(
        "list.json",
        (SAMPLES / "langfuse_list.json").read_bytes(),
        replace(DEFAULTS, template_name="mine"),
    )
    assert message == "list.json: holds 2 prompts; one name cannot be theirs."


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("{{#if secret}}", "{{#if}}, which is logic"),
        ("{{# each secret}}", "{{# each}}, which is logic"),
        ("{{/if}}", "{{/if}}, which is logic"),
        ("{{^name}}", "{{^name}}, which is logic"),
        ("{{else}}", "{{else}}, which is logic"),
        ("{{> header}}", "{{> header}}, which is a partial"),
        ("{{@auth.email}}", "{{@auth.email}}, which is a value of the context"),
        ("{{media url=secret}}", "{{media}}, which is media"),
        ("{{json secret}}", "{{json}}, which is a helper"),
        ('{{section "code"}}', "{{section}}, which is a helper"),
        ("{{user.name}}", "{{user.name}}, which is a nested path"),
        ("{{user/name}}", "{{user/name}}, which is a nested path"),
        ("{{this}}", "{{this}}, which is not the name of a variable"),
        ("{{user-name}}", "{{user-name}}, which is not the name of a variable"),
        ("{{&name}}", "{{&name}}, which is not the name of a variable"),
        ("{{}}", "{{}}, which is not the name of a variable"),
        ('{{"a": 1}}', "{{}}, which is a helper"),
        ("{{{{raw}}}}", "{{}}, which is not the name of a variable"),
        ("{{~name}}", "a {{~}}, which trims white space"),
        ("\\{{name}}", "an escaped {{"),
        ("{{name", "{{ that is not closed"),
        ("{{!-- a }}", "{{!-- that is not closed"),
    ],
)
def test_what_is_not_a_plain_variable_is_refused_with_its_line(tag: str, kind: str) -> None:
    text = f"One {{{{name}}}}.\n\nTwo {tag} secret."
    front = "---\nconfig:\n  temperature: 0.5\n---\n{{role 'system'}}\n"
    message = _refused("t.prompt", front + text)
    assert message.startswith(f"t.prompt, line 8: holds {kind}")
    data = json.dumps({"name": "t", "prompt": _chat(("system", text))})
    message = _refused("t.json", data)
    assert message.startswith(f"t.json: prompt[0].content, line 3 of the text, holds {kind}")


def test_other_ways_to_write_a_variable_are_taken() -> None:
    text = "A {{ a }} b {{{b}}} c {{c}}.{{! x }}\n{{!-- y }} --}}\nEnd."
    read = _langfuse_read(text)
    assert read.template.system_prompt == "A {{a}} b {{b}} c {{c}}.\nEnd."
    assert "2 comment(s) in the text are not carried over." in read.warnings


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([("system", "S."), ("user", "Fixed.")], "prompt[1].content, line 1 of the text, holds no"),
        (
            [("system", "S."), ("user", "{{a}} {{b}}")],
            "prompt[1].content, line 1 of the text, hold",
        ),
        (
            [("system", "S."), ("user", "Make {{prompt}} red.")],
            "puts text on the line of {{prompt}}",
        ),
        ([("system", "S."), ("user", "x\nMake it {{prompt}}")], "prompt[1].content, line 2 of the"),
        ([("system", "S. {{a}}"), ("user", "{{a}}")], "holds {{a}}, the user's text, as system"),
        ([("user", "{{prompt}}\n{{prompt}}")], "holds {{prompt}}, the user's text, twice"),
        (
            [("user", "{{x}}"), ("assistant", "b"), ("user", "{{a}}")],
            "an example cannot hold a var",
        ),
        ([("user", "a"), ("user", "{{a}}")], "is an example without an assistant's message"),
        ([("assistant", "a"), ("user", "{{a}}")], "prompt[0].content, line 1 of the text, breaks"),
        ([("user", "{{a}}"), ("assistant", "Sure: ")], "an example cannot hold a variable"),
        (
            [("system", "S. {{prompt}}"), ("user", "a"), ("assistant", "b")],
            "holds {{prompt}} where",
        ),
        ([("tool", "x")], "prompt[0].role must be one of"),
        ([], "prompt must be a text or a list of messages"),
        ([("system", "@@@langfusePrompt:name=x|label=production@@@")], "a reference to another"),
        ([("system", "\x00secret")], "system_prompt holds a NUL character"),
    ],
)
def test_a_conversation_that_is_no_template_is_refused(
    messages: list[tuple[str, str]], message: str
) -> None:
    data = json.dumps({"name": "t", "prompt": _chat(*messages)})
    assert message in _refused("t.json", data)


def test_a_wanted_variable_that_is_not_there_is_refused() -> None:
    wanted = replace(DEFAULTS, user_variable="idea")
    for prompt in ("Write.", _chat(("system", "S.")), _chat(("user", "a"), ("assistant", "b"))):
        data = json.dumps({"name": "t", "prompt": prompt})
        assert _refused("t.json", data, wanted) == "t.json: holds no user message with {{idea}}."


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 9}, "sampling.temperature must be from 0.0 to 5.0."),
        ({"temperature": "hot"}, "sampling.temperature must be a number."),
        ({"top_k": 1.5}, "sampling.top_k must be a whole number."),
        ({"stop": [1]}, "sampling.stop must be a list of texts."),
        ({"max_tokens": 0}, "max_tokens must be from 1 to 32768."),
        ("x", "config must be an object."),
    ],
)
def test_a_parameter_that_breaks_a_rule_is_named(config: object, message: str) -> None:
    data = json.dumps({"name": "t", "prompt": "Write.", "config": config})
    assert _refused("t.json", data).endswith(message)


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("a: &x [1]\nb: *x", "t.prompt, line 2: holds an anchor or alias in its front matter."),
        ("a: 1\nb: 2\na: 3", "t.prompt, line 4: gives a key twice in its front matter."),
        ("config:\n  topP 0.8\n  topK: 1", "t.prompt, line 4: has front matter that is not YAML."),
        ("a: !!python/object:os.system x", "t.prompt, line 2: has front matter that is not YAML."),
        ("- a", "t.prompt: has front matter that is not a table of named values."),
        ("config: 7", "t.prompt: config must be a table."),
        ("input:\n  default: [1]", "t.prompt: input.default must be a table."),
        ("input:\n  default: {a: [1]}", "t.prompt: input.default.a must be a text, a number"),
        ("a: " + "[" * 30_000, "t.prompt, line 2: is nested too deeply in its front matter."),
        ("- " * 30_000, "t.prompt, line 2: is nested too deeply in its front matter."),
        ("a: 2026-99-99", "t.prompt: has front matter with a value that is not YAML."),
        ("a: " + "x" * 70_000, "t.prompt: has front matter of more than 65536 characters."),
        ("input:\n  schema: {a: integer}\n  default: {a: x}", "variables.a has a default that is"),
    ],
    ids=range(13),
)
def test_bad_front_matter_is_refused_with_its_line(front: str, message: str) -> None:
    assert message in _refused("t.prompt", f"---\n{front}\n---\nsecret {{{{a}}}} {{{{b}}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "---\na: 1\nWrite.",
            "t.prompt, line 1: opens front matter with --- and does not close it.",
        ),
        ("---\na: 1\n---\n \n", "t.prompt: holds no text."),
        ('{{role "tool"}}\nx', "t.prompt, line 1: holds a {{role}} that a template has not."),
        ("x\n{{history}}", "t.prompt, line 2: holds {{history}}, which is a helper."),
        ("{{role name}}\nx", "t.prompt, line 1: holds {{role}}, which is a helper"),
    ],
)
def test_a_dotprompt_body_that_is_refused(text: str, message: str) -> None:
    assert _refused("t.prompt", text).startswith(message)


def test_a_json_schema_declares_variables_too() -> None:
    text = """---
input:
  schema:
    type: object
    required: [place]
    properties:
      place: {type: string, description: Where.}
      count: {type: integer}
      tags: {type: array}
---
At {{place}}, {{count}} times.
"""
    read = dotprompt.parse(text.encode(), file="dir/t.prompt", defaults=DEFAULTS)
    assert read.template.variables == (
        Variable("place", required=True),
        Variable("count", "integer"),
    )
    assert read.template.template_name == "t"
    assert read.warnings[0] == (
        "Not carried over: input.schema.place (all but its type), input.schema.tags."
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"a": "x"}, Variable("a", default="x")),
        ({"a": {"type": "string", "default": "x"}}, Variable("a", default="x")),
        ([{"name": "a", "value": "x"}], Variable("a", default="x")),
        (["a"], Variable("a", required=True)),
        (None, Variable("a", required=True)),
        ({"a": {"type": "input_image", "file_id": "f"}}, "variables.a is not a text."),
        ({"a": 7}, "variables.a must have a text as its value."),
        ([7], "variables must each have a name."),
        ("a", "variables must be an object or a list."),
    ],
)
def test_variables_of_an_openai_prompt(variables: object, expected: Variable | str) -> None:
    prompt = {"id": "pmpt_1", "instructions": "For {{a}}.", "variables": variables}
    data = json.dumps(prompt)
    if isinstance(expected, str):
        assert _refused("t.json", data).endswith(expected)
    else:
        read = openai_prompt.parse(data.encode(), file="t.json", defaults=DEFAULTS)
        assert read.template.variables == (expected,)


def test_media_is_refused() -> None:
    part = {"type": "input_image", "image_url": "secret"}
    prompt = {"id": "pmpt_1", "messages": [{"role": "user", "content": [part]}]}
    message = _refused("t.json", json.dumps(prompt))
    assert message == "t.json: messages[0].content[0] is media; a template is text only."


@pytest.mark.parametrize("name", ["t.json", "t.prompt", "t.txt"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n{\x00", "line 2: holds a NUL byte."),
        (b"{\xff", "line 1: is not UTF-8."),
        (b"\xef\xbb\xbf{}", "starts with a byte-order mark; save it as UTF-8 without one."),
        (b" " * 10 * 1024 * 1024, "is larger than 1024 KiB."),
    ],
    ids=["nul", "bytes", "bom", "large"],
)
def test_what_is_no_text_is_refused(name: str, data: bytes, message: str) -> None:
    assert _refused(name, data).endswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 100_000, "t.json: is nested too deeply."),
        ('{"a":' * 100_000, "t.json: is nested too deeply."),
        ('{\n"a": secret}', "t.json, line 2: is not JSON at column 6."),
        ('{"name": "a", "name": "b"}', "t.json: gives a key of an object twice."),
        ('{"a": NaN}', "t.json: holds a number that JSON does not have."),
        ("1" * 5_000, "t.json: holds a number that JSON does not have."),
        ('{"a": 1}\n{"a": ', "t.json, line 2: is not a line of JSON."),
        ("[]", "t.json: is JSON, but neither a prompt of Langfuse nor one of OpenAI."),
        ('"secret"', "t.json: is JSON, but neither a prompt of Langfuse nor one of OpenAI."),
        ('[{"name": "a", "prompt": "x"}, 7]', "t.json: [1] is not a prompt."),
        ('[{"prompt": "x"}]', "t.json: [0].name must be a text."),
        ('{"name": "t", "prompt": "a\\ud800"}', "system_prompt holds a NUL character or a lone"),
    ],
    ids=range(12),
)
def test_bad_json_is_refused(data: str, message: str) -> None:
    assert message in _refused("t.json", data)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.toml", "", "toml"),
        ("a.PROMPT", "", "dotprompt"),
        ("a.txt", "---\nmodel: x\n---\n", "dotprompt"),
        ("a", 'version = 2\ntemplate_name = "t"\n', "toml"),
        ("a", '[sampling]\n[x]\ntemplate_name = "t"\n', "toml"),
        ("a", '{"name": "t", "prompt": "x"}', "langfuse"),
        ("a.json", '[{"name": "t", "prompt": []}]', "langfuse"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y"}', "langfuse"),
        ("a.json", '{"id": "pmpt_1", "prompt": []}', "openai"),
        ("a.json", '{"prompt": {"id": "pmpt_1"}}', "openai"),
        ("a.json", '{"data": [{"id": "pmpt_1"}], "object": "list"}', "openai"),
        ("a", '[{"instructions": "x"}]', "openai"),
    ],
)
def test_the_format_is_found_by_name_and_content(name: str, text: str, expected: Format) -> None:
    assert detect_format(text.encode(), name) == expected


def test_an_unknown_format_is_refused() -> None:
    message = _refused("a.txt", "Write secret.")
    assert message == (
        "a.txt: is none of the formats toml, langfuse, dotprompt, openai; name the one it is."
    )


def test_toml_says_everything_itself() -> None:
    template = packaged_templates()[0]
    data = to_toml(template, version=9).encode()
    (read,) = read_templates(data, file="t.toml", format_=None, defaults=None)
    assert read == ImportedTemplate(replace(template, version=9), (), 9)
    with pytest.raises(TemplateInvalid, match="say which model, use case and limits it is for"):
        read_templates(b"x", file="t.prompt", format_=None, defaults=None)


@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "{{{", "}}}", "{{!--", "--}}", "{{a}}", "{{!", "\\", "\n", " ", "x", "#if",
             '{{role "system"}}', '{{role "user"}}', "{{prompt}}", "---\n", "a: 1\n", ":", '"']
        ),
        max_size=15,
    ).map("".join)
)  # fmt: skip
def test_whatever_the_text_there_is_a_template_or_a_reason(text: str) -> None:
    try:
        read = dotprompt.parse(text.encode(), file="t.prompt", defaults=DEFAULTS)
    except TemplateInvalid:
        return
    assert checked(read.template) == read.template


_HOSTILE = [
    "{{",
    "}}",
    "{{{",
    "{{!--",
    "{{a}}",
    "{{!}}\n",
    '{{role "user"}}x',
    "---\n",
    "{{!}}",
    ":",
]


@pytest.mark.parametrize("piece", [*_HOSTILE, "- a\n", "a: [", "? ", "'", "|\n"])
def test_hostile_texts_are_read_in_time(piece: str) -> None:
    start = process_time()
    for text in (piece * (90_000 // len(piece)), f"---\n{piece * (60_000 // len(piece))}\n---\nx"):
        try:
            dotprompt.parse(text.encode(), file="t.prompt", defaults=DEFAULTS)
        except TemplateInvalid:
            continue
    # Processor time, and generous: what it guards against takes minutes.
    assert process_time() - start < 5
