import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "onbook"
PYTHON = sorted([*SOURCE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MEDIAN_FILE = 150


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_imports_go_down_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml") == 0


@pytest.mark.parametrize("path", PYTHON, ids=ids(PYTHON))
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_the_median_file_is_small() -> None:
    lengths = sorted(
        len(path.read_text().splitlines())
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert lengths[len(lengths) // 2] <= MEDIAN_FILE


def test_nothing_in_the_package_prints() -> None:
    printing = [
        str(path.relative_to(ROOT))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing


def test_no_any_where_nothing_foreign_needs_it() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("domain", "wire", "ports", "flows", "gateway", "worker", "client")
        for path in (SOURCE / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
    ]
    assert not named


def test_every_silenced_check_gives_its_reason() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*PYTHON, *sorted((ROOT / "tests").rglob("*.py"))]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*noqa(:\s*[A-Z0-9, ]+)?\s*$|#\s*type:\s*ignore(\[[\w-]+\])?\s*$", line)
    ]
    assert not silent


def test_lock_files_name_no_index_and_pin_every_hash() -> None:
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    assert locks
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text, lock.name
        for entry in re.split(r"\n(?=\S)", text):
            if not entry.startswith("#"):
                assert "--hash=sha256:" in entry, f"{lock.name}: {entry[:60]}"


def test_everything_declared_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[>=;\[ ]", entry)[0] for entry in project["dependencies"]}
    lock = (ROOT / "requirements/base.lock").read_text()
    assert declared <= set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
