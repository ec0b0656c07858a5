"""Changing the book: drafts and their tests, and which version is live."""

import asyncio
from dataclasses import replace

from onbook.bootstrap import Service
from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.content_mode.policy import ceiling_of
from onbook.domain.errors import DatabaseUnavailable
from onbook.flows.await_gateways import await_gateways
from onbook.flows.gate_template import try_template
from onbook.flows.manage_templates import (
    activate_template,
    deactivate_template,
    discard_draft,
    draft_template,
    roll_back_template,
)
from onbook.flows.split_traffic import SplitChanged, abort_split, promote_split, start_split
from onbook.flows.template_editing import TemplateEditing
from onbook.gateway.functions import Call
from onbook.gateway.routes.templates_mapping import (
    author_of,
    gate_body,
    split_body,
    template_from,
    tested_cases,
    version_body,
)
from onbook.gateway.routes.templates_path import name_in, version_in
from onbook.wire.asgi import send_json
from onbook.wire.decoding import read_query, read_struct
from onbook.wire.gateway_api import FieldErrors
from onbook.wire.templates_answers import (
    GatewayReached,
    TemplateActivatedAnswer,
    TemplateDeactivatedAnswer,
    TemplateDiscardedAnswer,
    TemplateDraftedAnswer,
    TemplateRolledBackAnswer,
    TemplateSplitAnswer,
    TemplateTestAnswer,
)
from onbook.wire.templates_api import (
    DiscardQuery,
    NoQuery,
    TemplateActivateRequest,
    TemplateChangeRequest,
    TemplateDraftRequest,
    TemplateReasonRequest,
    TemplateRollBackRequest,
    TemplateSplitRequest,
    TemplateTestRequest,
)


async def draft_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/drafts``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateDraftRequest)
    if request.template.template_name != name:
        raise FieldErrors({"template.template_name": "is not the template of this path"})
    # Up to the whole of a body in texts to check: not in the loop that serves everybody.
    template = await asyncio.to_thread(template_from, request.template)
    version = await draft_template(
        template,
        base_version=request.base_version,
        author=author_of(call.caller),
        reason=request.reason,
        editing=service.editing,
    )
    answer = TemplateDraftedAnswer(request_id=call.request_id, version=version_body(version))
    await send_json(call.send, 201, answer, call.headers)


async def discard_route(call: Call, service: Service) -> None:
    """``DELETE /v1/templates/{name}/versions/{version}``."""
    name, version = name_in(call), version_in(call)
    reason = read_query(call.query, DiscardQuery).reason
    if call.body or reason is None:
        # Not every client can send a body with DELETE.
        if reason is not None:
            raise FieldErrors({"reason": "is given twice, in the query and in the body"})
        reason = read_struct(call.body or b"{}", TemplateReasonRequest).reason
    await discard_draft(
        name, version, author=author_of(call.caller), reason=reason, editing=service.editing
    )
    answer = TemplateDiscardedAnswer(
        request_id=call.request_id, template_name=name, version=version
    )
    await send_json(call.send, 200, answer, call.headers)


async def test_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/test``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateTestRequest)
    # A try-out shows what the model wrote, so the key's own ceiling counts as in a request.
    ceiling = ceiling_of(service.enhance.ceiling, key_allows_nsfw=call.caller.may("nsfw"))
    gate = await try_template(name, request.version, editing=_judged(service, ceiling))
    answer = TemplateTestAnswer(
        request_id=call.request_id,
        template_name=name,
        version=request.version,
        passed=gate.passed,
        cases=tested_cases(gate.cases),
    )
    await send_json(call.send, 200, answer, call.headers)


async def activate_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/activate``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateActivateRequest)
    done = await activate_template(
        name,
        request.version,
        expected_version=request.expected_version,
        override=request.override_reason,
        author=author_of(call.caller),
        reason=request.reason,
        editing=service.editing,
    )
    answer = TemplateActivatedAnswer(
        request_id=call.request_id,
        template_name=done.template_name,
        from_version=done.from_version,
        to_version=done.version,
        epoch=done.epoch,
        gate=gate_body(done.gate),
        gateways=await _reached(done.epoch, request.wait_s, service),
    )
    await send_json(call.send, 200, answer, call.headers)


async def roll_back_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/rollback``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateRollBackRequest)
    done = await roll_back_template(
        name,
        request.to_version,
        expected_version=request.expected_version,
        author=author_of(call.caller),
        reason=request.reason,
        editing=service.editing,
    )
    answer = TemplateRolledBackAnswer(
        request_id=call.request_id,
        template_name=name,
        from_version=done.from_version,
        version=version_body(done.version),
        epoch=done.epoch,
        gateways=await _reached(done.epoch, request.wait_s, service),
    )
    await send_json(call.send, 200, answer, call.headers)


async def deactivate_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/deactivate``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateChangeRequest)
    epoch = await deactivate_template(
        name, author=author_of(call.caller), reason=request.reason, editing=service.editing
    )
    answer = TemplateDeactivatedAnswer(
        request_id=call.request_id,
        template_name=name,
        epoch=epoch,
        gateways=await _reached(epoch, request.wait_s, service),
    )
    await send_json(call.send, 200, answer, call.headers)


async def split_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/split``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateSplitRequest)
    done = await start_split(
        name,
        request.version,
        percent=request.percent,
        expected_version=request.expected_version,
        override=request.override_reason,
        author=author_of(call.caller),
        reason=request.reason,
        editing=service.editing,
    )
    await _answer_split(done, request.wait_s, call, service)


async def promote_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/split/promote``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateChangeRequest)
    done = await promote_split(
        name, author=author_of(call.caller), reason=request.reason, editing=service.editing
    )
    await _answer_split(done, request.wait_s, call, service)


async def abort_route(call: Call, service: Service) -> None:
    """``POST /v1/templates/{name}/split/abort``."""
    read_query(call.query, NoQuery)
    name, request = name_in(call), read_struct(call.body, TemplateChangeRequest)
    done = await abort_split(
        name, author=author_of(call.caller), reason=request.reason, editing=service.editing
    )
    await _answer_split(done, request.wait_s, call, service)


def _judged(service: Service, ceiling: ContentMode) -> TemplateEditing:
    """Return what a change works with whose tests may be run in ``ceiling`` at most."""
    return replace(service.editing, ceiling=ceiling)


async def _answer_split(done: SplitChanged, wait_s: float, call: Call, service: Service) -> None:
    answer = TemplateSplitAnswer(
        request_id=call.request_id,
        split=split_body(done.split),
        epoch=done.epoch,
        gate=None if done.gate is None else gate_body(done.gate),
        gateways=await _reached(done.epoch, wait_s, service),
    )
    await send_json(call.send, 200, answer, call.headers)


async def _reached(epoch: int, wait_s: float, service: Service) -> list[GatewayReached] | None:
    """Serve the change here, and return which live gateways do after ``wait_s`` seconds at most.

    None without a wait, and where the database went away meanwhile: the change is made all the
    same, and an error would say otherwise.
    """
    # Whoever asks this gateway next must not meet what was before.
    await service.book.refresh()
    if wait_s <= 0:
        return None
    try:
        reached = await await_gateways(
            epoch, library=service.library, clock=service.enhance.clock, timeout_s=wait_s
        )
    except DatabaseUnavailable:
        return None
    return [
        *(GatewayReached(name=seen.name, acknowledged=True) for seen in reached.have),
        *(GatewayReached(name=seen.name, acknowledged=False) for seen in reached.missing),
    ]
