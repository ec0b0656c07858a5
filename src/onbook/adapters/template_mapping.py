"""A template as plain data: the inverse of ``domain.templates.template_from_mapping``."""

from dataclasses import asdict

from onbook.domain.templates import Template, TemplateTest, sampling_mapping


def template_mapping(template: Template) -> dict[str, object]:
    """Return the fields of ``template`` that ``template_from_mapping`` takes.

    Version and content hash are left out: the one travels beside, the other is recomputed.
    """
    return {
        "template_name": template.template_name,
        "model_type": template.model_type,
        "use_case": template.use_case,
        "content_mode": template.content_mode,
        "target": template.target,
        "system_prompt": template.system_prompt,
        "token_limit": template.token_limit,
        "token_unit": template.token_unit,
        "max_tokens": template.max_tokens,
        "user_format": template.user_format,
        "sampling": sampling_mapping(template.sampling),
        "examples": [asdict(example) for example in template.examples],
        "examples_sent": template.examples_sent,
        "grammar": template.grammar,
        "variables": [asdict(variable) for variable in template.variables],
        "negative_prompt": template.negative_prompt,
        "description": template.description,
        "tests": [_test_mapping(test) for test in template.tests],
    }


def _test_mapping(test: TemplateTest) -> dict[str, object]:
    """Return the fields of one case of the gate; what is as if left out is left out."""
    mapping: dict[str, object] = {"name": test.name, "input": test.input}
    if test.must_keep:
        mapping["must_keep"] = list(test.must_keep)
    if test.must_not:
        mapping["must_not"] = list(test.must_not)
    if test.max_tokens is not None:
        mapping["max_tokens"] = test.max_tokens
    if test.mode is not None:
        mapping["mode"] = test.mode
    if test.seed:
        mapping["seed"] = test.seed
    if test.variables:
        mapping["variables"] = dict(test.variables)
    return mapping
