"""The shape of the code: who may import whom, how long modules and functions may be, what every file opens with."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "rlhfd_emitter": ROOT / "emitter" / "rlhfd_emitter",
    "rlhfd_daemon": ROOT / "daemon" / "rlhfd_daemon",
    "rlhfd_alerts": ROOT / "alerts" / "rlhfd_alerts",
}
OBSERVED = {"torch", "ray", "openrlhf", "vllm", "deepspeed", "transformers"}
UNSAFE = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
ALLOWED = {"rlhfd_emitter": {*sys.stdlib_module_names, "zmq", "msgpack", "rlhfd_emitter"} - UNSAFE}
FORBIDDEN = {
    "rlhfd_emitter": OBSERVED | UNSAFE | {"rlhfd_daemon", "rlhfd_alerts"},
    "rlhfd_daemon": OBSERVED | UNSAFE,
    "rlhfd_alerts": OBSERVED | UNSAFE | {"rlhfd_daemon", "rlhfd_emitter", "zmq", "msgpack"},
}
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60

SOURCES = {path: name for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))}
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if "__pycache__" not in path.parts]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """The top-level names of everything imported, also inside functions and by ``import_module`` of a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).partition(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module", "__import__"
        ):  # fmt: skip
            yield from (str(arg.value).partition(".")[0] for arg in node.args if isinstance(arg, ast.Constant))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_is_where_it_should_be_and_its_folder_holds_nothing_else() -> None:
    for name, folder in PACKAGES.items():
        assert (folder / "__init__.py").is_file()
        visible = [entry.name for entry in folder.parent.iterdir() if not entry.name.startswith((".", "__pycache__"))]
        assert visible == [name]
    assert len(SOURCES) > 50


def test_imports_follow_the_arrows() -> None:
    wrong = {}
    for path, package in SOURCES.items():
        found = set(imports(parsed(path)))
        beyond = found - ALLOWED[package] if package in ALLOWED else set()
        if offending := (found & {".", *FORBIDDEN[package]}) | beyond:
            wrong[named(path)] = offending
    assert wrong == {}


def test_modules_and_functions_are_short() -> None:
    lengths = {named(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}
    assert {name: lines for name, lines in function_lengths() if lines > MAX_FUNCTION_LINES} == {}


def function_lengths() -> Iterator[tuple[str, int]]:
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{named(path)}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_file_opens_with_a_line_that_says_what_it_is_for() -> None:
    openings = {named(path): ast.get_docstring(parsed(path)) or "" for path in [*SOURCES, *TESTS]}
    assert len(openings) > 400
    assert [name for name, text in openings.items() if not text.partition("\n")[0].strip()] == []


def test_the_check_itself_sees_every_kind_of_import() -> None:
    source = (
        "import torch.nn\nfrom ray.util import x\nfrom . import y\ndef f():\n import vllm\n"
        "importlib.import_module('openrlhf.cli')\n__import__('pickle')"
    )
    assert set(imports(ast.parse(source))) == {"torch", "ray", ".", "vllm", "openrlhf", "pickle"}
