"""What a rule is: clauses over metrics, how long they must hold, in which runs they count, and what to do then."""

from __future__ import annotations

from typing import Literal

import msgspec

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.families import Family

__all__ = ["Aggregate", "Argument", "Clause", "Fact", "Missing", "Operator", "Reference", "Rule", "Signal"]

Operator = Literal["<", "<=", ">", ">=", "==", "!="]
Aggregate = Literal["last", "mean", "median", "min", "max", "std", "slope", "drawdown"]
Reference = Literal["value", "baseline", "first"]
Missing = Literal["unknown", "ok", "alert"]
Fact = Literal[
    "critic", "reference_model", "reward_model", "inner_epochs", "groups", "length_cap", "async", "kl_in_loss",
    "supervised",
]  # fmt: skip


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A number made of one metric of one process.

    ``metric`` is a name of the metric table; ``<n>``, ``<role>``, ``<datasource>`` in it stand for each. ``take`` is
    made of the last ``over`` values: ``slope`` is the least-squares change per step; ``drawdown`` is how far their mean
    has fallen from the best mean of so many values, as a share of the range that those means have covered.
    ``against``: ``baseline`` divides by the median of the 50 values before those (20 suffice; made anew every 20th
    value), ``first`` by that of the first 20; unknown where that median is not positive. ``by`` names another metric of
    the run that the number is multiplied by (its last value). ``absolute`` takes the absolute value of every value
    first. Values that are not finite are left out of all of these; while the newest is one, the number is unknown.
    """

    metric: str
    take: Aggregate = "last"
    over: int = 1
    against: Reference = "value"
    by: str = ""
    absolute: bool = False


class Argument(msgspec.Struct, frozen=True):
    """A limit that is ``factor`` times an argument of the run; the first of ``names`` that is set. Unknown where the
    run's arguments are."""

    names: tuple[str, ...]
    factor: float = 1.0


class Clause(msgspec.Struct, frozen=True):
    """``signal`` compared with ``limit``: true, false, or unknown (``None``) where a value is missing or not finite."""

    signal: Signal
    operator: Operator
    limit: float | Argument


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue, or one rule of a user.

    All clauses of ``when`` must be true; the rule is looked at whenever a value of the first clause's metric comes, and
    fires once ``hold`` = (k, n): k of the last n looks were true. It ends when none of the last n was, or of the last
    ``keep`` if that is more. A look whose answer is unknown does not count, unless ``missing`` says that it counts as
    false (``ok``) or as true (``alert``). ``after``: so many values of the first metric before it is looked at.
    ``critical``: a limit of the first clause at which the severity is critical (held as long). ``requires`` and
    ``excludes`` are facts about the run; a fact that is not known forbids nothing, but ``strictly`` names facts that
    must be known to be true. ``runs`` are glob patterns of the runs that it is for; none: all.

    ``when`` is empty for a rule that an analyzer of its own decides, named in ``analyzer``. ``explains`` names rules
    whose findings usually follow from this one's. ``summary`` is a template over ``metric``, ``value`` (the number that
    the first clause compares), ``limit``, ``baseline`` (what it was divided by), ``step``, ``run`` and ``labels.x``.
    ``flags`` are options of OpenRLHF that ``remedy`` names; ``source`` is where the default comes from: literature, an
    upstream file, a measurement on real logs, or a choice of ours.
    """

    id: str
    title: str
    family: Family
    severity: Severity
    when: tuple[Clause, ...] = ()
    analyzer: str = ""
    metrics: tuple[str, ...] = ()
    hold: tuple[int, int] = (1, 1)
    after: int = 0
    critical: float | None = None
    requires: tuple[Fact, ...] = ()
    excludes: tuple[Fact, ...] = ()
    strictly: tuple[Fact, ...] = ()
    explains: tuple[str, ...] = ()
    summary: str
    remedy: str
    flags: tuple[str, ...] = ()
    source: str
    false_positives: str = ""
    keep: int = 0
    missing: Missing = "unknown"
    runs: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
