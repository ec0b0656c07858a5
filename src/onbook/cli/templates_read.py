"""Looking at the book: ``list``, ``show``, ``history`` and ``gateways``."""

import json
from typing import TYPE_CHECKING, Final

from onbook.cli import templates_output as output
from onbook.cli.templates_book import on_book
from onbook.cli.templates_output import Column, counted, short_hash, short_time
from onbook.cli.terminal import visible_line
from onbook.domain.template_lifecycle import WAS_LIVE, slot_of
from onbook.domain.templates import sampling_mapping
from onbook.flows.await_gateways import LIVE_S
from onbook.flows.read_templates import list_templates as list_page
from onbook.flows.read_templates import show_template, template_history
from onbook.gateway.routes.templates_mapping import (
    event_body,
    gateway_body,
    row_body,
    split_body,
    template_body,
    version_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onbook.domain.template_history import StoredTemplate, TemplateEvent, TemplateVersion
    from onbook.domain.templates import Template
    from onbook.flows.read_templates import TemplateHistory, TemplateShown
    from onbook.flows.template_editing import TemplateEditing
    from onbook.ports.template_library import GatewaySeen, TemplateFilter
    from onbook.settings import Settings

_PAGE: Final = 200
_UNITS: Final = {
    "clip": "CLIP tokens",
    "umt5": "UMT5 tokens",
    "model": "tokens of the model",
    "chars": "characters",
}


def list_templates(settings: "Settings", wanted: "TemplateFilter", *, as_json: bool) -> None:
    """Print the templates that ``wanted`` describes, by name."""

    async def work(editing: "TemplateEditing") -> "list[StoredTemplate]":
        return await all_rows(wanted, editing)

    rows = on_book(settings, work, reads=True, as_json=as_json)
    if as_json:
        output.as_json({"templates": [row_body(row) for row in rows]})
        return
    if not rows:
        output.note("No template is like that; 'onbook templates list' shows them all.")
        return
    output.table(
        (
            Column("NAME"),
            Column("VERSION"),
            Column("STATE"),
            Column("USE CASE", optional=True),
            Column("MODE"),
            Column("TARGET", optional=True),
            Column("MODEL TYPE", optional=True),
            Column("UPDATED (UTC)", optional=True),
        ),
        [
            (
                row.template_name,
                str(row.version),
                "active" if row.is_active else "inactive",
                row.use_case,
                row.content_mode,
                row.target or "universal",
                row.model_type,
                short_time(row.updated_at),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.problem is not None:
            output.note(f"{row.template_name}: version {row.version} is not served: {row.problem}")


async def all_rows(wanted: "TemplateFilter", editing: "TemplateEditing") -> "list[StoredTemplate]":
    """Return every template that ``wanted`` describes, by name."""
    rows: list[StoredTemplate] = []
    while True:
        after = rows[-1].template_name if rows else None
        page = await list_page(wanted, after=after, limit=_PAGE, editing=editing)
        rows += page
        if len(page) < _PAGE:
            return rows


def show(settings: "Settings", name: str, version: int | None, *, as_json: bool) -> None:
    """Print one version of a template, the live one unless ``version`` says which."""

    async def work(editing: "TemplateEditing") -> "tuple[TemplateShown, int | None]":
        shown = await show_template(name, version, editing=editing)
        return shown, await _stand_in(shown, editing)

    shown, stand_in = on_book(settings, work, name=name, reads=True, as_json=as_json)
    row, found = shown.row, shown.version
    if as_json:
        output.as_json(
            {
                "template_name": name,
                "row": None if row is None else row_body(row),
                "version": version_body(found),
                "content": template_body(found.template),
                "drafts": [version_body(draft) for draft in shown.drafts],
                "split": None if shown.split is None else split_body(shown.split),
            }
        )
        return
    output.facts([*_about(row, found), *_served(shown, stand_in), *_pending(shown)])
    if found.template is not None:
        _print_content(found.template)


def _about(row: "StoredTemplate | None", version: "TemplateVersion") -> "list[tuple[str, str]]":
    state: str = version.state
    if version.state == "live" and row is not None and not row.is_active:
        state = "inactive"
    pairs = [
        ("Template", version.template_name),
        ("Version", f"{version.version}, {state}"),
        ("Author", f"{version.author}, {short_time(version.created_at)} UTC"),
        ("Reason", version.reason or "none given"),
    ]
    if version.base_version is not None:
        pairs.append(("Made from", f"version {version.base_version}"))
    if version.origin_version is not None:
        pairs.append(("Restores", f"version {version.origin_version}"))
    pairs.append(("Content", version.content_sha256 or "not sealed yet"))
    if version.problem is not None:
        pairs.append(("Problem", version.problem))
    template = version.template
    if template is not None:
        target = template.target or "universal"
        pairs += [
            ("Model type", template.model_type),
            ("Use case", f"{template.use_case}, {template.content_mode}, {target}"),
            ("Limit", f"{template.token_limit} {_UNITS[template.token_unit]} for the reader"),
            ("Writes", f"at most {template.max_tokens} of the model's own tokens"),
            ("Sampling", _sampling(template)),
            ("Examples", f"{template.examples_sent} of {len(template.examples)} are sent"),
            ("Tests", counted(len(template.tests), "case")),
        ]
        if template.description:
            pairs.append(("About", template.description))
    return pairs


async def _stand_in(shown: "TemplateShown", editing: "TemplateEditing") -> int | None:
    """Return the version that gateways serve for a live one that breaks a rule, if there is one.

    It is the newest earlier version that was live, keeps the rules and is for the same requests.
    """
    row = shown.row
    if row is None or not row.is_active or row.problem is None:
        return None
    served: set[int] = set()
    after: str | None = None
    while events := await editing.library.events(row.template_name, before=after):
        served |= {event.to_version or 0 for event in events if event.action in WAS_LIVE}
        after = events[-1].event_id
    slot = (row.model_type, row.use_case, row.content_mode, row.target or "")
    for number in sorted(served, reverse=True):
        if number >= row.version:
            continue
        earlier = await editing.library.version(row.template_name, number)
        template = None if earlier is None else earlier.template
        if template is not None and slot_of(template) == slot:
            return number
    return None


def _served(shown: "TemplateShown", stand_in: int | None) -> "Iterator[tuple[str, str]]":
    row = shown.row
    if row is None or not row.is_active or row.problem is None:
        return
    if stand_in is None:
        yield "Served", f"not at all, because version {row.version} breaks a rule"
    else:
        yield "Served", f"version {stand_in}, because version {row.version} breaks a rule"


def _sampling(template: "Template") -> str:
    return ", ".join(
        f"{name} {_shown(value)}" for name, value in sampling_mapping(template.sampling).items()
    )


def _shown(value: object) -> str:
    """Return a value as the files and the API write it: true, not True."""
    return json.dumps(value, ensure_ascii=False)


def _pending(shown: "TemplateShown") -> "Iterator[tuple[str, str]]":
    if shown.drafts:
        numbers = ", ".join(str(draft.version) for draft in shown.drafts)
        yield "Drafts", numbers
    if shown.split is not None:
        split = shown.split
        yield "Split", f"{split.percent} % of the callers get version {split.candidate_version}"


def _print_content(template: "Template") -> None:
    for title, text in (
        ("System prompt", template.system_prompt),
        ("User format", template.user_format),
        ("Negative prompt", template.negative_prompt),
        ("Grammar", template.grammar),
    ):
        if text:
            output.heading(title)
            for line in output.indented(text):
                output.say(line)
    if template.variables:
        output.heading("Variables")
        for variable in template.variables:
            default = "required" if variable.required else f"default {_shown(variable.default)}"
            output.say(visible_line(f"  {variable.name}: {variable.type}, {default}"))


def history(settings: "Settings", name: str, limit: int, *, as_json: bool) -> None:
    """Print the newest versions of a template and the newest events of its life."""

    async def work(editing: "TemplateEditing") -> "TemplateHistory":
        return await template_history(name, limit=limit, editing=editing)

    found = on_book(settings, work, name=name, reads=True, as_json=as_json)
    versions, events = found.versions, found.events
    if as_json:
        output.as_json(
            {
                "template_name": name,
                "versions": [version_body(version) for version in versions],
                "events": [event_body(event) for event in events],
            }
        )
        return
    output.table(
        (
            Column("VERSION"),
            Column("STATE"),
            Column("MADE (UTC)"),
            Column("AUTHOR", wraps=True),
            Column("REASON", wraps=True),
            Column("CONTENT"),
        ),
        [
            (
                str(version.version),
                version.state,
                short_time(version.created_at),
                version.author,
                _reason(version),
                short_hash(version.content_sha256),
            )
            for version in versions
        ],
    )
    output.heading("What happened")
    output.table(
        (
            Column("WHEN (UTC)"),
            Column("WHAT"),
            Column("FROM"),
            Column("TO"),
            Column("WHO", wraps=True),
            Column("REASON", wraps=True),
            Column("GATE", wraps=True),
        ),
        [_event_cells(event) for event in events],
    )
    if limit in (len(versions), len(events)):
        output.note("There may be older ones; --limit shows more.")


def _reason(version: "TemplateVersion") -> str:
    reason = version.reason or "-"
    if version.origin_version is None:
        return reason
    return f"{reason} (restores version {version.origin_version})"


def _event_cells(event: "TemplateEvent") -> tuple[str, ...]:
    return (
        short_time(event.created_at),
        event.action.replace("_", " "),
        "-" if event.from_version is None else str(event.from_version),
        "-" if event.to_version is None else str(event.to_version),
        event.actor,
        event.reason or "-",
        _gate(event),
    )


def _gate(event: "TemplateEvent") -> str:
    if event.gate is None:
        return "-"
    override = event.gate.get("override")
    if override:
        return f"overridden: {override}"
    if not event.gate.get("cases"):
        return "no tests"
    return "passed" if event.gate.get("passed") else "failed"


def gateways(settings: "Settings", *, as_json: bool) -> None:
    """Print the gateways that serve the book, and whether each has its newest state."""

    async def work(editing: "TemplateEditing") -> "tuple[int, Sequence[GatewaySeen]]":
        return await editing.epoch(), await editing.library.gateways()

    epoch, seen = on_book(settings, work, reads=True, as_json=as_json)
    if as_json:
        output.as_json({"epoch": epoch, "gateways": [gateway_body(item) for item in seen]})
        return
    if not seen:
        output.note("No gateway has reported; 'onbook serve' starts one.")
        return
    output.table(
        (
            Column("GATEWAY", wraps=True),
            Column("STATE"),
            Column("EPOCH"),
            Column("SEEN"),
            Column("ACTIVE SET"),
            Column("ID"),
        ),
        [
            (
                item.name,
                _gateway_state(item, epoch),
                f"{item.epoch} of {epoch}",
                f"{item.seen_s_ago:.1f} s ago",
                short_hash(item.active_sha256),
                item.gateway_id,
            )
            for item in seen
        ],
    )


def _gateway_state(gateway: "GatewaySeen", epoch: int) -> str:
    if gateway.seen_s_ago > LIVE_S:
        return "gone"
    return "live" if gateway.epoch >= epoch else "behind"
