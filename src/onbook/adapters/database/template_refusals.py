"""What it means for a change of the book that the database itself refuses a statement."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError

from onbook.adapters.database.errors import sqlstate
from onbook.domain.errors import Conflict
from onbook.domain.template_lifecycle import refuse_lost_race, refuse_taken_slot

_ACTIVE_KEY: Final = "uq_prompt_templates_active_key"
_UNIQUE: Final = ("23505", sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
# A rule that a trigger holds; its message is a sentence of ours. That of a table's own constraint,
# which has a name on Postgres, is not.
_RULE: Final = ("23514", sqlite3.SQLITE_CONSTRAINT_TRIGGER)
# Postgres gave way to another transaction; nothing was done, and the next try may succeed.
_OVERTAKEN: Final = ("40001", "40P01")


def overtaken(error: DBAPIError) -> bool:
    """Tell whether the same transaction may succeed when it is tried again."""
    return _code(error) in _OVERTAKEN


def check_refused(template_name: str, error: DBAPIError) -> None:
    """Return if ``error`` is an outage, and not the database's refusal of the change.

    Raises:
        Conflict: the database holds a state that does not allow the change.
    """
    code = _code(error)
    told = getattr(error.orig, "__cause__", None)
    constraint = getattr(told, "constraint_name", None)
    if code in _UNIQUE:
        if constraint == _ACTIVE_KEY or _ACTIVE_KEY in str(error.orig):
            refuse_taken_slot(template_name, None)
        refuse_lost_race(template_name)
    if code in _RULE and constraint is None:
        sentence = str(getattr(told, "message", None) or error.orig).strip().rstrip(".")
        raise Conflict(
            f"The database refuses this: {sentence[:300]}.",
            suggested_action="Correct what the sentence names in a new draft.",
            details={"template_name": template_name[:200]},
        )


def _code(error: DBAPIError) -> object:
    cause = error.orig
    if cause is None:
        return None
    return sqlstate(cause) or getattr(cause, "sqlite_errorcode", None)
