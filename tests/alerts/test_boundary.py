"""What the package may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import rlhfd_alerts

ALLOWED = {*sys.stdlib_module_names, "aiohttp", "apprise", "msgspec", "structlog", "rlhfd_alerts"}


def imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "." * node.level)
    return {name.partition(".")[0] for name in names}


def test_nothing_but_the_standard_library_aiohttp_msgspec_and_structlog_is_imported() -> None:
    files = list(Path(rlhfd_alerts.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    assert {file.name: extra for file in files if (extra := imported(file.read_text("utf-8")) - ALLOWED)} == {}


def test_importing_the_data_types_or_the_registry_of_receivers_loads_no_http_client() -> None:
    check = "import sys, rlhfd_alerts, rlhfd_alerts.receivers; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=30).returncode == 0
