import pytest

from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.template_rules import LITERAL, MAX_INPUT, broken_rules
from onbook.domain.templates import TemplateInvalid, template_from_mapping
from onbook.wire.gateway_api import MAX_PROMPT_CHARS

GOOD: dict[str, object] = {
    "template_name": "t",
    "model_type": "qwen_instruct",
    "use_case": "enhancement",
    "content_mode": "sfw",
    "target": "sdxl",
    "system_prompt": "Write tags for {{reader}}.",
    "token_limit": 75,
    "token_unit": "clip",
    "max_tokens": 200,
    "variables": [{"name": "reader", "default": "SDXL"}],
    "grammar": 'root ::= "{{prompt}}" light\n# rotate light 1\nlight ::= "soft" | "hard"',
}


def test_a_good_template_is_accepted() -> None:
    assert template_from_mapping(GOOD).content_sha256


def test_the_packaged_templates_keep_every_rule() -> None:
    for template in packaged_templates():
        assert not list(broken_rules(template)), template.template_name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 40_000}, "max_tokens"),
        ({"token_limit": 0}, "token_limit"),
        ({"token_limit": 1_000_001}, "token_limit"),
        ({"system_prompt": "Write {{nope}}."}, "system_prompt"),
        ({"system_prompt": "Write {{ reader }}."}, "system_prompt"),
        ({"system_prompt": "Write {{user-name}}."}, "system_prompt"),
        ({"system_prompt": "Write {{prompt}}."}, "system_prompt"),
        ({"system_prompt": " "}, "system_prompt"),
        ({"system_prompt": "a\ud800"}, "system_prompt"),
        ({"user_format": "Idea:"}, "user_format"),
        ({"user_format": "{{prompt}} {{prompt}}"}, "user_format"),
        ({"user_format": "{{prompt}} {{reader}}"}, "user_format"),
        ({"grammar": "root ::= {{prompt}}"}, "grammar"),
        ({"grammar": "root ::= [{{prompt}}]"}, "grammar"),
        ({"grammar": 'root ::= "a" {{prompt}} "b"'}, "grammar"),
        ({"grammar": 'root ::= "\\" {{prompt}}'}, None),
        ({"grammar": 'root ::= "{{other}}"'}, "grammar"),
        ({"grammar": " \n"}, "grammar"),
        ({"grammar": '# rotate r 0\nr ::= "a"'}, "grammar"),
        ({"grammar": '# rotate r 2\nroot ::= "a"'}, "grammar"),
        ({"grammar": '# rotate r 1\nr ::= "a" | other'}, "grammar"),
        ({"grammar": '# rotate r 1\nr ::= "a" | "{{prompt}}"'}, "grammar"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature"),
        ({"sampling": {"temperature": 9.0}}, "sampling.temperature"),
        ({"sampling": {"top_p": 0.0}}, "sampling.top_p"),
        ({"sampling": {"top_k": 1.5}}, "sampling.top_k"),
        ({"sampling": {"stop": ["x"] * 17}}, "sampling.stop"),
        ({"sampling": {"stop": [""]}}, "sampling.stop"),
        ({"sampling": {"stop": ["x" * 257]}}, "sampling.stop"),
        ({"examples": [{"user": "a", "assistant": None}]}, "examples[0].assistant"),
        ({"examples": [{"user": "a", "assistant": "b\x00"}]}, "examples[0].assistant"),
        ({"examples": [{"user": "a\udfff", "assistant": "b"}]}, "examples[0].user"),
        ({"variables": [{"name": "reader", "type": "colour"}]}, "variables.reader"),
        ({"variables": [{"name": "reader", "type": "integer", "default": "x"}]},
         "variables.reader"),
        ({"variables": [{"name": "reader"}, {"name": "a b"}]}, "variables.a b"),
        ({"variables": [{"name": "reader"}, {"name": "prompt"}]}, "variables.prompt"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_template_and_field(
    changes: dict[str, object], field: str | None
) -> None:
    if field is None:
        # Inside a literal that an escaped quote goes on with, the slot is still quoted.
        template_from_mapping({**GOOD, **changes})
        return
    with pytest.raises(TemplateInvalid) as caught:
        template_from_mapping({**GOOD, **changes})
    assert caught.value.details == {"template_name": "t", "fields": [field]}
    assert caught.value.message.startswith("Template t: ")


def test_an_unterminated_literal_is_read_once() -> None:
    # One match to the end of the line: were it given up, every quote in it would be tried again.
    for ending in ("", "\\", " x"):
        text = '"' + '\\"' * 5000 + ending
        assert LITERAL.findall(text) == [text]
        assert LITERAL.findall(text + "\n" + '"a"') == [text, '"a"']


TEST = {"name": "n", "input": "a red hat"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a\nb"}, "tests[0].name"),
        ({"name": "n" * 129}, "tests[0].name"),
        ({"must_keep": ["red", " "]}, "tests[0].must_keep"),
        ({"must_not": [""]}, "tests[0].must_not"),
        ({"must_not": ["x"] * 51}, "tests[0].must_not"),
        ({"max_tokens": 0}, "tests[0].max_tokens"),
        ({"max_tokens": 32_769}, "tests[0].max_tokens"),
        ({"seed": -1}, "tests[0].seed"),
        ({"seed": 2**32 - 1}, "tests[0].seed"),
        ({"variables": {"writer": "x"}}, "tests[0].variables.writer"),
        ({"variables": {"reader": 1}}, "tests[0].variables.reader"),
        ({"input": "a\x00"}, "tests[0].input"),
        ({"input": "a" * 8001}, "tests[0].input"),
        ({"mode": "nsfw"}, "tests[0].mode"),
        ({"must_keep": ["\ud800"]}, "tests[0].must_keep"),
        ({"variables": {"reader": "\ud800"}}, "tests[0].variables.reader"),
    ],
)
def test_a_broken_test_case_is_named(changes: dict[str, object], field: str) -> None:
    template_from_mapping({**GOOD, "tests": [TEST]})
    with pytest.raises(TemplateInvalid) as caught:
        template_from_mapping({**GOOD, "tests": [{**TEST, **changes}]})
    assert (caught.value.details or {})["fields"] == [field]


def test_a_test_asks_for_no_higher_mode_than_the_template_has() -> None:
    for mode, highest in (("sfw", "sfw"), ("sfw", "nsfw"), ("nsfw", "nsfw")):
        test = {**TEST, "mode": mode}
        template_from_mapping({**GOOD, "content_mode": highest, "tests": [test]})


def test_a_test_is_as_long_as_a_prompt_may_be() -> None:
    assert MAX_INPUT == MAX_PROMPT_CHARS
    template_from_mapping({**GOOD, "tests": [{**TEST, "input": "a" * MAX_INPUT}]})


def test_a_test_case_gives_every_required_variable() -> None:
    variables = [{"name": "reader", "required": True}]
    with pytest.raises(TemplateInvalid, match="must give reader, which is required"):
        template_from_mapping({**GOOD, "variables": variables, "tests": [TEST]})
    given = {**TEST, "variables": {"reader": "SDXL"}}
    template_from_mapping({**GOOD, "variables": variables, "tests": [given]})


@pytest.mark.parametrize(
    ("field", "names"),
    [("tests[1].name", "tests"), ("variables[2].name", "variables")],
)
def test_a_name_is_given_once(field: str, names: str) -> None:
    doubled = {
        "tests": [TEST, TEST],
        "variables": [{"name": "reader"}, {"name": "b"}, {"name": "reader"}],
    }
    with pytest.raises(TemplateInvalid) as caught:
        template_from_mapping({**GOOD, names: doubled[names]})
    assert (caught.value.details or {})["fields"] == [field]


_TESTS = [{"name": f"n{i}", "input": "x"} for i in range(51)]
_EXAMPLES = [{"user": "a", "assistant": "b"}] * 201


@pytest.mark.parametrize(
    ("field", "most", "over"),
    [
        ("system_prompt", "x" * 100_000, "x" * 100_001),
        ("negative_prompt", "x" * 100_000, "x" * 100_001),
        ("description", "x" * 100_000, "x" * 100_001),
        ("user_format", "x" * 99_990 + "{{prompt}}", "x" * 99_991 + "{{prompt}}"),
        ("examples", _EXAMPLES[:200], _EXAMPLES),
        ("tests", _TESTS[:50], _TESTS),
        ("variables", [{"name": "reader"}, *({"name": f"v{i}"} for i in range(49))],
         [{"name": "reader"}, *({"name": f"v{i}"} for i in range(50))]),
    ],
)  # fmt: skip
def test_sizes_are_bounded(field: str, most: object, over: object) -> None:
    template_from_mapping({**GOOD, field: most})
    with pytest.raises(TemplateInvalid, match=f"{field} must be at most") as caught:
        template_from_mapping({**GOOD, field: over})
    assert (caught.value.details or {})["fields"] == [field]


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-9", "x" * 128])
def test_a_name_is_a_file_name_and_a_part_of_a_url(name: str) -> None:
    assert template_from_mapping({**GOOD, "template_name": name}).template_name == name


@pytest.mark.parametrize("name", [".a", "-a", "_a", "a b", "a/b", "a\n", "é", "x" * 129, "a\u0660"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        template_from_mapping({**GOOD, "template_name": name})
    assert (caught.value.details or {})["fields"] == ["template_name"]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53 + 1, -(16**9999)],
    ids=["nan", "inf", "whole", "huge"],
)
def test_a_default_is_a_finite_number(value: float) -> None:
    variables = [{"name": "reader", "type": "number", "default": value}]
    with pytest.raises(TemplateInvalid, match=r"variables\.reader has a default that is too large"):
        template_from_mapping({**GOOD, "variables": variables})
    typed = [{"name": "reader", "type": "number"}]
    test = {**TEST, "variables": {"reader": value}}
    with pytest.raises(TemplateInvalid, match=r"tests\[0\]\.variables\.reader is too large"):
        template_from_mapping({**GOOD, "variables": typed, "tests": [test]})


def test_a_sampling_value_that_no_float_holds_is_named() -> None:
    with pytest.raises(TemplateInvalid, match=r"sampling\.temperature is out of range"):
        template_from_mapping({**GOOD, "sampling": {"temperature": 10**400}})
