"""A data directory as a gateway needs it, with the template of the measurement in it."""

from datetime import UTC, datetime

from benchmarks.workload import BENCHMARK_TEMPLATE
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.bootstrap import prepare_database
from onbook.settings import Settings


async def prepare_data(settings: Settings) -> None:
    """Make the database of ``settings``, with the packaged templates and our own.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    await prepare_database(settings)
    engine = create_engine(settings.database)
    try:
        await SqlTemplateStore(engine).seed([BENCHMARK_TEMPLATE], at=datetime.now(UTC))
    finally:
        await engine.dispose()
