"""Editing the book: what the admin API and the command line share.

A draft is checked when it is made and again when it goes live; in between stands the gate
(``gate_template``). Every change has an author and a reason. Traffic splits are in
``split_traffic``, reading is in ``read_templates``.
"""

from dataclasses import dataclass
from typing import Final

from onbook.domain.errors import Conflict
from onbook.domain.template_history import StoredTemplate, TemplateVersion
from onbook.domain.templates import Template
from onbook.flows.evaluate_template import GateResult
from onbook.flows.gate_template import pass_gate, usable
from onbook.flows.template_editing import (
    TemplateEditing,
    content_of,
    database,
    live_row,
    not_found,
    override_reason,
    signed,
)
from onbook.ports.template_library import TemplateLibrary

_WENT_LIVE: Final = frozenset({"activated", "rolled_back", "split_promoted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """A version that went live. ``epoch`` is the book's with the change in it.

    ``from_version`` is what was live before, None where nothing was; ``gate`` is the gate's
    result, or its override.
    """

    template_name: str
    version: int
    from_version: int | None
    epoch: int
    gate: GateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """An old version that went live again as ``version``. ``epoch`` as in :class:`Activated`."""

    version: TemplateVersion
    from_version: int
    epoch: int


async def draft_template(
    template: Template,
    *,
    base_version: int | None = None,
    author: str,
    reason: str,
    editing: TemplateEditing,
) -> TemplateVersion:
    """Add ``template`` as a draft, under the next free version number.

    ``base_version`` is the live version that the author started from (0: the template is new);
    None does not look at what is live.

    Raises:
        TemplateInvalid: the template breaks a rule, or its own text makes its limit impossible.
        InvalidPayload: the author or the reason is not one line of the right length.
        Conflict: another version than ``base_version`` is live.
        DatabaseUnavailable: nothing was changed.
    """
    who = signed(author, reason)
    template = await usable(template, editing)
    with database("store the draft"):
        return await editing.library.draft(
            template, base_version=base_version, at=editing.clock.now(), **who
        )


async def discard_draft(
    template_name: str, version: int, *, author: str, reason: str, editing: TemplateEditing
) -> None:
    """Delete a draft; its events stay.

    Raises:
        TemplateNotFound: there is no such version.
        Conflict: it was live.
        InvalidPayload, DatabaseUnavailable: as for ``draft_template``.
    """
    who = signed(author, reason)
    with database("discard the draft"):
        await editing.library.discard(template_name, version, at=editing.clock.now(), **who)


async def activate_template(
    template_name: str,
    version: int | None = None,
    *,
    expected_version: int | None = None,
    override: str | None = None,
    author: str,
    reason: str,
    editing: TemplateEditing,
) -> Activated:
    """Make a draft live, or a template that was deactivated active again, once its tests pass.

    Of two activations at a time one wins, however long the gate takes: what counts is what was
    live when the call began.

    Args:
        template_name: The template.
        version: The version; None for the newest draft, or where there is none for the
            version that was deactivated.
        expected_version: What must be live (0: no row yet); None for what is live now.
        override: Why the tests are not run; recorded with the event. None runs them.
        author: Who does it.
        reason: Why.
        editing: What editing works with.

    Raises:
        TemplateNotFound: there is no such version.
        TemplateInvalid: the version breaks a rule or cannot be served on this worker.
        GateFailed: tests failed; ``details.cases`` says which and why.
        ContentModeNotAllowed: the tests would have to be run above the ceiling of ``editing``.
        WorkerUnavailable, WorkerTimeout, PurityViolation: the tests could not be run.
        Conflict: somebody was faster, the version is live or was, a split runs, or another
            active template has the same key.
        InvalidPayload, DatabaseUnavailable: as for ``draft_template``.
    """
    who = signed(author, reason)
    override = override_reason(override)
    library = editing.library
    with database("activate the template"):
        row = await live_row(template_name, expected_version, library)
        number = version
        if number is None:
            number = await _version_to_activate(template_name, row, library)
        if row is not None and row.is_active and row.version == number:
            raise Conflict(f"Version {number} of {template_name} is live already.")
        template = await content_of(template_name, number, library)
    live = row.version if row is not None else None
    gate = await pass_gate(template, override, editing)
    with database("activate the template"):
        epoch = await library.activate(
            template_name,
            number,
            expected_version=live,
            at=editing.clock.now(),
            gate=gate.as_json(),
            **who,
        )
    return Activated(
        template_name=template_name, version=number, from_version=live, epoch=epoch, gate=gate
    )


async def roll_back_template(
    template_name: str,
    to_version: int | None = None,
    *,
    expected_version: int | None = None,
    author: str,
    reason: str,
    editing: TemplateEditing,
) -> RolledBack:
    """Make an old version live again, as a new version that names it as its origin.

    ``to_version`` None is the version that was live before the one that is live now. There is no
    gate: it was live before, and whoever rolls back is in a hurry.

    Raises:
        TemplateNotFound: there is no such template or version.
        TemplateInvalid: what is stored of the version breaks a rule.
        Conflict: somebody was faster, or the version was never live or is live now.
        InvalidPayload, DatabaseUnavailable: as for ``draft_template``.
    """
    who = signed(author, reason)
    library = editing.library
    with database("roll the template back"):
        row = await live_row(template_name, expected_version, library)
        if row is None:
            raise not_found(template_name, None)
        live = row.version
        target = to_version
        if target is None:
            target = await previous_live_version(template_name, live, library)
        await content_of(template_name, target, library)
        version = await library.roll_back(
            template_name, target, expected_version=live, at=editing.clock.now(), **who
        )
        epoch = await editing.epoch()
    return RolledBack(version=version, from_version=live, epoch=epoch)


async def deactivate_template(
    template_name: str, *, author: str, reason: str, editing: TemplateEditing
) -> int:
    """Take a template out of service; return the epoch of the change.

    Raises:
        TemplateNotFound: there is no such template.
        Conflict: it is not active.
        InvalidPayload, DatabaseUnavailable: as for ``draft_template``.
    """
    who = signed(author, reason)
    with database("deactivate the template"):
        return await editing.library.deactivate(template_name, at=editing.clock.now(), **who)


async def previous_live_version(template_name: str, live: int, library: TemplateLibrary) -> int:
    """Return the version that was live before ``live``: the one to go back to.

    Raises:
        Conflict: there is none.
    """
    before: str | None = None
    while events := await library.events(template_name, before=before):
        for event in events:
            went_live = event.action in _WENT_LIVE and event.to_version == live
            if went_live and event.from_version is not None and event.from_version != live:
                return event.from_version
        before = events[-1].event_id
    retired = [
        item.version
        for item in await library.versions(template_name, before=live)
        if item.state == "retired"
    ]
    if retired:
        return max(retired)
    raise Conflict(
        "There is no version of this template that was live before.",
        suggested_action="Name the version to go back to, or deactivate the template.",
    )


async def _version_to_activate(
    template_name: str, row: StoredTemplate | None, library: TemplateLibrary
) -> int:
    newest = await library.versions(template_name, limit=1)
    if not newest:
        raise not_found(template_name, None)
    if row is None or newest[0].state == "draft":
        return newest[0].version
    return row.version
