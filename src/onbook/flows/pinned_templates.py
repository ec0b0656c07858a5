"""Versions by number: read once, and kept, as they never change."""

from collections import OrderedDict
from typing import Final

from onbook.domain.errors import DatabaseUnavailable, TemplateNotFound
from onbook.domain.templates import Template
from onbook.ports.stores import StoreUnavailable, TemplateStore

_KEPT: Final = 1000


class PinnedTemplates:
    """The versions that callers named, the least recently used going first."""

    def __init__(self, store: TemplateStore) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, int], Template] = OrderedDict()

    async def get(self, name: str, version: int, *, drafts: bool) -> tuple[Template, bool]:
        """Return a version, and whether it was known here; drafts only where ``drafts`` is set.

        Raises:
            TemplateNotFound: there is none, or it is a draft that the caller may not see.
            DatabaseUnavailable: it is not known here and the database cannot be asked.
        """
        place = (name, version)
        known = self._known.get(place)
        if known is not None:
            self._known.move_to_end(place)
            return known, True
        try:
            found = await self._store.pinned(name, version)
        except StoreUnavailable:
            raise DatabaseUnavailable(
                "The version of the template cannot be read: the database cannot be reached."
            ) from None
        if found is None or not (found.ever_live or drafts):
            raise TemplateNotFound(
                "There is no template of this name and version.",
                details={"fields": ["template_name", "template_version"]},
            )
        if found.ever_live:
            # A draft may go live or be discarded: it is looked up each time.
            self._known[place] = found.template
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found.template, False
