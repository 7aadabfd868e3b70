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

# What a wrapper reads from the call, each as alternatives; without it the hook would hold and report nothing.
_STEP_LOGS: tuple[Parameters, ...] = (("global_step", "global_steps"), ("logs_dict",))


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


def places(symbols: Sequence[str], former: Mapping[str, str], functions: Functions, packages: set[str]) -> list[Place]:
    """The place of each of ``symbols`` among ``functions`` (full name to parameters) of the installed ``packages``;
    ``former`` leads from an older place to the one that has its function today."""
    return [_place(symbol, former, functions, packages) for symbol in symbols]


def _place(symbol: str, former: Mapping[str, str], functions: Functions, packages: set[str]) -> Place:
    if symbol.partition(".")[0] not in packages:
        return Place(symbol, "uninstalled")
    if symbol in functions:
        lacking = missing_parameters(symbol, functions[symbol])
        return Place(symbol, "changed" if lacking else "found", ", ".join(lacking))
    if symbol in former:
        return Place(symbol, "former", former[symbol])
    older = [place for place, today in former.items() if today == symbol and place in functions]
    return Place(symbol, "moved", older[0]) if older else Place(symbol, "absent")


def missing_parameters(symbol: str, parameters: Parameters) -> list[str]:
    """The parameters that the hook on ``symbol`` reads and the function does not have."""
    needed: tuple[Parameters, ...] = ()
    if symbol.endswith(".save_logs_and_checkpoints"):
        needed = _STEP_LOGS
    elif symbol.endswith("Trainer.__init__"):
        needed = (("strategy",),)
    elif symbol.endswith("Actor.__init__"):
        needed = (("rank",),)
    return [" or ".join(names) for names in needed if not set(names) & set(parameters)]


def parse(module: str, source: bytes) -> dict[str, Parameters]:
    """The functions and methods that ``source`` itself defines, by full name, with their parameters' names.

    :raises SyntaxError: not this Python's syntax; also ``ValueError`` for what is no text.
    """
    return {f"{module}.{name}": parameters for name, parameters in _functions(ast.parse(source).body)}


def _functions(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Parameters]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            yield f"{prefix}{node.name}", tuple(argument.arg for argument in arguments)
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
