"""Reading the book: ``GET`` of ``/v1/templates`` and its neighbours.

Content is answered to whoever may read templates, whatever its content mode; it is never logged.
"""

import asyncio

from onbook.adapters.files.template_toml import to_toml
from onbook.bootstrap import Service
from onbook.domain.errors import InvalidPayload
from onbook.domain.template_diff import diff_templates
from onbook.flows.read_templates import (
    list_templates,
    show_template,
    show_version,
    template_history,
    versions_to_compare,
)
from onbook.flows.template_editing import database
from onbook.gateway.functions import Call
from onbook.gateway.routes.templates_mapping import (
    diff_bodies,
    event_body,
    gateway_body,
    row_body,
    split_body,
    template_body,
    version_body,
)
from onbook.gateway.routes.templates_path import name_in, version_in
from onbook.ports.template_library import TemplateFilter
from onbook.wire.asgi import send_json, send_text
from onbook.wire.decoding import read_query
from onbook.wire.templates_answers import (
    GatewaysAnswer,
    TemplateAnswer,
    TemplateDiffAnswer,
    TemplateEventsAnswer,
    TemplateHistoryAnswer,
    TemplateListAnswer,
    TemplateVersionAnswer,
)
from onbook.wire.templates_api import (
    DiffQuery,
    EventsQuery,
    HistoryQuery,
    NoQuery,
    TemplateListQuery,
    VersionQuery,
)


async def list_route(call: Call, service: Service) -> None:
    """``GET /v1/templates``."""
    query = read_query(call.query, TemplateListQuery)
    wanted = TemplateFilter(
        model_type=query.model_type,
        use_case=query.use_case,
        content_mode=query.content_mode,
        target=query.target,
        is_active=query.active,
        name_contains=query.q,
    )
    rows = await list_templates(
        wanted, after=query.after, limit=query.limit + 1, editing=service.editing
    )
    page = rows[: query.limit]
    answer = TemplateListAnswer(
        request_id=call.request_id,
        templates=[row_body(row) for row in page],
        next_after=page[-1].template_name if len(rows) > len(page) else None,
    )
    await send_json(call.send, 200, answer, call.headers)


async def show_route(call: Call, service: Service) -> None:
    """``GET /v1/templates/{name}``."""
    read_query(call.query, NoQuery)
    shown = await show_template(name_in(call), editing=service.editing)
    answer = TemplateAnswer(
        request_id=call.request_id,
        template_name=shown.template_name,
        row=None if shown.row is None else row_body(shown.row),
        content=template_body(None if shown.row is None else shown.version.template),
        split=None if shown.split is None else split_body(shown.split),
        drafts=[version_body(draft) for draft in shown.drafts],
    )
    await send_json(call.send, 200, answer, call.headers)


async def history_route(call: Call, service: Service) -> None:
    """``GET /v1/templates/{name}/versions``."""
    query = read_query(call.query, HistoryQuery)
    history = await template_history(
        name_in(call),
        before_version=query.before,
        before_event=query.before_event,
        limit=query.limit + 1,
        editing=service.editing,
    )
    versions, events = history.versions[: query.limit], history.events[: query.limit]
    answer = TemplateHistoryAnswer(
        request_id=call.request_id,
        template_name=history.template_name,
        versions=[version_body(version) for version in versions],
        events=[event_body(event) for event in events],
        next_before=versions[-1].version if len(history.versions) > len(versions) else None,
        next_before_event=events[-1].event_id if len(history.events) > len(events) else None,
    )
    await send_json(call.send, 200, answer, call.headers)


async def version_route(call: Call, service: Service) -> None:
    """``GET /v1/templates/{name}/versions/{version}``."""
    query = read_query(call.query, VersionQuery)
    number = version_in(call)
    version = await show_version(name_in(call), number, editing=service.editing)
    if query.format == "json":
        answer = TemplateVersionAnswer(
            request_id=call.request_id,
            version=version_body(version),
            content=template_body(version.template),
        )
        await send_json(call.send, 200, answer, call.headers)
        return
    if version.template is None:
        raise InvalidPayload(
            f"Version {number} breaks a rule, so there is no file of it: {version.problem}",
            details={"fields": ["version"]},
            suggested_action="Ask for it as JSON, or for another version.",
        )
    await send_text(
        call.send, 200, to_toml(version.template, version=version.version), call.headers
    )


async def diff_route(call: Call, service: Service) -> None:
    """``GET /v1/templates/{name}/diff``."""
    query = read_query(call.query, DiffQuery)
    before, after = await versions_to_compare(
        name_in(call), query.from_version, query.to_version, editing=service.editing
    )
    if before.template is None or after.template is None:
        raise InvalidPayload(
            "A version whose content breaks a rule cannot be compared.",
            details={"fields": ["from" if before.template is None else "to"]},
            suggested_action="Name two versions that keep the rules.",
        )
    # Bounded, but a second for the largest texts: not for the loop that serves everybody.
    diffs = await asyncio.to_thread(diff_templates, before.template, after.template)
    answer = TemplateDiffAnswer(
        request_id=call.request_id,
        template_name=after.template_name,
        from_version=before.version,
        to_version=after.version,
        fields=diff_bodies(diffs),
    )
    await send_json(call.send, 200, answer, call.headers)


async def events_route(call: Call, service: Service) -> None:
    """``GET /v1/template-events``."""
    query = read_query(call.query, EventsQuery)
    with database("read the events"):
        found = await service.library.events(None, before=query.before, limit=query.limit + 1)
    events = found[: query.limit]
    answer = TemplateEventsAnswer(
        request_id=call.request_id,
        events=[event_body(event) for event in events],
        next_before=events[-1].event_id if len(found) > len(events) else None,
    )
    await send_json(call.send, 200, answer, call.headers)


async def gateways_route(call: Call, service: Service) -> None:
    """``GET /v1/gateways``."""
    read_query(call.query, NoQuery)
    with database("list the gateways"):
        seen = await service.library.gateways()
    answer = GatewaysAnswer(
        request_id=call.request_id, gateways=[gateway_body(gateway) for gateway in seen]
    )
    await send_json(call.send, 200, answer, call.headers)
