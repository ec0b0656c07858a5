"""What every way of changing the book shares: its parts, who and why, and what is live."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.errors import Conflict, DatabaseUnavailable, InvalidPayload, TemplateNotFound
from onbook.domain.template_history import StoredTemplate
from onbook.domain.template_lifecycle import LIST_TEMPLATES, LIST_VERSIONS
from onbook.domain.templates import Template, TemplateInvalid
from onbook.flows.evaluate_template import TemplateEvaluator
from onbook.ports.clock import Clock
from onbook.ports.stores import StoreUnavailable
from onbook.ports.template_library import TemplateLibrary
from onbook.ports.tokenizing import TokenCounters

_MAX_REASON_CHARS: Final = 500
_MAX_AUTHOR_CHARS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateEditing:
    """What editing works with.

    ``epoch`` reads the book's epoch; ``evaluator`` is None where no worker can be asked;
    ``context_size`` tells the worker's context in tokens, None where it is not known;
    ``ceiling`` is the most that tests may be run in and show, sfw unless somebody allows more.
    """

    library: TemplateLibrary
    epoch: Callable[[], Awaitable[int]]
    counters: TokenCounters
    clock: Clock
    evaluator: TemplateEvaluator | None = None
    context_size: Callable[[], int | None] = lambda: None
    ceiling: ContentMode = "sfw"


@contextmanager
def database(task: str) -> Iterator[None]:
    """Turn a store that cannot be used into the error that callers are told."""
    try:
        yield
    except StoreUnavailable as error:
        raise DatabaseUnavailable(f"The database could not be used to {task}.") from error


def signed(author: str, reason: str) -> dict[str, str]:
    """Return who and why, as the library takes them.

    Raises:
        InvalidPayload: one of them is not one line of printable characters.
    """
    return {
        "author": _line("author", author, _MAX_AUTHOR_CHARS),
        "reason": _line("reason", reason, _MAX_REASON_CHARS),
    }


def override_reason(given: str | None) -> str | None:
    """Return why the tests are not run, trimmed; None, to run them, stays None.

    Raises:
        InvalidPayload: it is not one line of printable characters.
    """
    return None if given is None else _line("override_reason", given, _MAX_REASON_CHARS)


def _line(field: str, text: str, most: int) -> str:
    """Return ``text`` trimmed; it must be one line of 1 to ``most`` printable characters."""
    trimmed = text.strip()
    if not 1 <= len(trimmed) <= most or not trimmed.isprintable():
        raise InvalidPayload(
            f"The {field.replace('_', ' ')} must be one line of 1 to {most} printable characters.",
            details={"fields": [field]},
        )
    return trimmed


async def live_row(
    template_name: str, expected: int | None, library: TemplateLibrary
) -> StoredTemplate | None:
    """Return the template's row, once it holds the ``expected`` version (0: there is no row).

    Raises:
        Conflict: another version is live than the editor knows of.
    """
    row = await library.find(template_name)
    live = row.version if row is not None else 0
    if expected not in (None, live):
        raise Conflict(
            f"{template_name} has no live version."
            if row is None
            else f"Version {live} of {template_name} is live, not {expected or 'none'}.",
            details={"live_version": live or None, "expected_version": expected or None},
        )
    return row


async def content_of(template_name: str, version: int, library: TemplateLibrary) -> Template:
    """Return the content of one version.

    Raises:
        TemplateNotFound: there is no such version.
        TemplateInvalid: what is stored breaks a rule.
    """
    found = await library.version(template_name, version)
    if found is None:
        raise not_found(template_name, version)
    if found.template is None:
        raise TemplateInvalid(
            f"Version {version} of {template_name} breaks a rule: {found.problem or 'unknown'}",
            details={"template_name": template_name, "version": version, "fields": []},
        )
    return found.template


def not_found(template_name: str, version: int | None) -> TemplateNotFound:
    """Return the error for a template (``version`` None) or a version that does not exist."""
    field = "template_name" if version is None else "template_version"
    return TemplateNotFound(
        "There is no template of this name."
        if version is None
        else f"There is no version {version} of this template.",
        details={"fields": [field], "template_name": template_name, "template_version": version},
        suggested_action=LIST_TEMPLATES if version is None else LIST_VERSIONS,
    )
