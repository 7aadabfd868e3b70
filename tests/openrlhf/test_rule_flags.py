"""Every option that a remedy names is one of the installed OpenRLHF's: its parsers are read, never run."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlhfd_daemon.analyzers
from openrlhf.lab import Lab
from rlhfd_daemon.rules import Rule
from rlhfd_daemon.rules.catalogue import CATALOGUE

PACKAGE = Path(rlhfd_daemon.analyzers.__path__[0])
PPO, SUPERVISED = ("train_ppo_ray",), ("train_sft", "train_rm", "train_dpo")
FLAG = re.compile(r"--[a-z]+(?:\.[a-z_]+)+")  # OpenRLHF's have dots; others' in a text have none


def options(parser: Path) -> Iterator[str]:
    """The options that a module adds to its parser, also those of ``for prefix in ("actor", "critic")``."""
    tree = ast.parse(parser.read_text("utf-8"), parser.name)
    yield from added(tree, {})
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Tuple):
            for one in loop.iter.elts:
                if isinstance(one, ast.Constant):
                    yield from added(loop, {loop.target.id: str(one.value)})


def added(tree: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """What the calls of ``add_argument`` in ``tree`` add, with ``names`` filled in."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            yield from (name for name in (written(argument, names) for argument in call.args) if name is not None)


def written(node: ast.expr, names: dict[str, str]) -> str | None:
    """The text of an argument; ``None`` where a name in it is not known."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts: list[str] = []
    for part in node.values if isinstance(node, ast.JoinedStr) else ():
        filled = part.value if isinstance(part, ast.FormattedValue) else part
        known = names.get(filled.id) if isinstance(filled, ast.Name) else getattr(filled, "value", None)
        if known is None:
            return None
        parts.append(str(known))
    return "".join(parts) or None


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The options of each trainer."""
    (package,) = Lab.find().venv.glob("lib/python3*/site-packages/openrlhf/cli")
    return {name: set(options(package / f"{name}.py")) for name in (*PPO, *SUPERVISED)}


def trainers_of(rule: Rule) -> tuple[str, ...]:
    """Whose options a rule may name."""
    return SUPERVISED if rule.id.startswith(("supervised_", "pair_", "sft_")) else PPO


def test_the_parsers_have_been_understood(known: dict[str, set[str]]) -> None:
    assert {"--actor.adam.lr", "--critic.max_norm", "--algo.kl.init_coef"} <= known["train_ppo_ray"]
    assert all({"--adam.lr", "--max_norm", "--ckpt.path"} <= known[name] for name in SUPERVISED)


@pytest.mark.parametrize("rule", [rule for rule in CATALOGUE if rule.flags], ids=lambda rule: rule.id)
def test_the_flags_of_a_rule_are_options_of_openrlhf(rule: Rule, known: dict[str, set[str]]) -> None:
    assert set(rule.flags) - set().union(*(known[name] for name in trainers_of(rule))) == set()


@pytest.mark.parametrize("name", [one.name for one in pkgutil.iter_modules(rlhfd_daemon.analyzers.__path__)])
def test_the_texts_of_an_analyzer_name_only_options_of_openrlhf(name: str, known: dict[str, set[str]]) -> None:
    source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    named = {flag for text in texts if isinstance(text, str) for flag in FLAG.findall(text)}
    assert named - known["train_ppo_ray"] == set()
