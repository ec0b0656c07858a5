"""Serving a candidate version to a share of the callers, until it is promoted or aborted."""

from dataclasses import dataclass

from onbook.domain.errors import Conflict, InvalidPayload
from onbook.domain.template_history import SplitOutcome, TemplateSplit
from onbook.flows.evaluate_template import GateResult
from onbook.flows.gate_template import pass_gate
from onbook.flows.template_editing import (
    TemplateEditing,
    content_of,
    database,
    live_row,
    not_found,
    override_reason,
    signed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitChanged:
    """A split that started or ended; ``gate`` is None where none was asked for."""

    split: TemplateSplit
    epoch: int
    gate: GateResult | None = None


async def start_split(
    template_name: str,
    candidate_version: int,
    *,
    percent: int,
    expected_version: int | None = None,
    override: str | None = None,
    author: str,
    reason: str,
    editing: TemplateEditing,
) -> SplitChanged:
    """Serve a draft to ``percent`` (1..99) of the callers, once its tests pass.

    Raises:
        InvalidPayload: ``percent`` is not 1 to 99; else as for ``draft_template``.
        Others: as ``activate_template``.
    """
    who = signed(author, reason)
    override = override_reason(override)
    if not 1 <= percent <= 99:
        raise InvalidPayload("percent must be from 1 to 99.", details={"fields": ["percent"]})
    library = editing.library
    with database("start the split"):
        row = await live_row(template_name, expected_version, library)
        if row is None and not await library.versions(template_name, limit=1):
            raise not_found(template_name, None)
        if row is None or not row.is_active:
            raise Conflict("A template that is not live has no callers to split.")
        template = await content_of(template_name, candidate_version, library)
    gate = await pass_gate(template, override, editing)
    with database("start the split"):
        split = await library.start_split(
            template_name,
            candidate_version,
            percent=percent,
            expected_version=row.version,
            at=editing.clock.now(),
            gate=gate.as_json(),
            **who,
        )
        epoch = await editing.epoch()
    return SplitChanged(split=split, epoch=epoch, gate=gate)


async def promote_split(
    template_name: str, *, author: str, reason: str, editing: TemplateEditing
) -> SplitChanged:
    """End the running split: its candidate becomes the live version.

    Raises:
        TemplateNotFound: there is no such template.
        Conflict: no split runs.
        InvalidPayload, DatabaseUnavailable: as for ``draft_template``.
    """
    return await _end_split(template_name, "promoted", author, reason, editing)


async def abort_split(
    template_name: str, *, author: str, reason: str, editing: TemplateEditing
) -> SplitChanged:
    """End the running split: everybody gets the live version again. Raises as ``promote_split``."""
    return await _end_split(template_name, "aborted", author, reason, editing)


async def _end_split(
    template_name: str,
    outcome: SplitOutcome,
    author: str,
    reason: str,
    editing: TemplateEditing,
) -> SplitChanged:
    who = signed(author, reason)
    with database("end the split"):
        split = await editing.library.end_split(
            template_name, outcome, at=editing.clock.now(), **who
        )
        epoch = await editing.epoch()
    return SplitChanged(split=split, epoch=epoch)
