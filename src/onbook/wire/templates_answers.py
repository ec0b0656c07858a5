"""The admin API of the book: what ``/v1/templates`` answers. Times are UTC."""

from datetime import datetime
from typing import Literal

import msgspec

from onbook.wire.templates_api import TemplateBody


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer begins with."""

    success: bool = True
    request_id: str


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A template's row in the database. ``problem`` says which rule its content breaks."""

    template_name: str
    version: int
    model_type: str
    use_case: str
    content_mode: str
    target: str | None
    is_active: bool
    updated_by: str | None
    change_reason: str | None
    created_at: datetime
    updated_at: datetime
    content_sha256: str | None
    problem: str | None


class TemplateVersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version, without its content."""

    template_name: str
    version: int
    state: Literal["draft", "live", "retired"]
    author: str
    reason: str | None
    created_at: datetime
    content_sha256: str | None
    base_version: int | None
    origin_version: int | None
    problem: str | None


class TemplateEventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the append-only record."""

    event_id: str
    created_at: datetime
    template_name: str
    action: str
    actor: str
    reason: str | None
    from_version: int | None
    to_version: int | None
    gate: dict[str, object] | None


class TemplateSplitRow(msgspec.Struct, frozen=True, kw_only=True):
    """A share of the callers, in per cent, who get another version."""

    split_id: str
    template_name: str
    candidate_version: int
    percent: int
    started_by: str
    reason: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["promoted", "aborted"] | None


class TemplateListAnswer(Answer, frozen=True, kw_only=True):
    """``next_after`` is the cursor of the next page, null on the last one."""

    templates: list[TemplateRow]
    next_after: str | None


class TemplateAnswer(Answer, frozen=True, kw_only=True):
    """``row`` and ``content`` are null for a template of which there are only drafts."""

    template_name: str
    row: TemplateRow | None
    content: TemplateBody | None
    split: TemplateSplitRow | None
    drafts: list[TemplateVersionRow]


class TemplateHistoryAnswer(Answer, frozen=True, kw_only=True):
    """Newest first; the two cursors page the two lists, null where a list is at its end."""

    template_name: str
    versions: list[TemplateVersionRow]
    events: list[TemplateEventRow]
    next_before: int | None
    next_before_event: str | None


class TemplateVersionAnswer(Answer, frozen=True, kw_only=True):
    """``content`` is null where the stored content breaks a rule."""

    version: TemplateVersionRow
    content: TemplateBody | None


class TemplateEventsAnswer(Answer, frozen=True, kw_only=True):
    """Newest first."""

    events: list[TemplateEventRow]
    next_before: str | None


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway process and what it serves; seconds by the database's clock."""

    gateway_id: str
    name: str
    epoch: int
    active_sha256: str
    seen_s_ago: float
    live: bool


class GatewaysAnswer(Answer, frozen=True, kw_only=True):
    """The gateways that have reported, most recently seen first."""

    gateways: list[GatewayRow]


class GateCaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """How one test ended: sentences on what does not hold, without prompt text."""

    name: str
    passed: bool
    failures: list[str]


class GateBody(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's result. ``override`` is the reason for which the tests were not run."""

    passed: bool
    cases: list[GateCaseBody]
    override: str | None


class TestedCaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A test with what the model wrote, and its length in the template's ``token_unit``."""

    name: str
    passed: bool
    failures: list[str]
    output: str | None
    tokens: int | None
    attempts: int


class TemplateTestAnswer(Answer, frozen=True, kw_only=True):
    """A try-out: what activation would see. Nothing was changed or recorded."""

    template_name: str
    version: int
    passed: bool
    cases: list[TestedCaseBody]


class GatewayReached(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a live gateway serves the change already."""

    name: str
    acknowledged: bool


class TemplateActivatedAnswer(Answer, frozen=True, kw_only=True):
    """``from_version`` is null where nothing was live.

    ``gateways`` is null, here and below, without a wait or where nobody could be asked.
    """

    template_name: str
    from_version: int | None
    to_version: int
    epoch: int
    gate: GateBody
    gateways: list[GatewayReached] | None


class TemplateSplitAnswer(Answer, frozen=True, kw_only=True):
    """A split that was started or ended; ``gate`` is null where no tests are asked for."""

    split: TemplateSplitRow
    epoch: int
    gate: GateBody | None
    gateways: list[GatewayReached] | None


class TemplateRolledBackAnswer(Answer, frozen=True, kw_only=True):
    """``version`` is the new version, which names the one it brings back as its origin."""

    template_name: str
    from_version: int
    version: TemplateVersionRow
    epoch: int
    gateways: list[GatewayReached] | None


class TemplateDeactivatedAnswer(Answer, frozen=True, kw_only=True):
    """The template is out of service from ``epoch`` on."""

    template_name: str
    epoch: int
    gateways: list[GatewayReached] | None


class TemplateDraftedAnswer(Answer, frozen=True, kw_only=True):
    """The new version, not served yet."""

    version: TemplateVersionRow


class TemplateDiscardedAnswer(Answer, frozen=True, kw_only=True):
    """The draft that is gone."""

    template_name: str
    version: int


class DiffWords(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of words that both sides have, or only the old or the new one."""

    op: Literal["equal", "insert", "delete"]
    text: str


class FieldDiffBody(msgspec.Struct, frozen=True, kw_only=True):
    """What changed in one field, such as ``system_prompt`` or ``examples[3].assistant``.

    ``added`` and ``removed``: the other side has no such field. The texts of the ``equal`` and
    ``insert`` words joined are the new value, those of ``equal`` and ``delete`` the old one.
    """

    field: str
    change: Literal["added", "removed", "changed"]
    words: list[DiffWords]


class TemplateDiffAnswer(Answer, frozen=True, kw_only=True):
    """The fields that differ; none for two versions with the same content."""

    template_name: str
    from_version: int
    to_version: int
    fields: list[FieldDiffBody]


ImportOutcome = Literal["changed", "unchanged", "drafted", "drafted_before"]


class ImportedTemplateBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or would do. ``diff`` is against the live version, if there is one.

    ``changed`` is what a dry run would draft. ``version`` is the one that holds the template now.
    """

    template_name: str
    outcome: ImportOutcome
    diff: list[FieldDiffBody]
    warnings: list[str]
    version: int | None


class TemplateImportAnswer(Answer, frozen=True, kw_only=True):
    """One entry per template in the text."""

    dry_run: bool
    templates: list[ImportedTemplateBody]
