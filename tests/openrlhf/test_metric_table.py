"""The metric table against the source of the installed OpenRLHF: what it logs is in the table, and the other way round.

The source is read, never imported: a key that upstream renames or adds fails here by its name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf.lab import Lab
from rlhfd_daemon.metrics import TABLE

FILES = (
    "trainer/ppo_trainer.py",
    "trainer/ppo_trainer_async.py",
    "trainer/ppo_utils/experience.py",
    "trainer/ppo_utils/experience_maker.py",
    "trainer/ppo_utils/samples_generator.py",
    "trainer/ray/ppo_actor.py",
    "trainer/ray/ppo_critic.py",
    "trainer/sft_trainer.py",
    "trainer/rm_trainer.py",
    "trainer/dpo_trainer.py",
)
# The dictionaries whose entries reach a logger; ``info`` travels in Experience and is averaged by the actor.
LOGGED = {"status", "metrics", "logs_dict", "bar_dict", "logs", "info", "stats"}
NO_NUMBER = {"train/generated_samples"}  # a text and its reward
NOT_MERGED = {"rewards", "scores"}  # episode tensors that the actor leaves out of its status


def text(node: ast.expr | None) -> str | None:
    """The key that an expression writes, with ``<>`` for what an f-string fills in; ``None`` if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "<>" for part in node.values)
    return None


def named(node: ast.expr) -> bool:
    """Whether ``node`` is one of the logged dictionaries, by itself or as an attribute."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in LOGGED


def entries(node: ast.AST) -> Iterator[str]:
    """The keys that one statement puts into a logged dictionary."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = getattr(node, "value", None)
    for target in targets:
        if named(target) and isinstance(value, ast.Dict):
            yield from (key for key in map(text, value.keys) if key is not None)
        elif isinstance(target, ast.Subscript) and named(target.value):
            key = text(target.slice)
            if key is not None:
                yield key


def episode_tensors(tree: ast.AST) -> Iterator[str]:
    """The fields of Experience that the actor adds to its status by their own names."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)):
            continue
        if isinstance(node.target, ast.Name) and [text(argument) for argument in node.value.args] == ["episode"]:
            yield node.target.id


def written(package: Path) -> set[str]:
    """Every key that the trainers log, with its prefix: what a function for evaluation makes is ``eval/``."""
    found: set[str] = set()
    for file in FILES:
        tree = ast.parse((package / file).read_text("utf-8"), file)
        found |= {f"train/{name}" for name in episode_tensors(tree) if name not in NOT_MERGED}
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for function in functions:
            prefix = "eval/" if "eval" in function.name else "train/"
            found |= {f"{prefix}{key}" for node in ast.walk(function) for key in entries(node)}
    return found


def claimed(version: str) -> set[str]:
    """Every key that the table says this version logs, with ``<>`` for its placeholders."""
    keys = {key.key for row in TABLE if row.origin == "openrlhf" for key in row.keys if key.covers(version)}
    return {key.replace("<datasource>", "<>").replace("<n>", "<>") for key in keys}


@pytest.fixture(scope="module")
def site_packages(lab: Lab) -> Path:
    (found,) = lab.venv.glob("lib/python3*/site-packages")
    return found


@pytest.fixture(scope="module")
def version(site_packages: Path) -> str:
    (found,) = site_packages.glob("openrlhf-*.dist-info")
    return found.name.removeprefix("openrlhf-").removesuffix(".dist-info")


def test_every_key_of_the_table_is_written_in_openrlhf_s_source(site_packages: Path, version: str) -> None:
    assert claimed(version) - written(site_packages / "openrlhf") == set()


def test_every_key_that_openrlhf_writes_is_in_the_table(site_packages: Path, version: str) -> None:
    assert written(site_packages / "openrlhf") - claimed(version) == NO_NUMBER
