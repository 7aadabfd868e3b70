"""A process that judges one checkpoint and ends: the last to get processor and disk, and killed if it takes too long.

Usage: python -m rlhfd_daemon.checkpoints.judge_child, with a :class:`Question` as JSON on stdin; the answer, an
:class:`Answer`, is one JSON object on stdout.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from rlhfd_daemon.checkpoints.defect import Refused, Vanished
from rlhfd_daemon.checkpoints.examining import WEIGHTS
from rlhfd_daemon.checkpoints.health import KINDS
from rlhfd_daemon.checkpoints.judgement import Answer, Found, Question
from rlhfd_daemon.checkpoints.judging import named, trained
from rlhfd_daemon.checkpoints.layout import Description, describe
from rlhfd_daemon.checkpoints.priority import step_back
from rlhfd_daemon.checkpoints.reading import Pace
from rlhfd_daemon.checkpoints.report import Report, report
from rlhfd_daemon.checkpoints.scan import Scanner

__all__ = ["judged"]

MAX_SUBJECTS = 1000
MAX_UPDATES = 2000  # tensors: a line of the history has them, 80 KB; Llama 3 of 405 billion parameters has 1,138
MEMORY_BYTES = 200 << 20
"""That it may allocate; with the interpreter and numpy no more than 256 MiB are resident."""


def judged(question: Question) -> Answer:
    """Read and judge."""
    root = Path(question.root)
    try:
        known = _known(question.root)
        found = known.get(question.path)
        if found is None or question.stamp not in ("", found.stamp):
            return Answer(vanished=True)
        before = known.get(question.before) if question.before is not None else None
        pace = Pace(question.rate) if question.rate else None
        one = report(root, found, None if before is None else (root, before), pace=pace, forget=True)
        still = _known(question.root).get(question.path)
        if still is None or still.stamp != found.stamp:  # what was missing then was being deleted
            return Answer(vanished=True)
        return _answer(one)
    except Vanished:
        return Answer(vanished=True)
    except Refused as refused:
        return Answer(error=str(refused))


def _known(root: str) -> dict[str, Description]:
    tree = Scanner().scan(root)
    return {} if tree is None else {one.path: one for one in describe(tree).checkpoints}


def _answer(one: Report) -> Answer:
    issues = []
    for kind in KINDS:
        chosen = [issue for issue in one.issues if issue.kind == kind]
        if chosen:
            subjects = tuple(issue.subject for issue in chosen[:MAX_SUBJECTS])
            first = chosen[0]
            issues.append(
                Found(kind=kind, count=len(chosen), subject=first.subject, summary=first.summary, subjects=subjects)
            )
    compared = [each for key, each in one.examined.comparisons.items() if key[0] in WEIGHTS]
    moved = {named(key): each.relative_update for key, each in trained(one.examined).items()}
    updates = sorted(each.relative_update for each in compared if each.relative_update is not None)
    norms = [each.norm for key, each in one.examined.tensors.items() if key[0] == "weight" and each.norm is not None]
    state = one.inventory.state
    return Answer(
        score=one.score,
        severity=None if one.severity is None else one.severity.value,
        bytes=one.found.size,
        seconds=one.seconds,
        compared=one.compared,
        issues=tuple(issues),
        optimizer_steps=None if state is None else state.global_steps,
        relative_update=updates[len(updates) // 2] if updates else None,
        unchanged=sum(each.unchanged for each in compared),
        updates={name: float(f"{update:.4g}") for name, update in moved.items() if update is not None}
        if len(moved) <= MAX_UPDATES
        else {},
        norm=sum(norm * norm for norm in norms) ** 0.5 if norms else None,
    )


def main() -> None:
    """One question, one answer."""
    step_back()
    limit = _data_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    # Made now: until the error is dealt with, there is no memory for it.
    said = msgspec.json.encode(Answer(error=f"more than {MEMORY_BYTES >> 20} MiB of memory are needed to read it"))
    with suppress(MemoryError):
        said = msgspec.json.encode(judged(question))
    sys.stdout.buffer.write(said)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts, as of now: numpy's threads have reserved much that they never use."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))


if __name__ == "__main__":
    main()
