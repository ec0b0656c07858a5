"""Templates from files become drafts: all of them are checked before the first one is stored."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from onbook.domain.template_diff import FieldDiff, diff_templates
from onbook.domain.template_history import TemplateVersion
from onbook.domain.template_lifecycle import check_draft
from onbook.domain.templates import Template
from onbook.flows.gate_template import usable
from onbook.flows.manage_templates import draft_template
from onbook.flows.template_editing import TemplateEditing, database, signed

ImportOutcome = Literal["changed", "unchanged", "drafted", "drafted_before"]


class TemplateFromFile(Protocol):
    """A template, and the live version that its file was made from, if the file says so."""

    @property
    def template(self) -> Template:
        """The content."""

    @property
    def base_version(self) -> int | None:
        """The version, 0 for a template that is new; None where the file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateImport:
    """One template beside what the book has of its name, and what came of it.

    ``diff`` is against the live version, ``live_version``, or all of it where there is none.
    ``changed`` is what would be drafted. ``version`` is the one that holds the template now,
    None where there is none.
    """

    template: Template
    base_version: int | None
    live_version: int | None
    diff: Sequence[FieldDiff]
    outcome: ImportOutcome
    version: int | None = None


async def compare_templates(
    found: Sequence[TemplateFromFile], *, editing: TemplateEditing
) -> list[TemplateImport]:
    """Check every template and tell what drafting it would change; nothing is written.

    Raises:
        TemplateInvalid: one of them cannot be stored or served.
        Conflict: one of them was made from another version than the live one.
        DatabaseUnavailable: the book cannot be read.
    """
    return [await _compare(item, editing) for item in found]


async def import_templates(
    found: Sequence[TemplateFromFile], *, author: str, reason: str, editing: TemplateEditing
) -> list[TemplateImport]:
    """Draft every template that differs from what is live and from the draft made last.

    Raises:
        InvalidPayload: the author or the reason is not one line of the right length.
        Others: as ``compare_templates``; nothing was drafted, unless the book changed meanwhile.
    """
    signed(author, reason)
    compared = await compare_templates(found, editing=editing)
    return [
        await _draft(item, author, reason, editing) if item.outcome == "changed" else item
        for item in compared
    ]


async def _compare(item: TemplateFromFile, editing: TemplateEditing) -> TemplateImport:
    template = await usable(item.template, editing)
    name = template.template_name
    with database("compare the templates"):
        row = await editing.library.find(name)
        newest = await editing.library.versions(name, limit=1)
    live = None if row is None else row.template
    compared = TemplateImport(
        template=template,
        base_version=item.base_version,
        live_version=None if row is None else row.version,
        diff=await _diff(live, template),
        outcome="changed",
    )
    if live is not None and not compared.diff:
        return replace(compared, outcome="unchanged", version=compared.live_version)
    draft = _draft_on(newest, compared.live_version)
    if draft is not None and draft.template and not await _diff(draft.template, template):
        return replace(compared, outcome="drafted_before", version=draft.version)
    check_draft(name, live_version=compared.live_version, base_version=item.base_version)
    return compared


async def _diff(old: Template | None, new: Template) -> Sequence[FieldDiff]:
    # Bounded, but a second for the largest texts: not in the loop that serves everybody.
    return await asyncio.to_thread(diff_templates, old, new)


def _draft_on(
    newest: Sequence[TemplateVersion], live_version: int | None
) -> TemplateVersion | None:
    """Return the newest version if it is a draft that can still go live."""
    if newest and newest[0].state == "draft" and newest[0].base_version == live_version:
        return newest[0]
    return None


async def _draft(
    item: TemplateImport, author: str, reason: str, editing: TemplateEditing
) -> TemplateImport:
    made = await draft_template(
        item.template,
        base_version=item.base_version,
        author=author,
        reason=reason,
        editing=editing,
    )
    return replace(item, outcome="drafted", version=made.version)
