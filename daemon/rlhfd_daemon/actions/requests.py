"""What emitters are asked for, and what they have answered: from an act in progress to the next, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from rlhfd_daemon.actions.act import Act
from rlhfd_daemon.runs import Run, Stream

__all__ = ["ACCEPT_SECONDS", "TRAINERS", "ask", "asked_of", "outcome", "silent"]

TRAINERS = ("PPOTrainer", "TrainingActor")  # the second when training asynchronously
ACCEPT_SECONDS = 30.0
GONE_SECONDS = 5.0  # what a process said last may still be on its way when it is seen to have ended


def trainer_of(run: Run | None) -> Stream | None:
    """The process of ``run`` that leads PPO training, if there is one now."""
    streams = () if run is None else run.streams.values()
    found = [one for one in streams if one.ended is None and one.role in TRAINERS]
    return max(found, key=lambda one: one.last_seen, default=None)


def ask(act: Act, run: Run | None, now: float) -> Act | str:
    """The act as it is while its trainer is asked; or why nobody can be."""
    trainer = trainer_of(run)
    if trainer is None:
        return f"there is no process of the run that could: {' or '.join(TRAINERS)} with rlhfd attached"
    return msgspec.structs.replace(act, state="asked", stream=trainer.stream, asked_at=now)


def asked_of(acts: Iterable[Act], stream: str) -> tuple[dict[str, str], ...]:
    """What the answers to ``stream`` ask for; repeated until it has said whether it accepts."""
    asked = (act for act in acts if act.state == "asked" and act.stream == stream)
    return tuple({"id": act.id, "action": act.type} for act in asked)


def silent(act: Act, stream: Stream | None, now: float) -> str | None:
    """Why no more answer to an act in progress is waited for; ``None`` as long as it is."""
    if stream is None or (stream.ended is not None and now - stream.last_seen > GONE_SECONDS):
        return "the process ended before it could"
    if act.state == "asked" and now - act.asked_at > ACCEPT_SECONDS:
        return f"the process did not answer within {ACCEPT_SECONDS:.0f} s; its rlhfd may be older than the daemon's"
    return None


def outcome(act: Act, fields: Mapping[str, object], step: int | None) -> tuple[str, str]:
    """Event and text for a final answer of an emitter."""
    reason = fields.get("reason")
    if fields.get("state") != "done":
        return "action_failed", str(reason or "no reason given")
    place = f"in {fields.get('path')} at the end of step {step}"
    saved = f"checkpoint {fields.get('tag')} is saved {place}" if fields.get("tag") else f"no checkpoint: {reason}"
    return "action_taken", saved if act.type == "checkpoint" else f"{saved}; the run ends with that step"
