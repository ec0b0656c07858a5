"""The book's values as the wire shows them, and the wire's template as the domain's."""

from collections.abc import Sequence

import msgspec

from onbook.domain.enhancement import Caller
from onbook.domain.template_diff import FieldDiff
from onbook.domain.template_history import (
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.templates import Template, template_from_mapping
from onbook.flows.await_gateways import LIVE_S
from onbook.flows.evaluate_template import GateCase, GateResult
from onbook.ports.template_library import GatewaySeen
from onbook.wire.templates_answers import (
    DiffWords,
    FieldDiffBody,
    GateBody,
    GateCaseBody,
    GatewayRow,
    TemplateEventRow,
    TemplateRow,
    TemplateSplitRow,
    TemplateVersionRow,
    TestedCaseBody,
)
from onbook.wire.templates_api import (
    TemplateBody,
    TemplateExampleBody,
    TemplateSamplingBody,
    TemplateTestBody,
    TemplateVariableBody,
)

_KEY_ID_CHARS = 8
_KEY_NAME_CHARS = 150


def author_of(caller: Caller) -> str:
    """Return what is recorded as the author of a change: the key's name and a part of its id."""
    name = "".join(char if char.isprintable() else "?" for char in caller.name[:_KEY_NAME_CHARS])
    return f"key:{name} ({caller.key_id[:_KEY_ID_CHARS]})"


def template_from(body: TemplateBody) -> Template:
    """Return the template that a caller sent.

    Raises:
        TemplateInvalid: it breaks a rule.
    """
    mapping: dict[str, object] = msgspec.to_builtins(body)
    return template_from_mapping(mapping)


def template_body(template: Template | None) -> TemplateBody | None:
    """Return the content of a template, None for one whose content breaks a rule."""
    if template is None:
        return None
    sampling = template.sampling
    return TemplateBody(
        template_name=template.template_name,
        model_type=template.model_type,
        use_case=template.use_case,
        content_mode=template.content_mode,
        token_limit=template.token_limit,
        token_unit=template.token_unit,
        max_tokens=template.max_tokens,
        target=template.target,
        system_prompt=template.system_prompt,
        user_format=template.user_format,
        sampling=TemplateSamplingBody(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            dry_multiplier=sampling.dry_multiplier,
            stop=list(sampling.stop),
        ),
        examples=[
            TemplateExampleBody(user=item.user, assistant=item.assistant)
            for item in template.examples
        ],
        examples_sent=template.examples_sent,
        grammar=template.grammar,
        variables=[
            TemplateVariableBody(
                name=item.name, type=item.type, required=item.required, default=item.default
            )
            for item in template.variables
        ],
        negative_prompt=template.negative_prompt,
        description=template.description,
        tests=[
            TemplateTestBody(
                name=item.name,
                input=item.input,
                must_keep=list(item.must_keep),
                must_not=list(item.must_not),
                max_tokens=item.max_tokens,
                mode=item.mode,
                seed=item.seed,
                variables=dict(item.variables),
            )
            for item in template.tests
        ],
    )


def row_body(row: StoredTemplate) -> TemplateRow:
    """Return a template's row without its content."""
    return TemplateRow(
        template_name=row.template_name,
        version=row.version,
        model_type=row.model_type,
        use_case=row.use_case,
        content_mode=row.content_mode,
        target=row.target,
        is_active=row.is_active,
        updated_by=row.updated_by,
        change_reason=row.change_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        content_sha256=row.content_sha256,
        problem=row.problem,
    )


def version_body(version: TemplateVersion) -> TemplateVersionRow:
    """Return a version without its content."""
    return TemplateVersionRow(
        template_name=version.template_name,
        version=version.version,
        state=version.state,
        author=version.author,
        reason=version.reason,
        created_at=version.created_at,
        content_sha256=version.content_sha256,
        base_version=version.base_version,
        origin_version=version.origin_version,
        problem=version.problem,
    )


def event_body(event: TemplateEvent) -> TemplateEventRow:
    """Return one entry of the record."""
    return TemplateEventRow(
        event_id=event.event_id,
        created_at=event.created_at,
        template_name=event.template_name,
        action=event.action,
        actor=event.actor,
        reason=event.reason,
        from_version=event.from_version,
        to_version=event.to_version,
        gate=None if event.gate is None else dict(event.gate),
    )


def split_body(split: TemplateSplit) -> TemplateSplitRow:
    """Return a split, running or ended."""
    return TemplateSplitRow(
        split_id=split.split_id,
        template_name=split.template_name,
        candidate_version=split.candidate_version,
        percent=split.percent,
        started_by=split.started_by,
        reason=split.reason,
        started_at=split.started_at,
        ended_at=split.ended_at,
        outcome=split.outcome,
    )


def gate_body(gate: GateResult) -> GateBody:
    """Return a gate's result as it is recorded."""
    return GateBody(
        passed=gate.passed,
        cases=[
            GateCaseBody(name=case.name, passed=case.passed, failures=list(case.failures))
            for case in gate.cases
        ],
        override=gate.override,
    )


def tested_cases(cases: Sequence[GateCase]) -> list[TestedCaseBody]:
    """Return the cases of a try-out, with what the model wrote."""
    return [
        TestedCaseBody(
            name=case.name,
            passed=case.passed,
            failures=list(case.failures),
            output=case.output,
            tokens=case.tokens,
            attempts=case.attempts,
        )
        for case in cases
    ]


def diff_bodies(diffs: Sequence[FieldDiff]) -> list[FieldDiffBody]:
    """Return what changed, word by word."""
    return [
        FieldDiffBody(
            field=diff.field,
            change=("added" if diff.old is None else "removed" if diff.new is None else "changed"),
            words=[DiffWords(op=words.op, text=words.text) for words in diff.words],
        )
        for diff in diffs
    ]


def gateway_body(seen: GatewaySeen) -> GatewayRow:
    """Return a gateway, and whether it still reports."""
    return GatewayRow(
        gateway_id=seen.gateway_id,
        name=seen.name,
        epoch=seen.epoch,
        active_sha256=seen.active_sha256,
        seen_s_ago=round(seen.seen_s_ago, 3),
        live=seen.seen_s_ago <= LIVE_S,
    )
