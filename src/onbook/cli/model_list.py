"""``onbook model list``: what is installed, which of it is run, and what can be pulled."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onbook.adapters.model_hub.catalogue import CATALOGUE
from onbook.adapters.model_hub.choice import quantisation_of
from onbook.worker.gguf import ModelFileError, read_gguf
from onbook.worker.model_file import packaged_model
from onbook.worker.models import (
    InstalledModel,
    ModelNotFoundError,
    find_model,
    installed_models,
    read_manifest,
)

if TYPE_CHECKING:
    from onbook.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One installed model. ``architecture`` and ``context`` are None where the file is damaged."""

    name: str
    path: str
    packaged: bool
    chosen: bool
    size_bytes: int
    quantisation: str | None
    architecture: str | None
    context: int | None
    sha256: str | None
    repository: str | None
    revision: str | None
    licence: str | None


def model_rows(settings: "Settings", chosen: Path | None) -> list[ModelRow]:
    """Return a row for each installed model, and one for a chosen file elsewhere. Blocking."""
    models = installed_models(settings.data_dir)
    rows = [_row(model, chosen) for model in models]
    if chosen is not None and not any(row.chosen for row in rows):
        rows.append(_row(InstalledModel(chosen.stem, chosen, read_manifest(chosen)), chosen))
    return rows


def print_models(settings: "Settings", *, as_json: bool) -> None:
    """Print the installed models as a table or as JSON."""
    chosen, problem = _chosen(settings)
    rows = model_rows(settings, chosen)
    if as_json:
        typer.echo(
            json.dumps({"models": [asdict(row) for row in rows], "problem": problem}, indent=2)
        )
        return
    if rows:
        _print_table(
            ("", "NAME", "QUANT", "SIZE", "ARCHITECTURE", "CONTEXT", "SHA-256", "FROM"),
            [_cells(row) for row in rows],
        )
    else:
        typer.echo("There is no model on this machine; 'onbook model pull' installs one.", err=True)
    if problem is not None:
        typer.echo(problem, err=True)


def print_catalogue(*, as_json: bool) -> None:
    """Print the short names that can be pulled, as a table or as JSON."""
    entries = list(CATALOGUE.values())
    if as_json:
        typer.echo(json.dumps({"available": [asdict(entry) for entry in entries]}, indent=2))
        return
    _print_table(
        ("NAME", "QUANT", "SIZE", "LICENCE", "GOOD FOR"),
        [
            (one.name, one.quantisation, _size(one.size_bytes), one.licence, one.good_for)
            for one in entries
        ],
    )


def _chosen(settings: "Settings") -> tuple[Path | None, str | None]:
    """Return the file that a start here would run, and a sentence where it would run none."""
    if settings.worker_url is not None:
        return None, "The settings name a worker elsewhere, so none of these is run here."
    if settings.worker_engine != "llama_cpp":
        return None, f"The engine {settings.worker_engine} runs none of these."
    if settings.model_path is None:
        return packaged_model(), None
    try:
        return find_model(settings.model_path, settings.data_dir), None
    except ModelNotFoundError as error:
        return None, f"ONBOOK_MODEL_PATH is wrong: {error}"


def _row(model: InstalledModel, chosen: Path | None) -> ModelRow:
    manifest = model.manifest
    row = ModelRow(
        name=model.name,
        path=str(model.path),
        packaged=model.packaged,
        chosen=chosen is not None and model.path.samefile(chosen),
        size_bytes=model.path.stat().st_size,
        quantisation=(manifest and manifest.quantisation) or quantisation_of(model.path.name),
        architecture=None,
        context=None,
        sha256=model.sha256,
        repository=manifest.repository if manifest else None,
        revision=manifest.revision if manifest else None,
        licence=manifest.licence if manifest else None,
    )
    try:
        gguf = read_gguf(model.path)
    except ModelFileError:
        return row
    return replace(row, architecture=gguf.architecture, context=gguf.context_length)


def _cells(row: ModelRow) -> tuple[str, ...]:
    return (
        "*" if row.chosen else "",
        row.name,
        row.quantisation or "?",
        _size(row.size_bytes),
        row.architecture or "damaged",
        "?" if row.context is None else str(row.context),
        (row.sha256 or "not stated")[:12],
        "packaged" if row.packaged else row.repository or row.path,
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:,.0f} MiB"


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print one line per row; wide rather than cut, so that names can be copied."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
