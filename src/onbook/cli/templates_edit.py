"""``onbook templates draft``, ``discard``, ``rollback`` and ``deactivate``."""

from typing import TYPE_CHECKING

from onbook.cli import templates_output as output
from onbook.cli.templates_book import live_template, on_book, told
from onbook.cli.templates_diff import diff_body, print_diff, unchanged
from onbook.cli.templates_options import author_of, reason_of
from onbook.cli.templates_source import read_template_file
from onbook.cli.templates_wait import reached, reached_json, tell_reached
from onbook.cli.terminal import visible_line
from onbook.domain.errors import Conflict
from onbook.flows.manage_templates import (
    deactivate_template,
    discard_draft,
    draft_template,
    roll_back_template,
)
from onbook.flows.read_templates import list_splits
from onbook.gateway.routes.templates_mapping import version_body

if TYPE_CHECKING:
    from pathlib import Path

    from onbook.domain.template_history import TemplateVersion
    from onbook.domain.templates import Template
    from onbook.flows.await_gateways import GatewaysReached
    from onbook.flows.manage_templates import RolledBack
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings


def draft(
    settings: "Settings",
    path: "Path",
    *,
    reason: str | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Store the template in ``path`` as a draft, unless it is what is live already."""
    with told(as_json=as_json):
        read = read_template_file(path)
    template = read.template
    why, who = reason_of(reason), author_of(author)

    async def work(
        editing: "TemplateEditing",
    ) -> "tuple[TemplateVersion | None, int | None, Template | None]":
        number, live = await live_template(template.template_name, editing)
        if live is not None and unchanged(live, template):
            return None, number, live
        made = await draft_template(
            template, base_version=read.base_version, author=who, reason=why, editing=editing
        )
        return made, number, live

    made, number, live = on_book(settings, work, create=True, as_json=as_json)
    if as_json:
        output.as_json(
            {
                "template_name": template.template_name,
                "version": None if made is None else version_body(made),
                "live_version": number,
                "fields": diff_body(live, template),
            }
        )
        return
    name = visible_line(template.template_name)
    if made is None:
        output.say(f"{name} is unchanged: version {number} is live and holds just this.")
        return
    output.say(f"Version {made.version} of {name} is a draft; it is not served yet.")
    if number is not None:
        output.heading(f"From version {number}, which is live, to version {made.version}")
        print_diff(live, template)
    output.note(f"'onbook templates activate {name} {made.version}' makes it live.")


def discard(
    settings: "Settings", name: str, version: int, *, reason: str | None, author: str | None
) -> None:
    """Delete a draft."""
    why, who = reason_of(reason), author_of(author)

    async def work(editing: "TemplateEditing") -> None:
        for split in await list_splits(name, editing=editing):
            if split.ended_at is None and split.candidate_version == version:
                raise Conflict(
                    f"Version {version} of {name} is the candidate of a running split.",
                    suggested_action=f"'onbook templates split abort {name}' ends that; as it was "
                    "served, it then stays in the history.",
                    details={"template_name": name, "version": version},
                )
        await discard_draft(name, version, author=who, reason=why, editing=editing)

    on_book(settings, work, name=name)
    output.say(visible_line(f"Draft {version} of {name} is gone; its events stay."))


def rollback(
    settings: "Settings",
    name: str,
    to_version: int | None,
    *,
    reason: str | None,
    author: str | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Make a version that was live before live again, under a new number."""
    why, who = reason_of(reason), author_of(author)

    async def work(editing: "TemplateEditing") -> "tuple[RolledBack, GatewaysReached | None]":
        done = await roll_back_template(name, to_version, author=who, reason=why, editing=editing)
        if not as_json:
            output.say(
                visible_line(
                    f"Version {done.version.version} of {name} is live; it restores version "
                    f"{done.version.origin_version}, instead of version {done.from_version}."
                )
            )
        return done, await reached(done.epoch, wait_s, editing)

    done, gateways = on_book(settings, work, name=name, as_json=as_json)
    if as_json:
        output.as_json(
            {
                "template_name": name,
                "from_version": done.from_version,
                "version": version_body(done.version),
                "epoch": done.epoch,
                "gateways": reached_json(gateways),
            }
        )
    tell_reached(gateways, as_json=as_json)


def deactivate(
    settings: "Settings",
    name: str,
    *,
    reason: str | None,
    author: str | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Take a template out of service."""
    why, who = reason_of(reason), author_of(author)

    async def work(editing: "TemplateEditing") -> "tuple[int, GatewaysReached | None]":
        epoch = await deactivate_template(name, author=who, reason=why, editing=editing)
        if not as_json:
            output.say(visible_line(f"{name} is out of service; its versions stay."))
        return epoch, await reached(epoch, wait_s, editing)

    epoch, gateways = on_book(settings, work, name=name, as_json=as_json)
    if as_json:
        output.as_json({"template_name": name, "epoch": epoch, "gateways": reached_json(gateways)})
    tell_reached(gateways, as_json=as_json)
