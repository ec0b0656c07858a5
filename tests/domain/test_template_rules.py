import pytest

from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.template_rules import LITERAL, broken_rules
from onbook.domain.templates import TemplateInvalid, template_from_mapping

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
        ({"examples": [{"user": "a", "assistant": None}]}, "examples"),
        ({"examples": [{"user": "a", "assistant": "b\x00"}]}, "examples"),
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
