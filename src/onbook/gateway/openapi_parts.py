"""The pieces that the OpenAPI document is put together from."""

from typing import Final, cast

import msgspec

from onbook.wire.problem import ERROR_CODES

Json = dict[str, object]

REFS: Final = "#/components/schemas/{name}"
SECURITY: Final[list[dict[str, list[str]]]] = [{"accessKey": []}, {"apikey": []}]


def ref(name: str) -> Json:
    """Return a reference to the schema called ``name``."""
    return {"$ref": REFS.format(name=name)}


def any_value(_type: type) -> Json:
    """Return the schema of `object`: such a field holds whatever explains an error or a result."""
    return {"description": "Any JSON value"}


def body(*names: str) -> Json:
    """Return a required JSON body of one of the schemas ``names``."""
    return {"required": True, "content": {"application/json": {"schema": one_of(names)}}}


def one_of(names: tuple[str, ...]) -> Json:
    """Return the schema of anything that fits one of ``names``."""
    return ref(names[0]) if len(names) == 1 else {"anyOf": [ref(name) for name in names]}


def errors(*statuses: int) -> Json:
    """Return the answers for ``statuses``, described from the table of error codes."""
    answers: Json = {}
    for status in statuses:
        codes = [row for row in ERROR_CODES if status in row.statuses]
        answers[str(status)] = {
            "description": "; ".join(f"{row.code}: {row.when}" for row in codes) or "An error",
            "content": {"application/json": {"schema": ref("Problem")}},
        }
    return answers


def query_parameters(query: type[msgspec.Struct]) -> list[Json]:
    """Return the fields of ``query`` as parameters of a query string."""
    _, components = msgspec.json.schema_components((query,), ref_template=REFS)
    fields = cast("dict[str, Json]", components[query.__name__]["properties"])
    return [
        {"name": name, "in": "query", "required": False, "schema": _present(schema)}
        for name, schema in fields.items()
    ]


def _present(schema: Json) -> Json:
    """Leave null out of a schema: a parameter that is not there is left out, not null."""
    kept = {key: value for key, value in schema.items() if value is not None}
    if "anyOf" in kept:
        kinds = cast("list[Json]", kept.pop("anyOf"))
        kept |= next(kind for kind in kinds if kind != {"type": "null"})
    if "enum" in kept:
        kept["enum"] = [item for item in cast("list[object]", kept["enum"]) if item is not None]
    return kept
