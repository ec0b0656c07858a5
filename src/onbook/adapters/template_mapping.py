"""A template as plain data: the inverse of ``domain.templates.template_from_mapping``."""

from dataclasses import asdict

from onbook.domain.templates import Template, sampling_mapping


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
    }
