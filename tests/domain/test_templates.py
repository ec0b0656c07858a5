"""Templates: every broken rule names template and field; the hash covers what a model sees."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from onbook.domain.templates import (
    Example,
    Template,
    TemplateInvalid,
    TemplateKey,
    TemplateSampling,
    TemplateTest,
    Variable,
    checked,
    content_sha256,
    sampling_mapping,
    template_from_mapping,
)

WHOLE: Mapping[str, object] = {
    "template_name": "enhancement_sdxl_sfw",
    "model_type": "qwen_instruct",
    "use_case": "enhancement",
    "content_mode": "sfw",
    "target": "sdxl",
    "system_prompt": "Write tags like {{author}}.",
    "token_limit": 75,
    "token_unit": "clip",
    "max_tokens": 225,
    "user_format": "Idea: {{prompt}}",
    "sampling": {"temperature": 0.4, "top_k": 20, "stop": ["\n"]},
    "examples": [{"user": "a", "assistant": "b"}, {"user": "c", "assistant": "d"}],
    "examples_sent": 1,
    "grammar": 'root ::= "{{prompt}}"',
    "variables": [{"name": "author", "type": "string", "required": True}],
    "negative_prompt": "blurry",
    "description": "Tags.",
    "tests": [
        {
            "name": "keeps the red",
            "input": "a red hat",
            "must_keep": ["red", "hat"],
            "must_not": ["blue"],
            "max_tokens": 60,
            "mode": "sfw",
            "seed": 7,
            "variables": {"author": "Ada"},
        }
    ],
}
TEMPLATE = template_from_mapping(WHOLE)

# Any, because one table holds values for fields of every type.
OTHER: dict[str, Any] = {
    "model_type": "qwen_base",
    "use_case": "chat",
    "content_mode": "nsfw",
    "target": None,
    "system_prompt": "Write tags like {{author}}. ",
    "token_limit": 76,
    "token_unit": "umt5",
    "max_tokens": 226,
    "user_format": None,
    "sampling": TemplateSampling(temperature=0.5, top_k=20, stop=("\n",)),
    "examples": (*TEMPLATE.examples[::-1],),
    "examples_sent": 2,
    "grammar": None,
    "variables": (Variable("author", required=False),),
    "negative_prompt": None,
}
NOT_CONTENT: dict[str, Any] = {
    "template_name": "other",
    "version": 9,
    "description": "Other.",
    "tests": (),
    "content_sha256": "0" * 64,
}


def _invalid(**changes: object) -> TemplateInvalid:
    data = {name: value for name, value in {**WHOLE, **changes}.items() if value is not ...}
    with pytest.raises(TemplateInvalid) as caught:
        template_from_mapping(data)
    return caught.value


def test_a_whole_template_is_read_field_by_field() -> None:
    assert replace(TEMPLATE, content_sha256="") == Template(
        template_name="enhancement_sdxl_sfw",
        version=1,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt="Write tags like {{author}}.",
        token_limit=75,
        token_unit="clip",
        max_tokens=225,
        user_format="Idea: {{prompt}}",
        sampling=TemplateSampling(temperature=0.4, top_k=20, stop=("\n",)),
        examples=(Example("a", "b"), Example("c", "d")),
        examples_sent=1,
        grammar='root ::= "{{prompt}}"',
        variables=(Variable("author", "string", required=True),),
        negative_prompt="blurry",
        description="Tags.",
        tests=(
            TemplateTest(
                name="keeps the red",
                input="a red hat",
                must_keep=("red", "hat"),
                must_not=("blue",),
                max_tokens=60,
                mode="sfw",
                seed=7,
                variables={"author": "Ada"},
            ),
        ),
    )
    assert TEMPLATE.key == TemplateKey("qwen_instruct", "enhancement", "sfw", "sdxl")
    assert TEMPLATE.is_completion
    assert not replace(TEMPLATE, user_format=None).is_completion


def test_the_least_template_has_nothing_switched_on() -> None:
    names = ("template_name", "model_type", "use_case", "content_mode", "token_limit")
    least = {name: WHOLE[name] for name in (*names, "token_unit", "max_tokens")}
    template = template_from_mapping({**least, "system_prompt": "Write."}, version=4)
    assert (template.version, template.target, template.examples_sent) == (4, None, 0)
    assert template.tests == ()
    assert template.sampling == TemplateSampling(0.7, 0.9)
    assert sampling_mapping(template.sampling) == {"temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template_name", 1),
        ("template_name", " "),
        ("template_name", "../etc"),
        ("template_name", "a\x00"),
        ("model_type", ...),
        ("model_type", ""),
        ("use_case", ...),
        ("use_case", "poetry"),
        ("content_mode", "mixed"),
        ("content_mode", []),
        ("target", 1),
        ("system_prompt", 1),
        ("system_prompt", "a\x00b"),
        ("system_prompt", "Enhance {{prompt}}."),
        ("token_limit", ...),
        ("token_limit", "75"),
        ("token_limit", 75.0),
        ("token_limit", True),
        ("token_limit", 0),
        ("token_unit", "words"),
        ("max_tokens", ...),
        ("max_tokens", None),
        ("user_format", "no slot"),
        ("user_format", "{{prompt}} {{prompt}}"),
        ("user_format", 1),
        ("sampling", []),
        ("sampling.colour", {"colour": 1}),
        ("sampling.stop", {"stop": "\n"}),
        ("sampling.stop", {"stop": [1]}),
        ("sampling.temperature", {"temperature": "hot"}),
        ("sampling.temperature", {"temperature": True}),
        ("sampling.top_k", {"top_k": None}),
        ("examples", {}),
        ("examples[0]", ["a"]),
        ("examples[0].assistant", [{"user": "a"}]),
        ("examples[0].more", [{"user": "a", "assistant": "b", "more": "c"}]),
        ("examples_sent", 3),
        ("examples_sent", -1),
        ("examples_sent", "1"),
        ("grammar", 1),
        ("grammar", "\x00"),
        ("variables", {}),
        ("variables[0]", ["author"]),
        ("variables[0].name", [{"type": "string"}]),
        ("variables[0].type", [{"name": "author", "type": []}]),
        ("variables[0].requird", [{"name": "author", "requird": True}]),
        ("variables[0].required", [{"name": "author", "required": "no"}]),
        ("variables[0].default", [{"name": "author", "default": ["a"]}]),
        ("tests", {}),
        ("tests[0]", ["a"]),
        ("tests[0].name", [{"input": "a"}]),
        ("tests[0].input", [{"name": "a"}]),
        ("tests[0].input", [{"name": "a", "input": " "}]),
        ("tests[0].must_kep", [{"name": "a", "input": "b", "must_kep": []}]),
        ("tests[0].must_keep", [{"name": "a", "input": "b", "must_keep": "c"}]),
        ("tests[0].must_not", [{"name": "a", "input": "b", "must_not": [1]}]),
        ("tests[0].max_tokens", [{"name": "a", "input": "b", "max_tokens": 1.5}]),
        ("tests[0].mode", [{"name": "a", "input": "b", "mode": "mixed"}]),
        ("tests[0].seed", [{"name": "a", "input": "b", "seed": "7"}]),
        ("tests[0].variables", [{"name": "a", "input": "b", "variables": []}]),
        ("tests[0].variables.x", [{"name": "a", "input": "b", "variables": {"x": None}}]),
        ("negative_prompt", 1),
        ("description", 1),
        ("colour", "red"),
        ("version", 3),
        ("content_sha256", "0" * 64),
    ],
)
def test_each_broken_rule_names_the_template_and_the_field(field: str, value: object) -> None:
    error = _invalid(**{field.partition(".")[0].partition("[")[0]: value})
    name = "a\x00" if value == "a\x00" else "enhancement_sdxl_sfw"
    if field == "template_name" and value != "a\x00":
        name = str(value)
    assert error.details == {"template_name": name, "fields": [field]}
    assert field in error.message
    assert name in error.message
    assert (error.status, error.code) == (422, "INVALID_PAYLOAD")


def test_a_template_without_a_name_is_named_as_such() -> None:
    assert _invalid(template_name=...).details == {
        "template_name": "(unnamed)",
        "fields": ["template_name"],
    }


def test_neither_system_text_nor_examples_is_a_template_of_nothing() -> None:
    error = _invalid(system_prompt=" \n", examples_sent=0, variables=None, tests=None)
    assert error.details == {"template_name": "enhancement_sdxl_sfw", "fields": ["system_prompt"]}
    template_from_mapping({**WHOLE, "system_prompt": "", "variables": None, "tests": None})


def test_the_fields_of_this_test_are_the_fields_of_a_template() -> None:
    assert {item.name for item in fields(Template)} == {*OTHER, *NOT_CONTENT}


@pytest.mark.parametrize("name", OTHER)
def test_the_hash_changes_with_each_content_field(name: str) -> None:
    changed = replace(TEMPLATE, **{name: OTHER[name]})
    assert content_sha256(changed) != TEMPLATE.content_sha256


@pytest.mark.parametrize("name", [item.name for item in fields(TemplateSampling)])
def test_the_hash_changes_with_each_sampling_field(name: str) -> None:
    changed: dict[str, Any] = {name: ("x",) if name == "stop" else 3}
    sampling = replace(TEMPLATE.sampling, **changed)
    assert content_sha256(replace(TEMPLATE, sampling=sampling)) != TEMPLATE.content_sha256


@pytest.mark.parametrize(
    "variable",
    [
        Variable("writer", required=True),
        Variable("author", "integer", required=True),
        Variable("author"),
        Variable("author", required=True, default=""),
        Variable("author", required=True, default=0),
        Variable("author", required=True, default=False),
    ],
)
def test_the_hash_changes_with_each_part_of_a_variable(variable: Variable) -> None:
    assert content_sha256(replace(TEMPLATE, variables=(variable,))) != TEMPLATE.content_sha256


@pytest.mark.parametrize("name", NOT_CONTENT)
def test_the_hash_does_not_change_with_what_is_not_content(name: str) -> None:
    changed = replace(TEMPLATE, **{name: NOT_CONTENT[name]})
    assert content_sha256(changed) == TEMPLATE.content_sha256


def test_texts_do_not_run_into_each_other_in_the_hash() -> None:
    one = replace(TEMPLATE, examples=(Example("a", "bc"),))
    other = replace(TEMPLATE, examples=(Example("ab", "c"),))
    assert content_sha256(one) != content_sha256(other)


def test_checking_fills_in_the_hash_whatever_was_there() -> None:
    assert checked(replace(TEMPLATE, content_sha256="0" * 64)) == TEMPLATE
    assert len(TEMPLATE.content_sha256) == 64
