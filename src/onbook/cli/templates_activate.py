"""``onbook templates activate``: the gate, the change, and the wait for the gateways."""

from typing import TYPE_CHECKING, Final

from onbook.cli import templates_output as output
from onbook.cli.options import fail
from onbook.cli.templates_book import on_book, told
from onbook.cli.templates_candidate import candidate_for_all
from onbook.cli.templates_options import author_of, reason_of
from onbook.cli.templates_server import Server
from onbook.cli.templates_wait import UNKNOWN, reached, reached_json, tell_names, tell_reached
from onbook.cli.templates_worker import judging
from onbook.cli.terminal import visible_line
from onbook.flows.manage_templates import activate_template
from onbook.gateway.routes.templates_mapping import gate_body
from onbook.wire.templates_answers import TemplateActivatedAnswer
from onbook.wire.templates_api import TemplateActivateRequest

if TYPE_CHECKING:
    from onbook.flows.await_gateways import GatewaysReached
    from onbook.flows.manage_templates import Activated
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings
    from onbook.wire.templates_answers import GateBody

# A gate asks a model, as often as the template has tests; the server ends it by itself.
GATE_TIMEOUT_S: Final = 1_800.0


def activate(
    settings: "Settings",
    name: str,
    version: int,
    *,
    override: str | None,
    reason: str | None,
    author: str | None,
    wait_s: float,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Make ``version`` live, here or on the server at ``url``."""
    why = reason_of(reason)
    if url:
        if author is not None:
            fail("--author goes without --url; a server records the key's name.", code=2)
        _on_server(
            Server(url, key, timeout_s=GATE_TIMEOUT_S),
            name,
            TemplateActivateRequest(
                version=version, reason=why, override_reason=override, wait_s=wait_s
            ),
            as_json=as_json,
        )
        return
    who = author_of(author)

    async def work(editing: "TemplateEditing") -> "tuple[Activated, GatewaysReached | None]":
        content = await candidate_for_all(name, version, editing)
        asked = [content] if override is None else []
        async with judging(asked, settings, editing) as judged:
            done = await activate_template(
                name, version, override=override, author=who, reason=why, editing=judged
            )
        tell_activated(name, version, done.from_version, gate_body(done.gate), as_json=as_json)
        return done, await reached(done.epoch, wait_s, editing)

    done, gateways = on_book(settings, work, name=name, as_json=as_json)
    if as_json:
        output.as_json(
            {
                "template_name": done.template_name,
                "from_version": done.from_version,
                "to_version": done.version,
                "epoch": done.epoch,
                "gate": gate_body(done.gate),
                "gateways": reached_json(gateways),
            }
        )
    tell_reached(gateways, as_json=as_json)


def tell_activated(
    name: str, version: int, before: int | None, gate: "GateBody", *, as_json: bool
) -> None:
    """Say what is live now and what let it pass."""
    if as_json:
        return
    since = "" if before in (None, version) else f", instead of version {before}"
    output.say(visible_line(f"Version {version} of {name} is live{since}."))
    if gate.override is not None:
        output.say(visible_line(f"Its tests were not run: {gate.override}"))
    elif gate.cases:
        output.say(f"{output.counted(len(gate.cases), 'test')} passed.")


def _on_server(
    server: Server, name: str, request: TemplateActivateRequest, *, as_json: bool
) -> None:
    with told(as_json=as_json):
        answer = server.post(name, "activate", request, TemplateActivatedAnswer)
    if as_json:
        output.as_json(answer)
    tell_activated(name, answer.to_version, answer.from_version, answer.gate, as_json=as_json)
    if request.wait_s <= 0:
        return
    if answer.gateways is None:
        fail(f"the change is made, but {UNKNOWN}")
    tell_names(
        [gateway.name for gateway in answer.gateways if gateway.acknowledged],
        [gateway.name for gateway in answer.gateways if not gateway.acknowledged],
        waited_s=None,
        as_json=as_json,
    )
