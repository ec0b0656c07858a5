"""The book, in the database."""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.engine import writer
from onbook.adapters.database.guard import store_errors
from onbook.adapters.database.tables import prompt_templates, template_epoch
from onbook.adapters.template_mapping import template_mapping
from onbook.domain.template_rules import PROMPT_SLOT
from onbook.domain.templates import Template, TemplateInvalid, checked, template_from_mapping
from onbook.ports.stores import StoreUnavailable
from onbook.wire.gbnf import GrammarInvalid, check_grammar

_log = structlog.get_logger(__name__)

_table: Final[Table] = prompt_templates
_FIELDS: Final = (
    "template_name",
    "model_type",
    "use_case",
    "content_mode",
    "target",
    "system_prompt",
    "token_limit",
    "token_unit",
    "max_tokens",
    "user_format",
    "sampling",
    "examples",
    "examples_sent",
    "grammar",
    "variables",
    "negative_prompt",
    "description",
)
_active: Final = select(_table.c.version, *(_table.c[name] for name in _FIELDS)).where(
    _table.c.is_active
)
_epoch: Final = select(template_epoch.c.epoch)


class SqlTemplateStore:
    """``ports.TemplateStore`` on SQLAlchemy Core.

    A row that breaks a rule of the domain (an edit by hand) is left out of ``active`` and
    reported as the log event ``template_row_invalid``; the others are served. The content hash
    is always that of the content found, whatever the row says.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = writer(engine)

    async def epoch(self) -> int:
        """Return a number that grows with every change; triggers count it."""
        with store_errors("tell whether templates changed"):
            async with self._engine.connect() as connection:
                epoch = (await connection.execute(_epoch)).scalar()
        if epoch is None:
            raise StoreUnavailable("The database has lost its template epoch; restore a backup.")
        return int(epoch)

    async def active(self) -> Sequence[Template]:
        """Return every active template that is valid, by name."""
        with store_errors("read the templates"):
            async with self._engine.connect() as connection:
                rows = (await connection.execute(_active)).mappings().all()
        found = [template for row in rows if (template := _template(dict(row))) is not None]
        return sorted(found, key=lambda template: template.template_name)

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:
        """Insert those templates whose name is not there yet; return how many were new.

        Where another template is live for the same key, the operator's choice stands and the
        new one is inserted inactive.
        """
        with store_errors("store templates"):
            async with self._engine.connect() as connection:
                known = set((await connection.execute(select(_table.c.template_name))).scalars())
            if all(template.template_name in known for template in templates):
                # Nothing to write, so nobody else's write lock is worth waiting for.
                return 0
            async with self._writer.begin() as connection:
                there = (
                    await connection.execute(
                        select(
                            _table.c.template_name,
                            _table.c.model_type,
                            _table.c.use_case,
                            _table.c.content_mode,
                            _table.c.target,
                            _table.c.is_active,
                        )
                    )
                ).all()
                names = {row.template_name for row in there}
                taken = {
                    (row.model_type, row.use_case, row.content_mode, row.target or "")
                    for row in there
                    if row.is_active
                }
                rows = []
                for template in templates:
                    if template.template_name in names:
                        continue
                    key = template.key
                    slot = (key.model_type, key.use_case, key.content_mode, key.target or "")
                    rows.append(_row(template, is_active=slot not in taken, at=at))
                    names.add(template.template_name)
                    taken.add(slot)
                if rows:
                    await connection.execute(insert(_table), rows)
        return len(rows)


def _row(template: Template, *, is_active: bool, at: datetime) -> dict[str, object]:
    return {
        **template_mapping(template),
        "id": str(uuid.uuid4()),
        "version": template.version,
        "is_active": is_active,
        "updated_by": "seed",
        "change_reason": "packaged template",
        "created_at": at,
        "updated_at": at,
        "content_sha256": checked(template).content_sha256,
    }


def _template(row: Mapping[str, object]) -> Template | None:
    version = row["version"]
    name = row["template_name"]
    if not isinstance(version, int) or version < 1:
        _log.warning("template_row_invalid", template_name=_shown(name), fields=["version"])
        return None
    try:
        data = {field: row[field] for field in _FIELDS}
        # Bytes that were not UTF-8 came through as lone surrogates; they could not be sent on.
        json.dumps(data, ensure_ascii=False).encode()
        return _usable(template_from_mapping(data, version=version))
    except GrammarInvalid:
        _log.warning("template_row_invalid", template_name=_shown(name), fields=["grammar"])
    except TemplateInvalid as error:
        fields = error.details.get("fields") if error.details else None
        _log.warning("template_row_invalid", template_name=_shown(name), fields=fields)
    except (UnicodeEncodeError, ValueError, TypeError, RecursionError) as error:
        _log.warning("template_row_invalid", template_name=_shown(name), error=type(error).__name__)
    return None


def _usable(template: Template) -> Template:
    """Return ``template`` once its grammar parses; else every request would lose the model."""
    if template.grammar is not None:
        # A prompt can only fill a literal, so without one the grammar has the same shape.
        check_grammar(template.grammar.replace(PROMPT_SLOT, ""))
    return template


def _shown(name: object) -> str:
    return str(name).encode("utf-8", "replace").decode()[:200]
