"""The book in memory, and its snapshots."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from onbook.domain.templates import Template, checked
from onbook.ports.stores import StoreUnavailable


class MemoryTemplateStore:
    """``ports.TemplateStore`` in memory.

    ``available`` False makes every call fail, as an outage would.
    """

    def __init__(self, templates: Iterable[Template] = ()) -> None:
        self.available = True
        self._epoch = 0
        self._names: set[str] = set()
        self._active: dict[str, Template] = {}
        for template in templates:
            self.put(template)

    async def epoch(self) -> int:
        """Return a number that grows with every change."""
        self._check()
        return self._epoch

    async def active(self) -> Sequence[Template]:
        """Return every active template, by name."""
        self._check()
        return [self._active[name] for name in sorted(self._active)]

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:  # noqa: ARG002 - the port's signature; nothing here shows times
        """Insert those templates whose name is not there yet; return how many were new.

        One whose key is taken by another active template is kept, but not active.
        """
        self._check()
        new = [template for template in templates if template.template_name not in self._names]
        added = 0
        for template in new:
            if template.template_name in self._names:
                continue
            taken = {other.key for other in self._active.values()}
            self._names.add(template.template_name)
            if template.key not in taken:
                self._active[template.template_name] = checked(template)
            self._epoch += 1
            added += 1
        return added

    def put(self, template: Template) -> None:
        """Make ``template`` the active one of its name, as an edit would."""
        self._names.add(template.template_name)
        self._active[template.template_name] = checked(template)
        self._epoch += 1

    def deactivate(self, template_name: str) -> None:
        """Take a template out of service, as an edit would."""
        if self._active.pop(template_name, None) is not None:
            self._epoch += 1

    def _check(self) -> None:
        if not self.available:
            raise StoreUnavailable("The template store is switched off.")


class MemorySnapshots:
    """``ports.TemplateSnapshots`` in memory."""

    def __init__(self) -> None:
        self._saved: tuple[Sequence[Template], datetime] | None = None

    def save(self, templates: Sequence[Template], *, at: datetime) -> None:
        """Keep ``templates``."""
        self._saved = (tuple(templates), at)

    def load(self) -> tuple[Sequence[Template], datetime] | None:
        """Return the last set and when it was good, or None if there is none."""
        return self._saved
