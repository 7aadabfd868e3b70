"""Whether a checkpoint is complete, still being written, broken or gone: a decision of what was seen of it when.

``latest`` proves nothing: its first rank writes it while others may still write. What proves more, in this order: a
``metric.json`` that is whole and the newest file; the end of the phase in which it was saved; that nothing changes any
more while every file is there and ends as its format demands. That something is broken is said only after it was seen
unchanged for some time: the clock of a file server may be wrong by hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlhfd_daemon.checkpoints.lacking import Missing, missing_ranks
from rlhfd_daemon.checkpoints.layout import Description

__all__ = ["LIMITS", "NOTHING", "Known", "Limits", "Sighting", "State", "Verdict", "as_dated", "judge", "sight"]

SKEW_SECONDS = 5.0
"""Between the clock of a file server and ours, before what one says of the other is not believed."""
MAX_RANKS = 100_000


class State(str, Enum):
    """What a checkpoint is."""

    COMPLETE = "complete"
    IN_PROGRESS = "in_progress"
    INCOMPLETE = "incomplete"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Limits:
    """``settle_seconds`` without a change, and one that has all its files is complete, one of which it is known that
    nobody writes it is broken; ``broken_seconds``, and any other one that lacks something is broken."""

    settle_seconds: float = 30.0
    broken_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the processes that save it have said; ``None`` is not known. Times are Unix seconds.

    ``saving_since``: one of them is in the phase that saves. ``saved_at``: when the last of them left it, ``failed``
    with which error, if any. ``local_ranks`` are those of ``world_size`` on this node. ``alive``: any of them lives.
    """

    saving_since: float | None = None
    saved_at: float | None = None
    failed: str | None = None
    world_size: int | None = None
    local_ranks: frozenset[int] | None = None
    alive: bool | None = None
    zero_stage: int | None = None


NOTHING = Known()
LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A checkpoint as it has been since ``since`` (Unix seconds), at the latest."""

    description: Description
    since: float

    def matches(self, found: Description) -> bool:
        """Whether ``found`` is this one, unchanged."""
        return self.description.identity == found.identity and self.description.stamp == found.stamp


@dataclass(frozen=True, slots=True)
class Verdict:
    """``missing`` and ``cut_off`` are files; ``reason`` says in words why. ``deleting``: files of it went away."""

    state: State
    reason: str
    missing: Missing | None = None
    cut_off: tuple[str, ...] = ()
    deleting: bool = False


def sight(found: Description, before: Sighting | None, now: float) -> Sighting:
    """What to hand to the next :func:`judge` of it as ``before``."""
    return before if before is not None and before.matches(found) else Sighting(found, now)


def as_dated(found: Description) -> Sighting:
    """A first sight that believes the times of the files; for who looks only once and has no ``before``."""
    newest = found.newest
    return Sighting(found, float("inf") if newest is None else newest)


def judge(
    found: Description | None, before: Sighting | None, now: float, known: Known = NOTHING, limits: Limits = LIMITS
) -> Verdict:
    """``before`` is from the look before, of the same path; ``found`` is ``None`` if it is not there (any more)."""
    if found is None:
        return Verdict(State.VANISHED, "was deleted")
    if found.problem:
        return Verdict(State.IN_PROGRESS, f"is not known in full: {found.problem}")
    if gone := _deleted(found, before):
        return Verdict(
            State.IN_PROGRESS, f"is being deleted: {gone} of its files are gone since the last look", deleting=True
        )
    missing, note = _missing(found, known)
    flaws = missing or None, found.cut_off
    if _is_saving(found, known):
        return Verdict(State.IN_PROGRESS, "is in the phase that saves it", *flaws)
    quiet = max(now - before.since, 0.0) if before is not None and before.matches(found) else 0.0
    if not missing and not found.cut_off:
        reason = _finished(found, quiet, known, limits)
        return Verdict(State.COMPLETE, reason + note) if reason else Verdict(State.IN_PROGRESS, "may still grow" + note)
    what = f"lacks {missing}" if missing else f"{found.cut_off[0]} is cut off" + _more(len(found.cut_off) - 1)
    over = _abandoned(found, quiet, known, limits)
    if over:
        return Verdict(State.INCOMPLETE, f"{what}, and {over}{note}", *flaws)
    return Verdict(State.IN_PROGRESS, what + note, *flaws)


def _more(count: int) -> str:
    return f", and {count} more" if count else ""


def _deleted(found: Description, before: Sighting | None) -> int:
    """How many files of the same folder went away since."""
    if before is None or before.description.identity != found.identity or found.kind == "file":
        return 0
    return len({part.file for part in before.description.parts} - {part.file for part in found.parts})


def _is_saving(found: Description, known: Known) -> bool:
    """One that was written before the phase began is another one."""
    if known.saving_since is None:
        return False
    newest = found.newest
    return newest is None or newest >= known.saving_since - SKEW_SECONDS


def _finished(found: Description, quiet: float, known: Known, limits: Limits) -> str:
    """Why nothing comes any more to one that has all its files; empty if something may."""
    if found.metric_is_last:
        return "metric.json is whole and the newest of its files"
    without = ", without the metric.json that newer versions write last" if found.kind == "deepspeed" else ""
    if _saved_after(found, known) and not known.failed:
        return f"the phase that saves it ended after its last change{without}"
    # Of one node's part nothing but time tells that it is that: the first rank may have yet to write.
    on_trust = found.elsewhere and known.local_ranks is None
    if quiet >= (limits.broken_seconds if on_trust else limits.settle_seconds):
        return f"all its files are there, whole, and unchanged for {quiet:.0f} s{without}"
    return ""


def _abandoned(found: Description, quiet: float, known: Known, limits: Limits) -> str:
    """Why nothing comes any more to one that lacks something; empty if something may."""
    if quiet >= limits.settle_seconds:
        if known.failed and _saved_after(found, known):
            return f"saving it failed: {known.failed}"
        if _saved_after(found, known):
            return "the phase that saves it is over"
        if known.alive is False:
            return "the processes that wrote it are gone"
    return f"nothing has changed for {quiet:.0f} s" if quiet >= limits.broken_seconds else ""


def _saved_after(found: Description, known: Known) -> bool:
    newest = found.newest
    if known.saved_at is None or known.saving_since is not None or newest is None:
        return False
    return known.saved_at >= newest - SKEW_SECONDS


def _missing(found: Description, known: Known) -> tuple[Missing, str]:
    """What is missing, and how it is known that the files of other nodes are not."""
    if found.kind != "deepspeed":
        return found.missing, ""
    if found.zero == 0 and (known.zero_stage or 0) > 0 and not found.missing:
        return Missing(("zero_pp_rank_0_mp_rank_00_optim_states.pt",), 1), ""
    width, world = found.model_world_size, known.world_size
    if found.zero in (0, None) or world is None or not width <= world <= MAX_RANKS or world % width:
        note = "; the ranks of another node, by what is there" if found.elsewhere else ""
        return found.missing, note
    here = _local(found, known, width)
    files = [(part.file, part.named) for part in found.parts]
    lacking = missing_ranks(
        files, world // width, lambda data, model: here is not None and data * width + model not in here
    )
    if here is None:
        return lacking or found.missing, ""
    return lacking, f"; {len(here)} of {world} ranks are on this node, and the others write to their own"


def _local(found: Description, known: Known, width: int) -> frozenset[int] | None:
    """The ranks whose files are expected, if those of others go to other nodes: some of this node's are there, and
    none of any other's, and saving did not fail. ``None``: all of them."""
    if known.failed or not known.local_ranks or known.world_size is None or len(known.local_ranks) >= known.world_size:
        return None
    ranks = [part.named for part in found.of("optimizer_states")]
    there = {(one.data_rank or 0) * width + (one.model_rank or 0) for one in ranks}
    return known.local_ranks if there and there <= known.local_ranks else None
