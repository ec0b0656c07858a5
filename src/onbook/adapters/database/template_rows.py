"""The rows of the book as values of the domain, and the other way round."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    and_,
    exists,
    select,
)

from onbook.adapters.database.tables import (
    prompt_template_versions,
    prompt_templates,
    template_events,
    template_splits,
)
from onbook.domain.template_history import (
    EventAction,
    SplitOutcome,
    StoredTemplate,
    TemplateEvent,
    TemplateSplit,
    TemplateVersion,
)
from onbook.domain.template_lifecycle import EVER_LIVE, WAS_LIVE, version_state
from onbook.domain.template_rules import PROMPT_SLOT
from onbook.domain.templates import Template, TemplateInvalid, template_from_mapping
from onbook.wire.gbnf import GrammarInvalid, check_syntax

if TYPE_CHECKING:
    from datetime import datetime

# What a version consists of; a change to one of these columns makes a new version.
RECORDED: Final = (
    "model_type",
    "use_case",
    "content_mode",
    "target",
    "system_prompt",
    "user_format",
    "token_limit",
    "token_unit",
    "max_tokens",
    "sampling",
    "examples",
    "examples_sent",
    "grammar",
    "variables",
    "negative_prompt",
    "description",
    "tests",
)
# Postgres keeps versions in 32 bits.
MAX_VERSION: Final = 2**31 - 1

rows: Final = prompt_templates
versions: Final = prompt_template_versions
events: Final = template_events
splits: Final = template_splits

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why stored content cannot be served: the sentence, and the fields at fault if known."""

    sentence: str
    fields: tuple[str, ...] = ()


def storable(text: str) -> bool:
    """Tell whether a database can hold ``text``; what it cannot hold, it does not have either."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def content_columns(table: FromClause) -> tuple[ColumnElement[object], ...]:
    """Return the columns that ``parsed`` needs, of the templates or of their versions."""
    return tuple(table.c[name] for name in ("template_name", "version", *RECORDED))


def ever_live_versions(template_name: str) -> Select[Any]:
    """Return the query for the versions of a template that were ever served to anybody."""
    return select(events.c.to_version).where(
        events.c.template_name == template_name,
        events.c.to_version.is_not(None),
        events.c.action.in_(EVER_LIVE),
    )


def earlier_versions(row: Row) -> Select[*tuple[Any, ...]]:
    """Return the query for what may stand in for a broken live row, newest first.

    Only a version for the row's own key: the index that keeps a key to one active template knows
    the row alone, and what stands in must not take another template's place.
    """
    was_live = select(events.c.to_version).where(
        events.c.template_name == row["template_name"],
        events.c.to_version.is_not(None),
        events.c.action.in_(WAS_LIVE),
    )
    target = row["target"]
    same_target = versions.c.target == target if target else _no_target(versions.c.target)
    return (
        select(*content_columns(versions))
        .where(
            versions.c.template_name == row["template_name"],
            versions.c.version < row["version"],
            versions.c.version.in_(was_live),
            versions.c.model_type == row["model_type"],
            versions.c.use_case == row["use_case"],
            versions.c.content_mode == row["content_mode"],
            same_target,
        )
        .order_by(versions.c.version.desc())
    )


def _no_target(column: ColumnElement[str]) -> ColumnElement[bool]:
    return column.is_(None) | (column == "")


def running_splits() -> Select[*tuple[Any, ...]]:
    """Return the query for the splits that are served, each with its candidate's content.

    An edit by raw SQL can take the live row away from its candidate's key; callers of one content
    mode would then get the other, so that split is not served.
    """
    same_key = and_(
        rows.c.template_name == splits.c.template_name,
        rows.c.is_active,
        rows.c.model_type == versions.c.model_type,
        rows.c.use_case == versions.c.use_case,
        rows.c.content_mode == versions.c.content_mode,
        (rows.c.target == versions.c.target)
        | (_no_target(rows.c.target) & _no_target(versions.c.target)),
    )
    return (
        select(
            *content_columns(versions),
            *(column.label(f"split_{column.name}") for column in splits.c),
        )
        .select_from(splits)
        # Outer, so that SQLite begins with the few splits and not with every version.
        .outerjoin(
            versions,
            (versions.c.template_name == splits.c.template_name)
            & (versions.c.version == splits.c.candidate_version),
        )
        .where(splits.c.ended_at.is_(None), exists().where(same_key))
        .order_by(splits.c.template_name)
    )


@lru_cache(maxsize=1024)
def _parses(grammar: str) -> bool:
    """Tell whether ``grammar`` parses; once for each, since long ones take milliseconds."""
    try:
        # A prompt can only fill a literal, so without one the grammar has the same shape.
        check_syntax(grammar.replace(PROMPT_SLOT, ""))
    except GrammarInvalid:
        return False
    return True


def parsed(row: Row) -> Template | Problem:
    """Return the template that ``row`` holds, or why it cannot be served."""
    version = row["version"]
    if not isinstance(version, int) or not 1 <= version <= MAX_VERSION:
        return Problem("The version is no number from 1.", ("version",))
    try:
        data = {field: row[field] for field in ("template_name", *RECORDED)}
        # Bytes that were not UTF-8 came through as lone surrogates; they could not be sent on.
        json.dumps(data, ensure_ascii=False).encode()
        template = template_from_mapping(data, version=version)
        if template.grammar is not None and not _parses(template.grammar):
            return Problem("The grammar does not parse.", ("grammar",))
    except TemplateInvalid as error:
        named = (error.details or {}).get("fields")
        fields = tuple(str(field) for field in named) if isinstance(named, list) else ()
        return Problem(error.message, fields)
    except (UnicodeEncodeError, ValueError, TypeError, RecursionError) as error:
        return Problem(f"It cannot be read ({type(error).__name__}).")
    return template


def stored_template(row: Row) -> StoredTemplate:
    """Return the row of a template as its editors see it."""
    found = parsed(row)
    return StoredTemplate(
        template_name=_text(row["template_name"]),
        version=_number(row["version"]),
        model_type=_text(row["model_type"]),
        use_case=_text(row["use_case"]),
        content_mode=_text(row["content_mode"]),
        target=_optional_text(row["target"]) or None,
        is_active=bool(row["is_active"]),
        updated_by=_optional_text(row["updated_by"]),
        change_reason=_optional_text(row["change_reason"]),
        created_at=cast("datetime", row["created_at"]),
        updated_at=cast("datetime", row["updated_at"]),
        content_sha256=_digest(found, row),
        template=found if isinstance(found, Template) else None,
        problem=found.sentence if isinstance(found, Problem) else None,
    )


def template_version(row: Row, *, live_version: int | None, ever_live: bool) -> TemplateVersion:
    """Return a version as its readers see it."""
    found = parsed(row)
    number = _number(row["version"])
    return TemplateVersion(
        template_name=_text(row["template_name"]),
        version=number,
        state=version_state(number, live_version=live_version, ever_live=ever_live),
        author=_text(row["author"]),
        reason=_optional_text(row["reason"]),
        created_at=cast("datetime", row["created_at"]),
        content_sha256=_digest(found, row),
        base_version=cast("int | None", row["base_version"]),
        origin_version=cast("int | None", row["origin_version"]),
        template=found if isinstance(found, Template) else None,
        problem=found.sentence if isinstance(found, Problem) else None,
    )


def template_event(row: Row) -> TemplateEvent:
    """Return an entry of the record."""
    gate = row["gate"]
    return TemplateEvent(
        event_id=_text(row["event_id"]),
        created_at=cast("datetime", row["created_at"]),
        template_name=_text(row["template_name"]),
        action=cast("EventAction", row["action"]),
        actor=_text(row["actor"]),
        reason=_optional_text(row["reason"]),
        from_version=cast("int | None", row["from_version"]),
        to_version=cast("int | None", row["to_version"]),
        gate=gate if isinstance(gate, Mapping) else None,
    )


def template_split(row: Row, *, prefix: str = "") -> TemplateSplit:
    """Return a split; its columns start with ``prefix``."""
    return TemplateSplit(
        split_id=_text(row[prefix + "split_id"]),
        template_name=_text(row[prefix + "template_name"]),
        candidate_version=_number(row[prefix + "candidate_version"]),
        percent=_number(row[prefix + "percent"]),
        started_by=_text(row[prefix + "started_by"]),
        reason=_text(row[prefix + "reason"]),
        started_at=cast("datetime", row[prefix + "started_at"]),
        ended_at=cast("datetime | None", row[prefix + "ended_at"]),
        outcome=cast("SplitOutcome | None", row[prefix + "outcome"]),
    )


def _digest(found: Template | Problem, row: Row) -> str | None:
    # What an edit by raw SQL left out is computed; what cannot be read has none that is true.
    return (
        found.content_sha256
        if isinstance(found, Template)
        else _optional_text(row["content_sha256"])
    )


def _text(value: object) -> str:
    """Return stored text; bytes that are not UTF-8 (an edit by hand) as U+FFFD."""
    return str(value).encode("utf-8", "replace").decode()


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
