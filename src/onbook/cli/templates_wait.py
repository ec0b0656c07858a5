"""Waiting until the gateways serve a change, and saying which do and which do not."""

from typing import TYPE_CHECKING, Final

import typer

from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_output import counted
from onbook.cli.terminal import visible_line
from onbook.domain.errors import DatabaseUnavailable
from onbook.flows.await_gateways import await_gateways
from onbook.gateway.routes.templates_mapping import gateway_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onbook.flows.await_gateways import GatewaysReached
    from onbook.flows.template_editing import TemplateEditing

UNKNOWN: Final = "who serves it cannot be told: the database cannot be reached."


async def reached(
    epoch: int, wait_s: float, editing: "TemplateEditing"
) -> "GatewaysReached | None":
    """Return who serves ``epoch`` after at most ``wait_s`` seconds; None for no wait.

    Raises:
        DatabaseUnavailable: the gateways cannot be listed; the change is made all the same.
    """
    if wait_s <= 0:
        return None
    try:
        return await await_gateways(
            epoch, library=editing.library, clock=editing.clock, timeout_s=wait_s
        )
    except DatabaseUnavailable:
        raise DatabaseUnavailable(f"The change is made, but {UNKNOWN}") from None


def reached_json(found: "GatewaysReached | None") -> dict[str, object] | None:
    """Return who serves a change, for a machine."""
    if found is None:
        return None
    return {
        "complete": found.complete,
        "waited_s": round(found.waited_s, 3),
        "have": [gateway_body(gateway) for gateway in found.have],
        "missing": [gateway_body(gateway) for gateway in found.missing],
    }


def tell_reached(found: "GatewaysReached | None", *, as_json: bool) -> None:
    """Say who serves the change; ends the program with 1 if a live gateway does not yet."""
    if found is None:
        return
    tell_names(
        [gateway.name for gateway in found.have],
        [gateway.name for gateway in found.missing],
        waited_s=found.waited_s,
        as_json=as_json,
    )


def tell_names(
    have: "Sequence[str]", missing: "Sequence[str]", *, waited_s: float | None, as_json: bool
) -> None:
    """Say which gateways serve the change; ends the program with 1 if one does not yet."""
    after = "" if waited_s is None else f" after {waited_s:.1f} s"
    if missing:
        if as_json:
            raise typer.Exit(1)
        served = f"{', '.join(have)} did; " if have else ""
        fail(
            visible_line(
                f"{counted(len(missing), 'live gateway')} did not acknowledge the change{after}: "
                f"{', '.join(missing)}; {served}'onbook templates gateways' shows their state."
            )
        )
    if as_json:
        return
    if have:
        output.say(visible_line(f"Served by {', '.join(have)}{after}."))
    else:
        output.say("No gateway is running, so there is none to wait for.")
