"""What is about to be served, looked at before a model is started for its tests.

The rules are those that the store applies again, under its lock.
"""

from typing import TYPE_CHECKING

from onbook.domain.template_lifecycle import Standing, check_activate, check_start_split

if TYPE_CHECKING:
    from onbook.domain.template_history import StoredTemplate
    from onbook.domain.templates import Template
    from onbook.flows.template_editing import TemplateEditing


async def candidate_for_all(name: str, version: int, editing: "TemplateEditing") -> "Template":
    """Return what is to go live.

    Raises:
        TemplateNotFound, Conflict: it may not.
    """
    row = await editing.library.find(name)
    standing = await _standing(name, version, row, editing)
    return check_activate(standing, version, standing.live_version)


async def candidate_for_some(
    name: str, version: int, percent: int, editing: "TemplateEditing"
) -> "Template":
    """Return what is to be served to ``percent`` of the callers.

    Raises:
        TemplateNotFound, Conflict: it may not.
    """
    row = await editing.library.find(name)
    standing = await _standing(name, version, row, editing)
    live = standing.live_version or 0
    return check_start_split(standing, version, percent=percent, expected_version=live)


async def _standing(
    name: str, version: int, row: "StoredTemplate | None", editing: "TemplateEditing"
) -> Standing:
    splits = await editing.library.splits(name)
    return Standing(
        template_name=name,
        live_version=None if row is None else row.version,
        is_active=row is not None and row.is_active,
        slot=None
        if row is None
        else (row.model_type, row.use_case, row.content_mode, row.target or ""),
        version=await editing.library.version(name, version),
        split=next((split for split in splits if split.ended_at is None), None),
    )
