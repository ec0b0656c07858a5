"""What the doctor finds in a database, whichever it is."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from onbook.cli.doctor_checks import Check, ok, warning

if TYPE_CHECKING:
    from onbook.settings import Settings

_REQUIRED: Final = tuple((target, mode) for target in ("sdxl", "wan") for mode in ("sfw", "nsfw"))

# Content mode and target of every active enhancement template. Any model type will do: another
# one's template serves where there is none.
ACTIVE_KEYS_SQL: Final = (
    "SELECT content_mode, target FROM prompt_templates WHERE is_active AND use_case = 'enhancement'"
)


@dataclass(slots=True)
class DatabaseFindings:
    """What the database told; the other checks need the last two."""

    checks: list[Check] = field(default_factory=list)
    stored_keys: int = 0
    newest_row: datetime | None = None


def check_templates(active: Collection[tuple[object, object]], settings: "Settings") -> Check:
    """Look for the templates that the service needs among the keys of those that are active."""
    needed = [
        (target, mode)
        for target, mode in _REQUIRED
        if mode == "sfw" or settings.content_ceiling == "nsfw"
    ]
    missing = [
        f"{target} {mode}"
        for target, mode in needed
        # A template without a target serves all of them.
        if (mode, target) not in active and (mode, None) not in active
    ]
    if missing:
        return warning(
            "templates",
            f"No enhancement template is active for: {', '.join(missing)}; a packaged one serves, "
            "as fallback level 2.",
            "activate a template for each",
        )
    return ok("templates", f"The {len(needed)} enhancement templates that are needed are active.")
