"""Reading the book for its editors: what there is, how it came about, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from onbook.domain.errors import TemplateNotFound
from onbook.domain.template_history import (
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.flows.template_editing import TemplateEditing, database, not_found
from onbook.ports.template_library import TemplateFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateShown:
    """One template: its row (None before its first activation), drafts, and running split.

    ``version`` is the version that was asked for, or the live one, or the newest draft.
    """

    template_name: str
    row: StoredTemplate | None
    version: TemplateVersion
    drafts: Sequence[TemplateVersion]
    split: TemplateSplit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateHistory:
    """Versions and events, newest first."""

    template_name: str
    versions: Sequence[TemplateVersion]
    events: Sequence[TemplateEvent]


async def list_templates(
    wanted: TemplateFilter,
    *,
    after: str | None = None,
    limit: int = 200,
    editing: TemplateEditing,
) -> Sequence[StoredTemplate]:
    """Return templates by name, active or not, at most ``limit`` whose name is > ``after``.

    Raises:
        DatabaseUnavailable: the database cannot be read.
    """
    with database("list the templates"):
        return await editing.library.list(wanted, after=after, limit=limit)


async def show_template(
    template_name: str, version: int | None = None, *, editing: TemplateEditing
) -> TemplateShown:
    """Return a template with ``version``, None for the live one or else the newest.

    Raises:
        TemplateNotFound: there is no such template or version.
        DatabaseUnavailable: the database cannot be read.
    """
    library = editing.library
    with database("read the template"):
        row = await library.find(template_name)
        versions = await library.versions(template_name)
        if not versions:
            raise not_found(template_name, None)
        number = version
        if number is None:
            number = row.version if row is not None else versions[0].version
        shown = await _version(template_name, number, versions, editing)
        splits = await library.splits(template_name)
    return TemplateShown(
        template_name=template_name,
        row=row,
        version=shown,
        drafts=[item for item in versions if item.state == "draft"],
        split=next((split for split in splits if split.ended_at is None), None),
    )


async def show_version(
    template_name: str, version: int, *, editing: TemplateEditing
) -> TemplateVersion:
    """Return one version; no other is read.

    Raises:
        TemplateNotFound: there is no such template or version.
        DatabaseUnavailable: the database cannot be read.
    """
    with database("read the version"):
        found = await editing.library.version(template_name, version)
        if found is not None:
            return found
        known = await editing.library.versions(template_name, limit=1)
    raise not_found(template_name, version if known else None)


async def template_history(
    template_name: str,
    *,
    before_version: int | None = None,
    before_event: str | None = None,
    limit: int = 100,
    editing: TemplateEditing,
) -> TemplateHistory:
    """Return versions and events of a template, newest first, at most ``limit`` of each.

    Raises:
        TemplateNotFound: there is no such template.
        DatabaseUnavailable: the database cannot be read.
    """
    library = editing.library
    with database("read the history"):
        versions = await library.versions(template_name, before=before_version, limit=limit)
        events = await library.events(template_name, before=before_event, limit=limit)
    if not versions and not events and before_version is None and before_event is None:
        raise not_found(template_name, None)
    return TemplateHistory(template_name=template_name, versions=versions, events=events)


async def versions_to_compare(
    template_name: str,
    from_version: int | None = None,
    to_version: int | None = None,
    *,
    editing: TemplateEditing,
) -> tuple[TemplateVersion, TemplateVersion]:
    """Return the two versions of a diff, older side first.

    ``to_version`` None is the newest version. ``from_version`` None is what ``to_version`` was
    made from: its ``base_version``, or where that is not known the version before it.

    Raises:
        TemplateNotFound: there is no such template or version, or nothing to compare with.
        DatabaseUnavailable: the database cannot be read.
    """
    with database("read the versions"):
        # Each version comes with its content: no more of them are read than are compared.
        newest = await editing.library.versions(template_name, limit=1)
        if not newest:
            raise not_found(template_name, None)
        last = newest[0].version if to_version is None else to_version
        after = await _version(template_name, last, newest, editing)
        number = after.base_version if from_version is None else from_version
        if number is None:
            earlier = await editing.library.versions(template_name, before=after.version, limit=1)
            if not earlier:
                raise TemplateNotFound(
                    f"Version {after.version} is the first; there is none to compare it with.",
                    details={"fields": ["from"], "template_name": template_name},
                    suggested_action="Name two versions, or draft a second one to compare.",
                )
            return earlier[0], after
        return await _version(template_name, number, newest, editing), after


async def list_splits(
    template_name: str | None = None, *, editing: TemplateEditing
) -> Sequence[TemplateSplit]:
    """Return splits, running ones first, then newest first.

    Raises:
        DatabaseUnavailable: the database cannot be read.
    """
    with database("list the splits"):
        return await editing.library.splits(template_name)


async def _version(
    template_name: str,
    version: int,
    known: Sequence[TemplateVersion],
    editing: TemplateEditing,
) -> TemplateVersion:
    for item in known:
        if item.version == version:
            return item
    found = await editing.library.version(template_name, version)
    if found is None:
        raise not_found(template_name, version)
    return found
