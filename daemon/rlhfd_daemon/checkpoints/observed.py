"""What is recorded of a judgement; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhfd_daemon.checkpoints.health import KINDS
from rlhfd_daemon.checkpoints.judgement import Found, Judgement
from rlhfd_daemon.observation import Observation, Subject

__all__ = ["FROZEN_IN_A_ROW", "frozen_for_long", "observations"]

FROZEN_IN_A_ROW = 3  # judgements in which a tensor did not change


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
    if judgement.run_step is not None and step is not None and step > judgement.run_step and "step" not in issues:
        summary = f"its name says step {step}, the run is at step {judgement.run_step}"
        path = str(about["path"])
        issues["step"] = Found(kind="step", count=1, subject=path, summary=summary, subjects=(path,))
    fields = {**about, "score": round(answer.score, 3), "seconds": round(answer.seconds, 1)}
    yield Observation(subject=subject, step=step, event="checkpoint_judged", fields=fields)
    name = f"checkpoint/{judgement.role or 'model'}"
    yield Observation(
        subject=subject, step=step,
        metrics={f"{name}/health": answer.score, f"{name}/size_bytes": float(answer.bytes)},
    )  # fmt: skip
    for kind in KINDS:
        found = issues.get(kind)
        if found is None:
            yield Observation(subject=subject, step=step, event=f"checkpoint_{kind}_over", fields=about)
        else:
            more = {"count": found.count, "subject": found.subject, "finding": found.summary}
            yield Observation(subject=subject, step=step, event=f"checkpoint_{kind}", fields={**fields, **more})


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
