"""Nothing that users can see is undocumented, and nothing is documented that is not there."""

import ast
import csv
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields
from hashlib import sha256
from importlib import resources
from typing import Any, Protocol, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.main import get_command

from docs.pages import DOCS, REFERENCE, ROOT, generator, name_of, names, tables
from onbook.adapters.database.tables import metadata
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.telemetry.metrics import GatewayMetrics
from onbook.cli.main import app
from onbook.domain import errors
from onbook.domain.access import SCOPES
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.domain.templates import Template, TemplateSampling
from onbook.gateway.openapi import openapi_document
from onbook.settings import Settings
from onbook.wire.problem import ERROR_CODES
from support_worker import bench

DEV_SET = ROOT.parent / "shared" / "data" / "contentmode" / "dev.csv"


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


class Parameter(Protocol):
    opts: list[str]


class Command(Protocol):
    """What Typer's copy of click has no public type for."""

    params: list[Parameter]


def commands(command: object, path: str) -> Iterator[tuple[str, Command]]:
    yield path, cast("Command", command)
    for name, sub in (getattr(command, "commands", None) or {}).items():
        yield from commands(sub, f"{path} {name}")


@pytest.mark.parametrize("name", ["settings.md", "cli.md", "errors.md", "metrics.md", "http.md"])
def test_generated_pages_are_current(name: str) -> None:
    assert page(name) == generator().render()[name], "run 'make docs'"


def test_every_setting_is_documented() -> None:
    documented = names(tables(page("settings.md"))["Settings"])
    assert documented == {f"ONBOOK_{name.upper()}" for name in Settings.model_fields}


def test_every_command_and_option_is_documented() -> None:
    found = tables(page("cli.md"))
    text = page("cli.md")
    for path, command in commands(get_command(app), "onbook"):
        assert f"\n## {path}\n" in text
        options = {" ".join(item.opts) for item in command.params} - {"--help"}
        assert names(found.get(path, [])) == options, path


def test_every_error_code_is_documented_with_its_statuses() -> None:
    rows = {row[0].strip("`"): row[1] for row in tables(page("errors.md"))["Errors"]}
    assert rows == {row.code: ", ".join(map(str, row.statuses)) for row in ERROR_CODES}
    for item in vars(errors).values():
        if isinstance(item, type) and issubclass(item, errors.OnbookError):
            assert str(item.status) in rows[item.code].split(", "), item.__name__


async def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    async with bench() as worker:
        shown = generate_latest(registry) + generate_latest(worker.registry)
    live = {
        line.split()[2]
        for line in shown.decode().splitlines()
        if line.startswith("# TYPE") and "_created " not in line
    }
    found = tables(page("metrics.md"))
    documented = names(found["Gateway"]) | names(found["Worker"])
    assert documented == live | {"onbook_templates_age_seconds"}


def test_every_route_scope_and_field_is_documented() -> None:
    found = tables(page("http.md"))
    document = cast("dict[str, Any]", openapi_document())
    routes = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert names(found["HTTP API"]) == routes
    assert names(found["Scopes of a key"]) == set(SCOPES)
    words = tomllib.loads((ROOT / "scripts/reference_words.toml").read_text("utf-8"))
    for schema, meanings in words.items():
        declared = set(document["components"]["schemas"][schema]["properties"])
        assert set(meanings) - {"title"} == declared, schema


def test_every_template_field_is_documented() -> None:
    documented = names(tables(page("templates.md"))["Fields"])
    assert documented == {item.name for item in fields(Template)}
    sampling = page("templates.md").partition("\n`sampling` has ")[2].partition("\n")[0]
    assert all(f"`{item.name}`" in sampling for item in fields(TemplateSampling))


def test_the_twelve_templates_are_listed_as_they_are() -> None:
    rows = tables(page("templates.md"))["The twelve"]
    listed = {tuple(cell.strip("`") for cell in row) for row in rows}
    assert listed == {
        (
            item.template_name,
            item.model_type,
            item.use_case,
            item.content_mode,
            item.target or "universal",
            str(item.token_limit),
            item.token_unit,
        )
        for item in packaged_templates()
    }


def test_every_table_and_column_is_documented() -> None:
    documented = {table: names(rows) for table, rows in tables(page("database.md")).items() if rows}
    assert documented == {
        name: {column.name for column in table.columns} for name, table in metadata.tables.items()
    }


def log_events() -> set[tuple[str, str]]:
    """Return event and level of every log call in the package."""
    found = set()
    for path in (ROOT / "src" / "onbook").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
                and node.func.attr in {"debug", "info", "warning", "error", "exception"}
            ):
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{name_of(path)}:{node.lineno}"
                assert isinstance(event.value, str)
                found.add((event.value, node.func.attr))
    return found


def test_every_log_event_is_documented_with_its_level() -> None:
    documented = {(row[0].strip("`"), row[1]) for row in tables(page("logs.md"))["Events"]}
    assert documented == log_events()


def test_every_field_of_the_canonical_line_is_documented() -> None:
    observer = ast.parse((ROOT / "src/onbook/adapters/telemetry/observer.py").read_text("utf-8"))
    summary = next(
        node
        for node in ast.walk(observer)
        if isinstance(node, ast.FunctionDef) and node.name == "_summary"
    )
    keys = {
        key.value
        for node in ast.walk(summary)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    assert keys
    text = page("logs.md").partition("## Events")[0]
    assert not {key for key in keys if f"`{key}`" not in text}


@pytest.mark.skipif(
    not DEV_SET.exists(), reason="the development set (sensitive) is not beside the repository"
)
def test_the_figures_of_the_content_mode_are_those_of_today() -> None:
    raw = resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_bytes()
    lexicon = parse_lexicon(tomllib.loads(raw.decode()), sha256=sha256(raw).hexdigest())
    detector = LexiconDetector(lexicon)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with DEV_SET.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            counts[row["kind"]][detector.detect(row["text"]).mode] += 1
    text = (DOCS / "explanation" / "content-mode.md").read_text("utf-8")
    assert f"`lexicon`, {lexicon.version}" in text
    shown = {row[0].split("`")[1]: row[1:] for row in tables(text)["Figures"]}
    counted = {
        kind: [
            str(found.total()),
            *(
                f"{found[mode] / found.total():.1%}"[:-1] + " %"
                for mode in ("sfw", "nsfw", "refused")
            ),
        ]
        for kind, found in counts.items()
    }
    assert shown == {kind: row for kind, row in counted.items() if kind in shown}
    words = {kind for kind in counts if kind not in shown}
    assert all(kind.startswith("obf_") and not counts[kind]["sfw"] for kind in words)
    assert f"{sum(found.total() for found in counts.values()):,} texts" in text
