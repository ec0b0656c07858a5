#!/usr/bin/env python3
"""Writes docs/reference/{settings,cli,errors,metrics,http}.md from the code (`make docs`).

The tests render the same pages in memory and fail when a file on disk differs.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args, get_origin

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from typer.main import get_command

from onbook.adapters.clock import SystemClock
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.files.snapshot import FileTemplateSnapshots
from onbook.adapters.memory.templates import MemoryTemplateStore
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.cli.main import app
from onbook.domain import errors
from onbook.domain.access import SCOPES
from onbook.domain.jobs import JOB_TYPES, SHORT_FORMS
from onbook.flows.resolve_template import TemplateBook
from onbook.gateway.openapi import openapi_document
from onbook.gateway.template_operations import OPERATIONS
from onbook.settings import Settings
from onbook.wire.problem import ERROR_CODES
from onbook.worker.metrics import WorkerMetrics

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
_NOTE: Final = (
    "<!-- Written by scripts/reference.py (`make docs`); change the code, not this page. -->"
)
_TYPES: Final = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "Path": "path",
    "SecretStr": "secret",
    "list": "list, comma-separated",
}
_WORDS: Final = Path(__file__).with_name("reference_words.toml")
Json = Mapping[str, object]


# Codes that a worker answers and the gateway does not, with what to do.
_WORKER_ALONE: Final = {
    "RATE_LIMITED": "Only a worker answers it: its queue is full, or it has seen too many signed "
    "requests. Try again after Retry-After seconds.",
}


def render() -> dict[str, str]:
    """Return the content of each generated page by its file name."""
    pages = {
        "settings.md": _settings(),
        "cli.md": _cli(),
        "errors.md": _errors(),
        "metrics.md": _metrics(),
        "http.md": _http(),
    }
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in pages.items()}


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _settings() -> Iterator[str]:
    yield from _page(
        "Settings",
        "Each setting is an environment variable, read once at the start. An option of the "
        "[command line](cli.md) wins over it. A wrong value ends the program with one sentence "
        "that names the variable and never shows the value.",
    )
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(
            (
                f"`ONBOOK_{name.upper()}`",
                _type(field.annotation),
                _default(default),
                field.description or "",
            )
        )
    yield from _table(("Variable", "Type", "Default", "Meaning"), rows)
    yield ""
    yield "A secret can be put in a file that only its owner reads, and exported from there."


def _cli() -> Iterator[str]:
    yield from _page(
        "Command line",
        "`make run` and `make test` install the command as `.venv/bin/onbook`. Without an option, "
        "the [setting](settings.md) of the same name is in force. What goes wrong is one sentence "
        "on standard error; the exit code is 1, and 2 for wrong usage.",
    )
    yield from _command(get_command(app), "onbook")


def _command(command: object, path: str) -> Iterator[str]:
    # Typer ships its own copy of click, which has no public types.
    described = cast("_Command", command)
    yield f"## {path}"
    yield ""
    yield " ".join((described.help or "").split())
    yield ""
    rows = []
    for item in described.params:
        if item.opts == ["--help"]:
            continue
        name = (
            f"`{' '.join(item.opts)}`"
            if item.opts[0].startswith("-")
            else f"`{item.opts[0]}` (argument)"
        )
        meaning = item.help or ""
        if item.envvar:
            meaning += f" Also `{item.envvar}`."
        required = "yes" if item.required else "no"
        kind = _type(item.type_descriptor.annotation)
        if item.multiple:
            kind = "text, repeatable"
        rows.append((name, kind, required, meaning))
    if rows:
        yield from _table(("Option", "Type", "Required", "Meaning"), rows)
        yield ""
    for name, sub in (getattr(described, "commands", None) or {}).items():
        yield from _command(sub, f"{path} {name}")


def _errors() -> Iterator[str]:
    yield from _page(
        "Errors",
        "Every error of every route has the same body, and never holds prompt text.",
    )
    yield "```json"
    yield '{"success": false, "error": "<one sentence>", "error_code": "<CODE>",'
    yield ' "details": {}, "suggested_action": "<one sentence>", "request_id": "<uuid>"}'
    yield "```"
    yield ""
    actions: dict[str, str] = {}
    for item in vars(errors).values():
        if isinstance(item, type) and issubclass(item, errors.OnbookError):
            actions.setdefault(item.code, item.default_action)
    raised = {
        item.code
        for item in vars(errors).values()
        if isinstance(item, type)
        and issubclass(item, errors.OnbookError)
        and item is not errors.OnbookError
    }
    rows = [
        (
            f"`{row.code}`",
            ", ".join(map(str, row.statuses)),
            row.when
            if row.code in raised or row.code in _WORKER_ALONE
            else f"{row.when} Reserved: this version never answers it.",
            actions.get(row.code) or _WORKER_ALONE.get(row.code, ""),
        )
        for row in ERROR_CODES
    ]
    yield from _table(("Code", "Status", "When", "What to do"), rows)
    yield ""
    yield "A worker answers 400 for every `INVALID_PAYLOAD`. With `--url`, `onbook enhance --json`"
    yield "can also print `SERVER_UNREACHABLE`, `SERVER_TIMEOUT` and `SERVER_ANSWER_INVALID`, in"
    yield "the same shape: no answer of Onbook came back."


@dataclass(frozen=True, slots=True)
class _Idle:
    running: int = 0
    waiting: int = 0


def _metrics() -> Iterator[str]:
    yield from _page(
        "Metrics",
        "`GET /metrics` in Prometheus' text format. On loopback it is open; on any other address "
        "it takes a key with the scope `logs:read`. Labels are bounded: nothing that a caller "
        "sends becomes a label.",
    )
    gateway, worker = CollectorRegistry(), CollectorRegistry()
    counted = GatewayMetrics(gateway)
    nowhere = FileTemplateSnapshots(Path("nowhere"))
    counted.watch(TemplateBook(MemoryTemplateStore(), nowhere, packaged_templates(), SystemClock()))
    measured = WorkerMetrics(worker, _Idle())  # type: ignore[arg-type]  # only its counts are read
    for title, registry, owner in (
        ("Gateway", gateway, counted),
        ("Worker", worker, measured),
    ):
        yield f"## {title}"
        yield ""
        labels = {
            getattr(item, "_name", ""): getattr(item, "_labelnames", ())
            for item in vars(owner).values()
        }
        rows = []
        for family in registry.collect():
            if family.name.endswith("_created"):
                continue
            name = family.name + ("_total" if family.type == "counter" else "")
            marks = ", ".join(f"`{label}`" for label in labels.get(family.name, ())) or "none"
            rows.append((f"`{name}`", family.type, marks, family.documentation))
        yield from _table(("Metric", "Type", "Labels", "Meaning"), rows)
        yield ""
    yield "A gateway with an embedded worker shows both tables on one page."


def _http() -> Iterator[str]:
    yield from _page(
        "HTTP API",
        "The machine-readable form of this page is `GET /openapi.json`. Bodies are UTF-8 JSON of "
        "at most 1 MiB. A key goes in `Authorization: Bearer <key>` or in `apikey: <key>`. The "
        "fields of `enhance-prompt` may be written in camelCase or in snake_case.",
    )
    document = openapi_document()
    paths = cast("dict[str, dict[str, Json]]", document["paths"])
    rows = [
        (f"`{method.upper()} {path}`", str(call["summary"]), _statuses(call))
        for path, methods in paths.items()
        for method, call in methods.items()
    ]
    yield from _table(("Route", "What it does", "Answers"), rows)
    yield ""
    yield "The routes from `/chat` on are the worker's. An embedded worker serves them on the"
    yield "gateway's port; a worker of its own also has `GET /health` and `GET /metrics`. `HEAD` is"
    yield "served as `GET`, and `OPTIONS` is answered on every route. `GET /` is the start page."
    yield ""
    yield "## Scopes of a key"
    yield ""
    yield from _table(("Scope", "Allows"), [(f"`{name}`", text) for name, text in SCOPES.items()])
    yield ""
    yield "This version asks for `enhance`, `nsfw`, the three of `templates` and `logs:read`;"
    yield "`admin` holds them all. The others are for functions to come."
    yield ""
    yield from _book(paths)
    yield "## Job types"
    yield ""
    jobs = [
        (f"`{job.name}`", job.target, job.media_format, job.quality) for job in JOB_TYPES.values()
    ]
    yield from _table(("Job type", "Target", "Format", "Quality"), jobs)
    yield ""
    short = " and ".join(f"`{name}`" for name in SHORT_FORMS)
    yield f"The short forms {short} take the quality of the request, `fast` without one."
    yield ""
    components = cast("dict[str, dict[str, Json]]", document["components"])["schemas"]
    for name, words in tomllib.loads(_WORDS.read_text("utf-8")).items():
        schema = components[name]
        yield f"## {words['title']}"
        yield ""
        required = cast("Sequence[str]", schema.get("required", ()))
        fields = cast("dict[str, Json]", schema["properties"])
        table = [
            (
                f"`{field}`",
                _schema(spec),
                "required" if field in required else _default(spec.get("default")),
                words[field],
            )
            for field, spec in fields.items()
        ]
        if name.endswith("Request"):
            yield from _table(("Field", "Type", "Default", "Meaning"), table)
        else:
            yield from _table(("Field", "Type", "Meaning"), [(a, b, d) for a, b, _, d in table])
        yield ""


def _book(paths: Mapping[str, Mapping[str, Json]]) -> Iterator[str]:
    yield "## The book"
    yield ""
    rows = []
    for operation in OPERATIONS:
        call = paths[operation.path][operation.method.lower()]
        parameters = cast("Sequence[Json]", call["parameters"])
        query = [f"`{item['name']}`" for item in parameters if item["in"] == "query"]
        rows.append(
            (f"`{operation.method} {operation.path}`", f"`{operation.scope}`", ", ".join(query))
        )
    yield from _table(("Route", "Scope", "Parameters"), rows)
    yield ""
    yield "Names in paths are percent-encoded. Every change takes a `reason` and records it with"
    yield "its author, `key:<name of the key> (<start of its id>)`; to delete a draft, it is in the"
    yield "body or in the query. Lists are paged: the `next_…` of an answer is the parameter for"
    yield "the next page, null on the last one. `target=` with nothing behind it asks for"
    yield "universal templates. A diff goes from what `to` was made from to the newest version,"
    yield "unless `from` and `to` say otherwise. `format=toml` answers a version as its file. An"
    yield "import checks all templates of the text before it drafts the first. These routes send no"
    yield "CORS headers. How a change travels is in [The book](../explanation/the-book.md)."
    yield ""


def _statuses(call: Json) -> str:
    return ", ".join(cast("dict[str, object]", call["responses"]))


def _schema(spec: Json) -> str:
    """Return a JSON schema in a few words."""
    if "anyOf" in spec:
        return " or ".join(_schema(item) for item in cast("Sequence[Json]", spec["anyOf"]))
    if "$ref" in spec:
        return str(spec["$ref"]).rpartition("/")[2]
    if "enum" in spec:
        return ", ".join(f"`{item}`" for item in cast("Sequence[object]", spec["enum"]))
    kind = {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(
        str(spec.get("type")), str(spec.get("type"))
    )
    if kind == "array":
        items = cast("Json", spec.get("items") or {})
        return f"list of {_schema(items)}" if items else "list"
    low = next((spec[key] for key in ("minimum", "minLength") if key in spec), None)
    high = next((spec[key] for key in ("maximum", "maxLength") if key in spec), None)
    unit = " characters" if kind == "text" else ""
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}{unit}"
    return kind if high is None else f"{kind}, at most {high}{unit}"


def _type(annotation: object) -> str:
    """Return a Python type in the words of a reader."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{item}`" for item in get_args(annotation))
    parts = [part for part in get_args(annotation) if part is not type(None)]
    origin = get_origin(annotation)
    if parts and origin is not list:
        return _type(parts[0])
    named = origin or annotation
    return _TYPES.get(getattr(named, "__name__", ""), str(named))


def _default(value: object) -> str:
    if value is None or isinstance(value, SecretStr):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{','.join(map(str, value))}`" if value else "none"
    return f"`{value}`"


def _page(title: str, intro: str) -> Iterator[str]:
    yield _NOTE
    yield ""
    yield f"# {title}"
    yield ""
    yield intro
    yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


class _Described:
    """What is read of a parameter."""

    annotation: object


class _Parameter:
    """What is read of an option or an argument of Typer's."""

    opts: Sequence[str]
    help: str | None
    envvar: str | None
    required: bool
    multiple: bool
    type_descriptor: _Described


class _Command:
    """What is read of a command of Typer's."""

    help: str | None
    params: Sequence[_Parameter]


if __name__ == "__main__":
    main()
