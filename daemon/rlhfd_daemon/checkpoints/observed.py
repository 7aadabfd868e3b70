"""What is recorded of a judgement; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from rlhfd_daemon.checkpoints.health import KINDS, Issue, score
from rlhfd_daemon.checkpoints.judgement import Found, Judgement
from rlhfd_daemon.observation import Observation, Subject

__all__ = ["FROZEN_IN_A_ROW", "USUAL_OF", "frozen_for_long", "moved_beyond_usual", "observations"]

FROZEN_IN_A_ROW = 3  # judgements in which a tensor did not change
USUAL_OF = 3  # earlier updates of a tensor, without which it is not known what is usual for it
BEYOND_USUAL = 10.0
NOTICED = 1e-4  # relative update, below which nothing is said


def observations(
    subject: Subject, about: dict[str, object], judgement: Judgement, earlier: Sequence[Judgement]
) -> Iterator[Observation]:
    """What is recorded of a judgement: its health, and of each kind of issue that there is some, or none any more."""
    step, answer = judgement.step, judgement.answer
    issues = {one.kind: one for one in answer.issues}
    chain = [one for one in earlier if (one.format, one.role) == (judgement.format, judgement.role)]
    if "frozen" in issues:
        frozen = frozen_for_long([*chain, judgement])
        issues.pop("frozen")
        if frozen is not None:
            issues["frozen"] = frozen
    health = answer.score
    if (beyond := moved_beyond_usual(chain, judgement)) is not None:
        known = issues.get("moved")
        issues["moved"] = beyond if known is None else _together(known, beyond)
        if known is None:
            health *= score([Issue("moved", "", "", beyond.count / len(answer.updates))])
    if judgement.run_step is not None and step is not None and step > judgement.run_step and "step" not in issues:
        summary = f"its name says step {step}, the run is at step {judgement.run_step}"
        path = str(about["path"])
        issues["step"] = Found(kind="step", count=1, subject=path, summary=summary, subjects=(path,))
    fields = {**about, "score": round(health, 3), "seconds": round(answer.seconds, 1)}
    yield Observation(subject=subject, step=step, event="checkpoint_judged", fields=fields)
    name = f"checkpoint/{judgement.role or 'model'}"
    yield Observation(
        subject=subject, step=step,
        metrics={f"{name}/health": health, f"{name}/size_bytes": float(answer.bytes)},
    )  # fmt: skip
    for kind in KINDS:
        found = issues.get(kind)
        if found is None:
            yield Observation(subject=subject, step=step, event=f"checkpoint_{kind}_over", fields=about)
        else:
            more = {"count": found.count, "subject": found.subject, "finding": found.summary}
            yield Observation(subject=subject, step=step, event=f"checkpoint_{kind}", fields={**fields, **more})


def moved_beyond_usual(earlier: Sequence[Judgement], judgement: Judgement) -> Found | None:
    """The tensors whose relative update is more than ten times the median of what it was earlier in this launch."""
    found: list[tuple[float, str]] = []
    for name, update in judgement.answer.updates.items():
        past = [one.answer.updates[name] for one in earlier if one.answer.updates.get(name)]
        if len(past) >= USUAL_OF and update > max(BEYOND_USUAL * median(past), NOTICED):
            found.append((update / median(past), name))
    if not found:
        return None
    subjects = tuple(name for _, name in sorted(found, reverse=True))
    times, first = max(found)
    summary = f"moved by {judgement.answer.updates[first]:.3g} of its norm, {times:.3g} times what is usual for it"
    return Found(kind="moved", count=len(found), subject=first, summary=summary, subjects=subjects)


def _together(one: Found, other: Found) -> Found:
    subjects = tuple(dict.fromkeys((*one.subjects, *other.subjects)))
    more = len(subjects) - len(one.subjects)
    return Found(
        kind=one.kind, count=one.count + more, subject=one.subject, summary=one.summary, subjects=subjects
    )  # fmt: skip


def frozen_for_long(chain: Sequence[Judgement]) -> Found | None:
    """The tensors that did not change in each of the last judgements; small updates may be rounded away for a while."""
    last = [{kind.kind: kind for kind in one.answer.issues}.get("frozen") for one in chain[-FROZEN_IN_A_ROW:]]
    kept = [one for one in last if one is not None]
    if len(kept) < FROZEN_IN_A_ROW:
        return None
    always = [one for one in kept[-1].subjects if all(one in other.subjects for other in kept)]
    if not always:
        return None
    summary = f"did not change in {FROZEN_IN_A_ROW} checkpoints"
    return Found(kind="frozen", count=len(always), subject=always[0], summary=summary, subjects=tuple(always))
