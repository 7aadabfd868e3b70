"""What the alerts of one labelled run are worth: found or not, when, under which name, and what was false."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ACCEPTED", "GENERATED_FAULTS", "Alarm", "Label", "Verdict", "alarms", "apart", "chance", "judge"]

WINDOW = 100
_LEARNING_RATE = frozenset({"kl", "clip", "gradient", "entropy", "mismatch", "schedule", "reward", "length", "value"})
# The families under which an alert names a fault rightly: those of the metrics that it acts on first. A fault that is
# not here is not scored: with reward_exception, the log ends at the last good step.
ACCEPTED: Mapping[str, frozenset[str]] = {
    "kl_explosion": frozenset({"kl"}),
    "entropy_collapse": frozenset({"entropy"}),
    "reward_collapse": frozenset({"reward"}),
    "reward_hacking": frozenset({"hacking", "reward"}),
    "reward_hacking_length": frozenset({"hacking", "reward", "length"}),
    "nan_loss": frozenset({"nonfinite"}),
    "reward_nan": frozenset({"nonfinite"}),
    "grad_spikes": frozenset({"gradient"}),
    "value_divergence": frozenset({"value"}),
    "advantage_collapse": frozenset({"advantage", "reward"}),
    "length_explosion": frozenset({"length"}),
    "clip_saturation": frozenset({"clip"}),
    "generation_slowdown": frozenset({"throughput"}),
    "reward_constant": frozenset({"reward", "advantage"}),
    "reward_noise": frozenset({"reward", "value"}),
    "weight_sync_lost": frozenset({"mismatch"}),
    "lr_spike": _LEARNING_RATE,
    "lr_too_high": _LEARNING_RATE,
}
GENERATED_FAULTS = (
    "kl_explosion", "entropy_collapse", "reward_collapse", "reward_hacking", "nan_loss", "grad_spikes",
    "value_divergence", "advantage_collapse", "length_explosion", "clip_saturation", "generation_slowdown",
    "reward_constant",
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """What is known of a run. ``onset``: the first step on which the cause acts. ``size`` is told of faults that were
    planted in several; of a small one nobody need be told, so an alert after its onset is neither right nor false."""

    name: str
    group: str
    steps: int
    fault: str | None = None
    onset: int | None = None
    size: str = ""

    @property
    def is_scored(self) -> bool:
        """A fault that should be found."""
        return self.fault in ACCEPTED and self.size != "small"

    @property
    def clean_steps(self) -> int:
        return self.steps if self.onset is None else min(self.steps, self.onset - 1)


@dataclass(frozen=True)
class Alarm:
    """One alert that began, of severity warning or above."""

    step: int
    episode: str
    family: str
    rule: str
    metric: str
    severity: str


@dataclass(frozen=True)
class Verdict:
    """``delay``: steps from the onset to the first alert, ``None`` if it was missed. ``first`` is that alert.
    ``named_first``: its own family is one of those accepted; ``named``: that of any alert in the window is whose
    episode is the same or began in the window, too."""

    label: Label
    false_episodes: int
    delay: int | None = None
    first: Alarm | None = None
    named_first: bool = False
    named: bool = False
    fault_episodes: int = 0  # that began after the onset

    @property
    def found(self) -> bool:
        return self.delay is not None


def alarms(lines: Iterable[Mapping[str, Any]]) -> Iterator[Alarm]:
    """Those of the objects of ``rlhfd check --json`` that count, in their order."""
    for line in lines:
        if line["state"] == "firing" and line["severity"] != "info":
            yield Alarm(
                step=int(line["step"] or 0),
                episode=str(line["episode"]),
                family=str(line["family"]),
                rule=str(line["rule"]),
                metric=str(line["metric"]),
                severity=str(line["severity"]),
            )


def apart(found: Sequence[Alarm]) -> list[Alarm]:
    """Every alarm as an episode of its own, as a monitor tells them that knows no episodes."""
    return [replace(alarm, episode=f"{number}") for number, alarm in enumerate(found)]


def judge(label: Label, found: Sequence[Alarm], window: int = WINDOW) -> Verdict:
    """The alarms of one run against its label. A detection is the first alarm from the onset on, at most ``window``
    steps later, whose episode did not begin before."""
    began: dict[str, int] = {}
    for alarm in found:
        began[alarm.episode] = min(alarm.step, began.get(alarm.episode, alarm.step))
    onset = label.onset
    if onset is None:
        return Verdict(label, len(began))
    verdict = Verdict(label, sum(step < onset for step in began.values()))
    hits = [one for one in found if onset <= one.step <= onset + window and began[one.episode] >= onset]
    verdict = replace(verdict, fault_episodes=sum(step >= onset for step in began.values()))
    accepted = ACCEPTED.get(label.fault or "")
    if accepted is None or not hits:
        return verdict
    first = min(hits, key=lambda alarm: alarm.step)
    return replace(
        verdict,
        delay=first.step - onset,
        first=first,
        named_first=first.family in accepted,
        named=any(hit.family in accepted for hit in hits),
    )


def chance(healthy: Iterable[tuple[Label, Sequence[Alarm]]], faults: Sequence[str], onset: int) -> float:
    """How often a rightly named fault would be found in runs that have none, mean over ``faults``; NaN of no
    runs."""
    runs = list(healthy)
    hits = [judge(replace(label, fault=fault, onset=onset), found).named for label, found in runs for fault in faults]
    return sum(hits) / len(hits) if hits else math.nan
