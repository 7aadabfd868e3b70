"""What a hook reads from a call is declared, so that it can be looked for in every version's source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import rlhfd_emitter
from rlhfd_emitter import hooks
from rlhfd_emitter.process import Process
from rlhfd_emitter.wrappers import before, phase, read_by, reads

FILES = sorted(Path(str(rlhfd_emitter.__file__)).parent.rglob("*.py"))


def readers(tree: ast.AST) -> Iterator[tuple[str, set[str], set[str]]]:
    """Every function that takes ``arguments``: its name, what it reads of them, and what its ``@reads`` says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "arguments" in {each.arg for each in node.args.args}:
            declared = [
                str(value.value)
                for decorator in node.decorator_list
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "reads"
                for value in decorator.args
                if isinstance(value, ast.Constant)
            ]
            read = {name for part in ast.walk(node) for name in _names(part)}
            yield node.name, read - {"self"}, {name for each in declared for name in each.split("|")}


def _names(node: ast.AST) -> Iterator[str]:
    """``x`` of ``arguments["x"]`` and of ``arguments.get("x")``."""
    if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "arguments":
        key = node.slice
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "arguments.get":
        key = node.args[0]
    else:
        return
    if isinstance(key, ast.Constant):
        yield str(key.value)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_an_observer_declares_exactly_the_parameters_that_it_reads(path: Path) -> None:
    for name, read, declared in readers(ast.parse(path.read_text("utf-8"))):
        assert read == declared, name


def test_the_check_sees_what_is_read_and_what_is_declared() -> None:
    source = """
@reads("a", "b|c")
def f(process, arguments):
    arguments["self"], arguments["a"], arguments.get("b", arguments.get("c"))
def g(arguments): arguments["d"]
def h(other): other["e"]
"""
    assert list(readers(ast.parse(source))) == [("f", {"a", "b", "c"}, {"a", "b", "c"}), ("g", {"d"}, set())]


def test_a_wrapper_says_what_its_observer_reads() -> None:
    @reads("step|steps", "logs")
    def observe(process: Process, arguments: Mapping[str, Any]) -> None: ...

    assert read_by(before(observe)) == ("step|steps", "logs")
    assert read_by(before(lambda process, arguments: None)) == read_by(phase("named")) == ()
    assert read_by(phase()) == ("method_name",)


def test_what_the_hooks_read_is_known_by_symbol() -> None:
    known = hooks.symbols()
    assert known["openrlhf.trainer.sft_trainer.SFTTrainer.__init__"] == ("strategy",)
    assert known["vllm.v1.engine.async_llm.AsyncLLM.generate"] == ()
