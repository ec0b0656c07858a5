"""``onbook templates split``: a draft for a share of the callers."""

from typing import TYPE_CHECKING

from onbook.cli import templates_output as output
from onbook.cli.templates_book import on_book
from onbook.cli.templates_candidate import candidate_for_some
from onbook.cli.templates_options import author_of, reason_of
from onbook.cli.templates_output import Column, short_time
from onbook.cli.templates_worker import judging
from onbook.cli.terminal import visible_line
from onbook.flows.read_templates import list_splits, show_template
from onbook.flows.split_traffic import abort_split, promote_split, start_split
from onbook.gateway.routes.templates_mapping import split_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onbook.domain.template_history import SplitOutcome, TemplateSplit
    from onbook.flows.split_traffic import SplitChanged
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings


def start(
    settings: "Settings",
    name: str,
    version: int,
    *,
    percent: int,
    override: str | None,
    reason: str | None,
    author: str | None,
) -> None:
    """Serve draft ``version`` to ``percent`` of the callers."""
    why, who = reason_of(reason), author_of(author)

    async def work(editing: "TemplateEditing") -> "SplitChanged":
        content = await candidate_for_some(name, version, percent, editing)
        asked = [content] if override is None else []
        async with judging(asked, settings, editing) as judged:
            return await start_split(
                name,
                version,
                percent=percent,
                override=override,
                author=who,
                reason=why,
                editing=judged,
            )

    done = on_book(settings, work, name=name)
    if done.gate is not None and done.gate.cases:
        output.say(f"{output.counted(len(done.gate.cases), 'test')} passed.")
    output.say(
        visible_line(
            f"{percent} % of the callers of {name} get version {version}; each stays on its side. "
            f"'onbook templates split promote {name}' or '… abort {name}' ends it."
        )
    )


def status(settings: "Settings", name: str, *, as_json: bool) -> None:
    """Print the splits of a template, the running one first."""

    async def work(editing: "TemplateEditing") -> "Sequence[TemplateSplit]":
        await show_template(name, editing=editing)
        return await list_splits(name, editing=editing)

    splits = on_book(settings, work, name=name, reads=True, as_json=as_json)
    if as_json:
        output.as_json({"template_name": name, "splits": [split_body(item) for item in splits]})
        return
    if not splits:
        output.note(f"No split of {name} has ever run; 'onbook templates split start' starts one.")
        return
    output.table(
        (
            Column("STATE"),
            Column("CANDIDATE"),
            Column("SHARE"),
            Column("STARTED (UTC)"),
            Column("ENDED (UTC)"),
            Column("BY", wraps=True),
            Column("REASON", wraps=True),
        ),
        [
            (
                item.outcome or "running",
                str(item.candidate_version),
                f"{item.percent} %",
                short_time(item.started_at),
                "-" if item.ended_at is None else short_time(item.ended_at),
                item.started_by,
                item.reason,
            )
            for item in splits
        ],
    )


def end(
    settings: "Settings",
    name: str,
    outcome: "SplitOutcome",
    *,
    reason: str | None,
    author: str | None,
) -> None:
    """End the running split of a template."""
    why, who = reason_of(reason), author_of(author)
    finish = promote_split if outcome == "promoted" else abort_split

    async def work(editing: "TemplateEditing") -> "SplitChanged":
        return await finish(name, author=who, reason=why, editing=editing)

    version = on_book(settings, work, name=name).split.candidate_version
    output.say(
        visible_line(
            f"The split of {name} is promoted: version {version} is live for everyone."
            if outcome == "promoted"
            else f"The split of {name} is aborted: version {version} is served to nobody."
        )
    )
