"""What the triggers of revision 2026_11_23 enforce, in words and conditions for both databases.

A released revision never changes: a later one brings its own lists.
"""

import re
from dataclasses import dataclass
from typing import Final

# A change to one of these makes a new version.
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
JSON_COLUMNS: Final = ("sampling", "examples", "variables", "tests")
INTEGER_COLUMNS: Final = ("version", "token_limit", "max_tokens", "examples_sent")
TEXT_COLUMNS: Final = (
    "template_name",
    "model_type",
    "use_case",
    "target",
    "system_prompt",
    "user_format",
    "token_unit",
    "grammar",
    "negative_prompt",
    "description",
    "updated_by",
    "change_reason",
)
# A version with one of these in its past was served, or could have been.
LIVE_ACTIONS: Final = "('created', 'activated', 'rolled_back', 'split_started', 'split_promoted')"

# The name of a new template; each database has a condition of its own for it.
NAME_SENTENCE: Final = (
    "template_name must have 1 to 128 letters (A-Z, a-z), digits, dots, hyphens or underscores,"
    " and begin with a letter or a digit"
)

# In a trigger each stands where its name does, in angle brackets.
SENTENCES: Final = {
    "version_down": "the version of a template never goes down",
    "renamed": "the name and the id of a template never change",
    "template_deleted": "deactivate a template instead of deleting it",
    # With the index that would refuse it too, in less clear words.
    "key_taken": (
        "another template is active for this model_type, use_case, content_mode and target"
        " (uq_prompt_templates_active_key); deactivate that one first"
    ),
    "epoch_set": "changed_epoch is kept by the database; leave it out",
    "version_changed": "a version of a template never changes",
    "version_deleted": "a version that was live is never deleted",
    "event_changed": "an event of a template is never changed or deleted",
    "split_deleted": "end a split instead of deleting it",
    "split_changed": "a split that ended never changes",
    "split_frozen": "of a split only percent, ended_at and outcome change",
    "candidate_unknown": "candidate_version must be a version of this template",
    "epoch_lost": "template_epoch is kept by the database; it never goes down or away",
    "split_running": (
        "a split of this template is running (uq_template_splits_running); end that one first"
    ),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """``broken`` is a condition on the new row; NULL keeps the rule."""

    column: str
    broken: str
    sentence: str


# Cheap checks alone; the domain's rules are the full ones.
RULES: Final = (
    Rule("version", "NEW.version < 1", "version must be at least 1"),
    Rule(
        "use_case",
        "NEW.use_case NOT IN ('enhancement', 'chat', 'generation', 'playground')",
        "use_case must be one of enhancement, chat, generation, playground",
    ),
    Rule(
        "token_unit",
        "NEW.token_unit NOT IN ('clip', 'umt5', 'model', 'chars')",
        "token_unit must be one of clip, umt5, model, chars",
    ),
    Rule("token_limit", "NEW.token_limit < 1", "token_limit must be at least 1"),
    Rule(
        "max_tokens",
        "NEW.max_tokens NOT BETWEEN 1 AND 32768",
        "max_tokens must be from 1 to 32768",
    ),
    Rule(
        "system_prompt",
        "length(NEW.system_prompt) > 100000",
        "system_prompt must have at most 100000 characters",
    ),
)

# Postgres keeps versions in 32 bits. What follows a row's version always fits: one more, and the
# numbers that the database gives itself, may be above this.
TOO_HIGH: Final = Rule("version", "NEW.version > 1000000000", "version must be at most 1000000000")


def columns(prefix: str = "") -> str:
    """Return the recorded columns for a list in SQL."""
    return ", ".join(f"{prefix}{name}" for name in RECORDED)


def quoted(sentence: str) -> str:
    """Return ``sentence`` as a literal of SQL."""
    return "'" + sentence.replace("'", "''") + "'"


_PARTS: Final = {
    "live_actions": LIVE_ACTIONS,
    "new": columns("NEW."),
    "old": columns("OLD."),
    "recorded": columns(),
    **{name: quoted(sentence) for name, sentence in SENTENCES.items()},
}


def filled(sql: str, **parts: str) -> str:
    """Return ``sql`` with each ``<name>`` in it replaced by the part or sentence of that name.

    Raises:
        KeyError: there is none.
    """
    known = {**_PARTS, **parts}
    return re.sub("<([a-z_]+)>", lambda place: known[place[1]], sql)
