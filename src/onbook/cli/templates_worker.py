"""A worker for a template's tests: the one of the settings, or the embedded model."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from onbook.adapters.inference.in_process import InProcessWorker
from onbook.bootstrap import build_evaluator
from onbook.cli import templates_output as output
from onbook.domain.content_mode.policy import is_above
from onbook.domain.errors import ContentModeNotAllowed, WorkerUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from onbook.domain.templates import Template
    from onbook.flows.template_editing import TemplateEditing
    from onbook.settings import Settings
    from onbook.worker.start import Worker


@asynccontextmanager
async def judging(
    templates: "Sequence[Template | None]", settings: "Settings", editing: "TemplateEditing"
) -> "AsyncIterator[TemplateEditing]":
    """Give ``editing`` with what the tests of ``templates`` need; a worker only if there are some.

    Raises:
        ContentModeNotAllowed: tests are above the deployment's ceiling; no model is started.
        WorkerUnavailable: the embedded model cannot be started.
    """
    tested = [template for template in templates if template is not None and template.tests]
    if not tested:
        yield editing
        return
    above = next((item for item in tested if is_above(item.content_mode, editing.ceiling)), None)
    if above is not None:
        raise ContentModeNotAllowed(
            f"{above.template_name} is {above.content_mode}, and its tests may be run in "
            f"{editing.ceiling} only: ONBOOK_CONTENT_CEILING is {editing.ceiling}.",
            details={"template_name": above.template_name, "fields": ["content_mode"]},
            suggested_action=f"Set ONBOOK_CONTENT_CEILING={above.content_mode}, or activate it "
            "without its tests by --override and the reason for that.",
        )
    count = output.counted(sum(len(template.tests) for template in tested), "test")
    of = tested[0].template_name if len(tested) == 1 else f"{len(tested)} templates"
    local: Worker | None = None
    if settings.worker_url is None:
        output.note(f"Starting the embedded model for {count} of {of} …")
        local = await asyncio.to_thread(_local_worker, settings)
    else:
        output.note(f"Running {count} of {of} on the worker …")
    try:
        worker = (
            None if local is None else InProcessWorker(local.app, local.app.info, key=local.app.key)
        )
        evaluator = build_evaluator(settings, worker, editing.counters)
        try:
            # A worker elsewhere shows its key, and with it what its receipts are checked against.
            await evaluator.worker.ready()
            yield replace(editing, evaluator=evaluator)
        finally:
            await evaluator.worker.close()
    finally:
        if local is not None:
            await local.close()


def _local_worker(settings: "Settings") -> "Worker":
    # Imported here: with a worker elsewhere, no engine is needed.
    from onbook.worker.engines.base import EngineStartError  # noqa: PLC0415 - see above
    from onbook.worker.identity import IdentityError  # noqa: PLC0415 - see above
    from onbook.worker.start import build_worker  # noqa: PLC0415 - see above

    try:
        return build_worker(settings, progress=output.note)
    except (EngineStartError, IdentityError) as error:
        raise WorkerUnavailable(
            str(error), suggested_action="'onbook doctor' checks the worker."
        ) from None
