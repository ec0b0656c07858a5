"""Reading the fields of a template from plain data, one value at a time."""

from collections.abc import Iterable, Mapping, Sequence


class FieldInvalid(Exception):
    """A field has the wrong shape. ``key`` is its path, ``reason`` follows it in a sentence."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} {reason}")
        self.key = key
        self.reason = reason


def optional_text(data: Mapping[str, object], key: str, path: str = "") -> str | None:
    """Return the text under ``key``, or None where there is none.

    ``path`` goes before ``key`` in the error.

    Raises:
        FieldInvalid: it is no text, or holds a NUL character.
    """
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldInvalid(path + key, "must be a text")
    if "\x00" in value:
        raise FieldInvalid(path + key, "holds a NUL character")
    return value


def required_text(data: Mapping[str, object], key: str, path: str = "") -> str:
    """Return the text under ``key``, which must be there; it may be empty.

    Raises:
        FieldInvalid: as ``optional_text``, or it is missing.
    """
    value = optional_text(data, key, path)
    if value is None:
        raise FieldInvalid(path + key, "must be a text")
    return value


def filled_text(data: Mapping[str, object], key: str, path: str = "") -> str:
    """Return the text under ``key``, which must hold more than white space.

    Raises:
        FieldInvalid: as ``required_text``, or it is blank.
    """
    value = required_text(data, key, path)
    if not value.strip():
        raise FieldInvalid(path + key, "must not be empty")
    return value


def choice(data: Mapping[str, object], key: str, choices: Sequence[str], path: str = "") -> str:
    """Return the value under ``key``, which must be one of ``choices``.

    Raises:
        FieldInvalid: it is not.
    """
    value = data.get(key)
    if value not in choices:
        raise FieldInvalid(path + key, f"must be one of {', '.join(choices)}")
    return str(value)


def integer(
    data: Mapping[str, object], key: str, default: int | None = None, path: str = ""
) -> int:
    """Return the whole number under ``key``, or ``default`` where there is none.

    Raises:
        FieldInvalid: it is no whole number, or it is missing and ``default`` is None.
    """
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldInvalid(path + key, "must be a whole number")
    return value


def texts(data: Mapping[str, object], key: str, path: str = "") -> tuple[str, ...]:
    """Return the list of texts under ``key``; empty where there is none.

    Raises:
        FieldInvalid: it is no list of texts.
    """
    value = data.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise FieldInvalid(path + key, "must be a list of texts")
    return tuple(value)


def tables(
    data: Mapping[str, object], key: str, known: Iterable[str]
) -> list[tuple[str, Mapping[str, object]]]:
    """Return the tables of the list under ``key``, each with its path, such as ``tests[2].``.

    Raises:
        FieldInvalid: it is no list of tables, or one holds a key that is not in ``known``.
    """
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FieldInvalid(key, "must be a list of tables")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise FieldInvalid(f"{key}[{index}]", "must be a table")
        check_known(item, known, f"{key}[{index}].")
    return [(f"{key}[{index}].", item) for index, item in enumerate(value)]


def check_known(data: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Refuse a key that nothing would read: most often it is a misspelt one.

    Raises:
        FieldInvalid: naming the first such key.
    """
    for key in sorted(set(map(str, data)) - set(known)):
        raise FieldInvalid(f"{path}{key}", f"is not one of {', '.join(known)}")
