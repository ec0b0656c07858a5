"""A book that cannot be used says so at every call."""

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.ports.stores import StoreUnavailable
from onbook.ports.template_library import TemplateFilter
from support_books import AT, NAME, book_on, template

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def test_a_book_that_is_away_makes_every_call_fail(store_engine: AsyncEngine | None) -> None:
    async with book_on(store_engine) as book:
        await book.live("First.")
        await book.draft("Second.", base=1)
        if book.memory is not None:
            book.memory.available = False
        elif store_engine is not None:
            for table in ("prompt_templates", "prompt_template_versions", "template_events"):
                await book.sql(f"ALTER TABLE {table} RENAME TO {table}_away")
            for table in ("template_splits", "gateways", "template_epoch"):
                await book.sql(f"ALTER TABLE {table} RENAME TO {table}_away")
        library, store = book.library, book.store
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: library.list(TemplateFilter()),
            lambda: library.find(NAME),
            lambda: library.versions(NAME),
            lambda: library.version(NAME, 1),
            lambda: library.events(None),
            library.splits,
            library.gateways,
            lambda: book.draft("Third."),
            lambda: library.discard(NAME, 2, author="a", reason="r", at=AT),
            lambda: book.activate(2, 1),
            lambda: book.roll_back(1, 1),
            lambda: library.deactivate(NAME, author="a", reason="r", at=AT),
            lambda: book.start_split(2, 1),
            lambda: library.end_split(NAME, "aborted", author="a", reason="r", at=AT),
            store.epoch,
            lambda: store.changes(None),
            lambda: store.pinned(NAME, 1),
            lambda: store.seed([template(template_name="new", target=None)], at=AT),
            lambda: store.acknowledge("g", name="n", epoch=1, active_sha256="a" * 64),
            lambda: store.forget("g"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()
        await store.changed(0.0)
