"""What stands between a draft and its going live: the rules, the limits, and its own tests."""

import asyncio

from onbook.domain.errors import GateFailed, WorkerUnavailable
from onbook.domain.feasibility import infeasible
from onbook.domain.template_rules import PROMPT_SLOT
from onbook.domain.templates import Template, TemplateInvalid, checked
from onbook.domain.token_counting import TokenCounter
from onbook.flows.evaluate_template import GateResult, evaluate_template
from onbook.flows.template_editing import TemplateEditing, content_of, database, not_found
from onbook.ports.tokenizing import TokenCounters
from onbook.wire.gbnf import GrammarInvalid, check_grammar
from onbook.wire.gbnf_shortest import shortest_sentence


async def try_template(
    template_name: str, version: int | None = None, *, editing: TemplateEditing
) -> GateResult:
    """Run the tests of a version (None: the newest one) and change nothing.

    Raises:
        TemplateNotFound: there is no such version.
        TemplateInvalid: it breaks a rule or cannot be served on this worker.
        ContentModeNotAllowed: it has tests, and its mode is above the ceiling of ``editing``.
        WorkerUnavailable, WorkerTimeout, PurityViolation: the tests could not be run.
        DatabaseUnavailable: the version cannot be read.
    """
    with database("read the template"):
        if version is None:
            newest = await editing.library.versions(template_name, limit=1)
            if not newest:
                raise not_found(template_name, None)
            version = newest[0].version
        template = await content_of(template_name, version, editing.library)
    return await run_gate(template, editing)


async def run_gate(template: Template, editing: TemplateEditing) -> GateResult:
    """Check ``template`` and run its tests; raises as ``try_template``."""
    await usable(template, editing)
    if not template.tests:
        return GateResult()
    if editing.evaluator is None:
        raise WorkerUnavailable(
            "The template has tests, and there is no worker here to run them on.",
            suggested_action="Start a worker, or give a reason to go on without the tests.",
        )
    return await evaluate_template(template, editing.evaluator, ceiling=editing.ceiling)


async def usable(template: Template, editing: TemplateEditing) -> Template:
    """Return ``template`` with its content hash, once it can be stored and served.

    Raises:
        TemplateInvalid: naming the field that stands in the way.
    """
    # Counting the tokens of long texts takes a while: not in the loop that serves everybody.
    return await asyncio.to_thread(
        _usable, template, editing.counters, context_size=editing.context_size()
    )


def _usable(template: Template, counters: TokenCounters, *, context_size: int | None) -> Template:
    template = checked(template)
    reader = counters[template.token_unit]
    for field, why in infeasible(
        template,
        emitted=_emitted(template, reader),
        reader=reader,
        writer=counters["model"],
        context_size=context_size,
    ):
        raise _invalid(template.template_name, field, f"{why}.")
    return template


async def pass_gate(
    template: Template, override: str | None, editing: TemplateEditing
) -> GateResult:
    """Return the gate's result for a template that may go live, or its override.

    The limits are checked in either case: what cannot be served is not a matter of opinion.

    Raises:
        GateFailed: tests failed.
        Others: as ``try_template``.
    """
    if override is not None:
        await usable(template, editing)
        return GateResult(override=override)
    gate = await run_gate(template, editing)
    if not gate.passed:
        failed = sum(not case.passed for case in gate.cases)
        raise GateFailed(
            f"{failed} of the {len(gate.cases)} tests of {template.template_name} do not pass.",
            details={"template_name": template.template_name, **gate.as_json()},
        )
    return gate


def _emitted(template: Template, reader: TokenCounter) -> str:
    if template.grammar is None:
        return ""
    # A prompt only ever fills a literal, so without one the grammar has the same shape.
    grammar = template.grammar.replace(PROMPT_SLOT, "")
    try:
        check_grammar(grammar)
        return shortest_sentence(grammar, reader.count)
    except GrammarInvalid as error:
        raise _invalid(template.template_name, "grammar", f"is not usable: {error}") from None


def _invalid(name: str, field: str, why: str) -> TemplateInvalid:
    return TemplateInvalid(
        f"Template {name}: {field} {why}", details={"template_name": name, "fields": [field]}
    )
