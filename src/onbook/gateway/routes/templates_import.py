"""Adding drafts from the text of a file: all of its templates are checked before one is stored."""

import asyncio

from onbook.adapters.template_files import read_templates
from onbook.adapters.template_formats.source import ImportDefaults, ImportedTemplate
from onbook.bootstrap import Service
from onbook.flows.import_templates import TemplateImport, compare_templates, import_templates
from onbook.gateway.functions import Call
from onbook.gateway.routes.templates_mapping import author_of, diff_bodies
from onbook.wire.asgi import send_json
from onbook.wire.decoding import read_query, read_struct
from onbook.wire.gateway_api import FieldErrors
from onbook.wire.templates_answers import ImportedTemplateBody, TemplateImportAnswer
from onbook.wire.templates_api import (
    NoQuery,
    TemplateImportDefaults,
    TemplateImportRequest,
)


async def import_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/import``."""
    read_query(call.query, NoQuery)
    request = read_struct(call.body, TemplateImportRequest)
    if request.reason is None and not request.dry_run:
        raise FieldErrors({"reason": "is required"})
    # Parsing large texts takes a while: not in the loop that serves everybody.
    found = await asyncio.to_thread(_read, request)
    if request.dry_run or request.reason is None:
        done = await compare_templates(found, editing=service.editing)
    else:
        done = await import_templates(
            found,
            author=author_of(call.caller),
            reason=request.reason,
            editing=service.editing,
        )
    answer = TemplateImportAnswer(
        request_id=call.request_id,
        dry_run=request.dry_run,
        templates=[_body(read, item) for read, item in zip(found, done, strict=True)],
    )
    await send_json(call.send, 200, answer, call.headers)


def _read(request: TemplateImportRequest) -> list[ImportedTemplate]:
    found = read_templates(
        request.text.encode(),
        file=request.file_name,
        format_=request.format,
        defaults=None if request.defaults is None else _defaults(request.defaults),
    )
    names = [item.template.template_name for item in found]
    if len(set(names)) < len(names):
        raise FieldErrors({"text": "holds two templates of one name"})
    return found


def _defaults(body: TemplateImportDefaults) -> ImportDefaults:
    return ImportDefaults(
        model_type=body.model_type,
        use_case=body.use_case,
        token_limit=body.token_limit,
        token_unit=body.token_unit,
        max_tokens=body.max_tokens,
        content_mode=body.content_mode,
        target=body.target,
        template_name=body.template_name,
        user_variable=body.user_variable,
        completion=body.completion,
    )


def _body(read: ImportedTemplate, item: TemplateImport) -> ImportedTemplateBody:
    return ImportedTemplateBody(
        template_name=item.template.template_name,
        outcome=item.outcome,
        diff=diff_bodies(item.diff),
        warnings=list(read.warnings),
        version=item.version,
    )
