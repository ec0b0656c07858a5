"""Copies of checkpoints that were kept elsewhere, in the forms in which they were printed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from onbook.cli.options import fail
from onbook.flows.audit_checkpoints import KeptCheckpoint
from onbook.wire.audit_checkpoint import decoded_checkpoint
from onbook.wire.strict_json import NotStrictJson, strict_json

# A hundred bytes for each head that ever moved: of a log of many years.
_MAX_BYTES: Final = 512 * 1024 * 1024


def kept_checkpoints(files: Sequence[Path]) -> list[KeptCheckpoint]:
    """Return the checkpoints in ``files``; ends with 2 if one of them is no such file.

    Each is what ``onbook audit checkpoint --json`` prints, one object with a ``body`` or a list
    of them, or lines: of such objects, or of number, body and signature between bars.
    """
    found: list[KeptCheckpoint] = []
    for file in files:
        try:
            with file.open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                fail(f"{file} is larger than any list of checkpoints.", code=2)
            kept = list(_kept(data.decode("utf-8-sig")))
        except OSError as error:
            fail(f"{file} cannot be read: {error.strerror}.", code=2)
        except ValueError:
            kept = []
        if not kept:
            fail(
                f"{file} holds no checkpoints, or something else beside them; 'onbook audit "
                "checkpoint --json' prints one.",
                code=2,
            )
        found += kept
    return found


def _kept(text: str) -> Iterator[KeptCheckpoint]:
    try:
        whole = strict_json(text)
    except NotStrictJson:
        for line in text.splitlines():
            if line.strip():
                yield from _of_line(line)
        return
    yield from _of_value(whole)


def _of_line(line: str) -> Iterator[KeptCheckpoint]:
    number, bar, rest = line.partition("|")
    if bar and number.strip().isdigit():
        body, _, signature = rest.rpartition("|")
        yield _checked(body.strip(), signature.strip())
        return
    yield from _of_value(strict_json(line))


def _of_value(value: object) -> Iterator[KeptCheckpoint]:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise NotStrictJson("It is no checkpoint.")
        found = item.get("checkpoint", item)
        body = found.get("body") if isinstance(found, dict) else None
        if isinstance(body, dict):
            # As a database prints it that makes JSON of the text.
            body = json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        signature = found.get("signature") if isinstance(found, dict) else None
        yield _checked(body, signature)


def _checked(body: object, signature: object) -> KeptCheckpoint:
    statement = decoded_checkpoint(body) if isinstance(body, str) else None
    if statement is None or not isinstance(body, str):
        raise NotStrictJson("It is no checkpoint.")
    return KeptCheckpoint(body, statement, signature if isinstance(signature, str) else None)
