"""Finds the hooked functions in the source of the installed packages, without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Parameters = tuple[str, ...]
Functions = Mapping[str, Parameters]
Status = Literal["found", "changed", "moved", "former", "absent", "uninstalled"]

# What hooks read from their calls, by symbol: names of parameters, ``a|b`` for either. ``wrappers.reads`` declares it.
Reads = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Place:
    """Where a hooked ``symbol`` stands in the source at hand.

    ``found``; ``changed``: found without a parameter that the hook reads, named in ``detail``; ``moved``: has its
    former place ``detail``; ``former``: is a former place, and rightly absent; ``absent``: this version has no such
    function; ``uninstalled``: nor the package.
    """

    symbol: str
    status: Status
    detail: str = ""


def places(
    symbols: Sequence[str], former: Mapping[str, str], functions: Functions, packages: set[str], reads: Reads
) -> list[Place]:
    """The place of each of ``symbols`` among ``functions`` (full name to parameters) of the installed ``packages``;
    ``former`` leads from an older place to the one that has its function today."""
    return [_place(symbol, former, functions, packages, reads) for symbol in symbols]


def _place(symbol: str, former: Mapping[str, str], functions: Functions, packages: set[str], reads: Reads) -> Place:
    if symbol.partition(".")[0] not in packages:
        return Place(symbol, "uninstalled")
    older = [place for place, today in former.items() if today == symbol and place in functions]
    at = next((place for place in (symbol, *older) if place in functions), None)
    if at is None:
        return Place(symbol, "former", former[symbol]) if symbol in former else Place(symbol, "absent")
    lacking = missing_parameters(reads.get(at, ()), functions[at])
    if lacking:
        return Place(symbol, "changed", ", ".join(lacking))
    return Place(symbol, "found") if at == symbol else Place(symbol, "moved", at)


def missing_parameters(read: Sequence[str], parameters: Sequence[str]) -> list[str]:
    """Those of the parameters ``read`` by a hook that a function with ``parameters`` does not have."""
    return [" or ".join(names) for names in (each.split("|") for each in read) if not set(names) & set(parameters)]


def parse(module: str, source: bytes) -> dict[str, Parameters]:
    """The functions and methods that ``source`` itself defines, by full name, with their parameters' names, and the
    names that it imports from other modules, with none.

    :raises SyntaxError: not this Python's syntax; also ``ValueError`` for what is no text.
    """
    return {f"{module}.{name}": parameters for name, parameters in _functions(ast.parse(source).body)}


def _functions(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Parameters]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            yield f"{prefix}{node.name}", tuple(argument.arg for argument in arguments)
        elif isinstance(node, ast.ImportFrom) and not prefix:
            yield from ((alias.asname or alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ClassDef) and not prefix:
            yield from _functions(node.body, f"{node.name}.")
        else:  # what is defined under `if` or `try`
            for part in ("body", "orelse", "finalbody"):
                yield from _functions(getattr(node, part, []) if isinstance(node, (ast.If, ast.Try)) else [], prefix)
            for handler in node.handlers if isinstance(node, ast.Try) else []:
                yield from _functions(handler.body, prefix)


Locate = Callable[[str], "list[Path]"]


def locate(package: str) -> list[Path]:
    """The directories of an installed top-level package; empty if there is none. Imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module put into sys.modules by hand
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec is not None else []


def installed_functions(modules: Sequence[str], locate: Locate = locate) -> tuple[dict[str, Parameters], set[str]]:
    """The functions of ``modules`` as installed, and the top-level packages that are there at all. A module without
    readable source has no functions."""
    found: dict[str, Parameters] = {}
    folders = {package: locate(package) for package in {module.partition(".")[0] for module in modules}}
    for module in modules:
        package, _, rest = module.partition(".")
        for folder in folders[package]:
            try:
                found.update(parse(module, folder.joinpath(*rest.split(".")).with_suffix(".py").read_bytes()))
            except (OSError, SyntaxError, ValueError):
                continue
            break
    return found, {package for package, places in folders.items() if places}
