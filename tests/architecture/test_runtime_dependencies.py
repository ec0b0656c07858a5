"""What is installed to run must be enough to run: the tests' own packages hide a missing one."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not part of what runs", name=name)

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
import onbook
for module in pkgutil.walk_packages(onbook.__path__, "onbook."):
    if "migrations.env" not in module.name:
        importlib.import_module(module.name)
from sqlalchemy.ext.asyncio import create_async_engine
create_async_engine("sqlite+aiosqlite://")
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_module_imports_with_the_runtime_packages_alone() -> None:
    lock = (ROOT / "requirements/base.lock").read_text()
    locked = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    blocked = {
        module
        for module, distributions in packages_distributions().items()
        if not any(normal(name) in {*locked, "onbook"} for name in distributions)
    }
    assert {"pytest", "hypothesis", "playwright"} <= blocked
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(sorted(blocked))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
