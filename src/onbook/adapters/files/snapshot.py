"""The last good set of templates, in one file beside the database."""

import json
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from onbook.adapters.files.durable import write_atomically
from onbook.adapters.template_mapping import template_mapping
from onbook.domain.templates import Template, TemplateInvalid, template_from_mapping

_log = structlog.get_logger(__name__)

_FORMAT: Final = 1

# What reading a whole file of somebody else's making can raise.
_NOT_OURS = (
    TemplateInvalid,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
)


class FileTemplateSnapshots:
    """``ports.TemplateSnapshots`` in one JSON file.

    The first line is the SHA-256 of the rest, so that a torn or edited file is told apart.

    Args:
        path: The file; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, templates: Sequence[Template], *, at: datetime) -> None:
        """Replace the snapshot in one step.

        A disk that refuses is logged as ``snapshot_not_saved`` and the older snapshot stays: the
        templates at hand are good, and serving them must not depend on a second copy.
        """
        document = {
            "format": _FORMAT,
            "saved_at": at.isoformat(),
            "templates": [
                {"version": template.version, **template_mapping(template)}
                for template in templates
            ],
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        try:
            write_atomically(self._path, sha256(body).hexdigest().encode() + b"\n" + body)
        except OSError as error:
            _log.warning("snapshot_not_saved", error=error.strerror)

    def load(self) -> tuple[Sequence[Template], datetime] | None:
        """Return the last set and when it was good, or None if there is none that is whole."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("snapshot_not_read", error=error.strerror)
            return None
        digest, _, body = data.partition(b"\n")
        if digest != sha256(body).hexdigest().encode():
            _log.warning("snapshot_damaged")
            return None
        try:
            return _parsed(body)
        except _NOT_OURS as error:
            # Whole, but not of this version's making.
            _log.warning("snapshot_not_understood", error=type(error).__name__)
            return None


def _parsed(body: bytes) -> tuple[Sequence[Template], datetime]:
    document = json.loads(body)
    if document["format"] != _FORMAT:
        raise ValueError("another format")
    templates = []
    for item in document["templates"]:
        version = item.pop("version")
        templates.append(template_from_mapping(item, version=version))
    return templates, datetime.fromisoformat(document["saved_at"])
