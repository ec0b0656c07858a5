"""Templates by name and by key: selection in constant time, changes in the size of the change."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from onbook.domain.content_mode.decision import ContentMode
from onbook.domain.templates import Template, TemplateKey, UseCase

# Plain tuples: they are hashed and compared several times faster than a dataclass.
_Key = tuple[str, UseCase, ContentMode, str | None]
_Place = tuple[UseCase, ContentMode, str | None]
_DIGEST_MODULUS: Final = 2**256


class TemplateIndex:
    """The active templates. Where several serve one place, the first by name does.

    By name, so that which of several model types serves a target does not depend on the order
    of rows.

    Args:
        templates: What is served.
        model_types: Those that are known even where no template has them.
        targets: Likewise.
    """

    def __init__(
        self,
        templates: Iterable[Template] = (),
        *,
        model_types: Iterable[str] = (),
        targets: Iterable[str] = (),
    ) -> None:
        self._by_name: dict[str, Template] = {}
        self._by_key: dict[_Key, Template] = {}
        self._by_place: dict[_Place, Template] = {}
        self._names_of_key: dict[_Key, list[str]] = {}
        self._names_of_place: dict[_Place, list[str]] = {}
        self._model_types = dict.fromkeys(model_types, 1)
        self._targets = dict.fromkeys(targets, 1)
        self._sum = 0
        there = {template.template_name: template for template in templates}
        # In order of names, so that every insertion is one at the end.
        for name in sorted(there):
            self._add(there[name])

    @property
    def by_name(self) -> Mapping[str, Template]:
        """The templates by name, to be looked at only."""
        return MappingProxyType(self._by_name)

    @property
    def model_types(self) -> AbstractSet[str]:
        """The model types that occur: a view, not a copy, as each request asks for it."""
        return self._model_types.keys()

    @property
    def targets(self) -> AbstractSet[str]:
        """The targets that occur, likewise."""
        return self._targets.keys()

    @property
    def content_sum(self) -> int:
        """The sum, modulo 2**256, of the SHA-256 of each name, version and content hash.

        A sum, so that one edit among many thousands does not hash them all again.
        """
        return self._sum

    def __len__(self) -> int:
        return len(self._by_name)

    def templates(self) -> Sequence[Template]:
        """Return the templates by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def get(self, name: str) -> Template | None:
        """Return the template of this name, or None."""
        return self._by_name.get(name)

    def find(self, key: TemplateKey) -> Template | None:
        """Return the template for ``key``.

        Order: exact, the target's of another model type, universal, universal of another one.
        """
        model_type, use_case, mode = key.model_type, key.use_case, key.content_mode
        return (
            self._by_key.get((model_type, use_case, mode, key.target))
            or self._by_place.get((use_case, mode, key.target))
            or self._by_key.get((model_type, use_case, mode, None))
            or self._by_place.get((use_case, mode, None))
        )

    def apply(self, active: Iterable[Template], gone: Iterable[str]) -> None:
        """Take over what changed: ``active`` templates are served now, ``gone`` names no more."""
        for name in gone:
            self._remove(name)
        for template in active:
            self._remove(template.template_name)
            self._add(template)

    def _add(self, template: Template) -> None:
        name = template.template_name
        self._by_name[name] = template
        key, place = _key(template), _place(template)
        names = self._names_of_key.setdefault(key, [])
        insort(names, name)
        self._by_key[key] = self._by_name[names[0]]
        names = self._names_of_place.setdefault(place, [])
        insort(names, name)
        self._by_place[place] = self._by_name[names[0]]
        self._model_types[template.model_type] = self._model_types.get(template.model_type, 0) + 1
        if template.target:
            self._targets[template.target] = self._targets.get(template.target, 0) + 1
        self._sum = (self._sum + _digest(template)) % _DIGEST_MODULUS

    def _remove(self, name: str) -> None:
        template = self._by_name.pop(name, None)
        if template is None:
            return
        key, place = _key(template), _place(template)
        names = self._names_of_key[key]
        del names[bisect_left(names, name)]
        if names:
            self._by_key[key] = self._by_name[names[0]]
        else:
            del self._names_of_key[key], self._by_key[key]
        names = self._names_of_place[place]
        del names[bisect_left(names, name)]
        if names:
            self._by_place[place] = self._by_name[names[0]]
        else:
            del self._names_of_place[place], self._by_place[place]
        _count_less(self._model_types, template.model_type)
        if template.target:
            _count_less(self._targets, template.target)
        self._sum = (self._sum - _digest(template)) % _DIGEST_MODULUS


def _count_less(counts: dict[str, int], value: str) -> None:
    if counts[value] == 1:
        del counts[value]
    else:
        counts[value] -= 1


def _key(template: Template) -> _Key:
    return template.model_type, template.use_case, template.content_mode, template.target


def _place(template: Template) -> _Place:
    return template.use_case, template.content_mode, template.target


def _digest(template: Template) -> int:
    text = f"{template.template_name}\n{template.version}\n{template.content_sha256}"
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest())
