"""Rules at work on one run: its series, and for each of them the rules that it is looked at for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.rules.calm import NOWHERE, band
from rlhfd_daemon.rules.evaluate import Question, screen
from rlhfd_daemon.rules.histories import History
from rlhfd_daemon.rules.hold import Hold
from rlhfd_daemon.rules.plan import Plan, Plans, Reader
from rlhfd_daemon.rules.rule import Argument, Fact, Rule
from rlhfd_daemon.rules.telling import begun, ended
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["LATE_STEPS", "Context", "Look", "Process", "Run", "Series"]

LATE_STEPS = 3  # a sample so many steps behind is late; one further back is of a run that was resumed
BEFORE, ALWAYS = -(1 << 70), 1 << 70


class Context(Protocol):
    """What is known about a run: its arguments, and what follows from them and from its metrics."""

    def take(self, event: Happening) -> bool: ...
    def see(self, sample: Sample) -> None: ...
    def get(self, fact: Fact) -> bool | None: ...
    def argument(self, names: tuple[str, ...]) -> float | None: ...


class Process:
    """One process of a run: the step it is at, and its series by the names that rules read them by."""

    __slots__ = ("known", "rank", "role", "step")

    def __init__(self, role: str, rank: int | None) -> None:
        self.role = role
        self.rank = rank
        self.known: dict[str, History] = {}
        self.step: int | None = None

    def advance(self, sample: Sample) -> Iterable[Finding]:
        """Take note of the step of a sample that no rule reads."""
        if sample.step is not None:
            self.step = sample.step
        return ()


class Run:
    """One launch of a run."""

    def __init__(self, plans: Plans, facts: Context) -> None:
        self.plans = plans
        self.facts = facts
        self.series: dict[tuple[str, int | None, str], Series | None] = {}
        self.histories: dict[str, list[History]] = {}  # by the name that rules read them by
        self.never_seen: dict[Plan, tuple[Series, int]] = {}  # what rules wait for in vain, and since which step
        self._processes: dict[tuple[str, int | None], Process] = {}
        self._arguments: dict[Argument, float | None] = {}

    def process(self, sample: Sample) -> Process:
        """The process that a sample is from."""
        key = (sample.role, sample.rank)
        if key not in self._processes:
            self._processes[key] = Process(*key)
        return self._processes[key]

    @property
    def newest(self) -> Process | None:
        """The process that has come furthest."""
        stepping = [one for one in self._processes.values() if one.step is not None]
        return max(stepping, key=lambda one: one.step or 0, default=None)

    def latest(self, metric: str) -> History | None:
        """Of the series that rules read as ``metric`` the one updated last."""
        return max(reversed(self.histories.get(metric, [])), key=lambda one: one.record, default=None)

    def take(self, event: Happening) -> None:
        """An event may tell arguments of the run."""
        if not self.facts.take(event):
            return
        known, self._arguments = self._arguments, {}
        if any(self.argument(one) != value for one, value in known.items()):
            for series in self.series.values():
                if series is not None:
                    series.look_again()

    def argument(self, argument: Argument) -> float | None:
        """A limit that follows from the run's arguments."""
        if argument not in self._arguments:
            found = self.facts.argument(argument.names)
            self._arguments[argument] = None if found is None else found * argument.factor
        return self._arguments[argument]

    def applies(self, rule: Rule) -> bool:
        """Whether ``rule`` is meant for a run like this, as far as it is known."""
        get = self.facts.get
        return (
            all(get(fact) is not False for fact in rule.requires)
            and all(get(fact) is not True for fact in rule.excludes)
            and all(get(fact) is True for fact in rule.strictly)
        )


def _never(_value: float) -> bool:
    return False


class Look:
    """One rule at one series."""

    __slots__ = ("_critical", "begun", "hold", "near", "plan", "quick", "screen", "threshold", "until")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        k, n = plan.rule.hold
        self.hold = Hold(k, n, plan.rule.keep)
        self._critical = Hold(k, n)
        self.clear()

    def clear(self) -> None:
        self.hold.clear()
        self._critical.clear()
        self.begun: Finding | None = None
        self.screen: Question | None = None  # the clause that is not true at present
        self.quick: Callable[[float], bool] | None = None  # whether a value may make it true
        self.until: float = 0.0  # up to which count of values ``quick`` is good
        self.threshold = 0.0  # what ``quick`` compares with
        self.near = 0  # up to which count of values it must be looked at

    def rescreen(self, series: Series) -> None:
        """Find a clause that no value of its window makes true: until one does, the rule need not be looked at."""
        history = series.history
        self.screen, self.quick, self.until, self.near = None, None, inf, history.count + 1
        for question in self.plan.screens:
            known = question.threshold(series)
            if known is None:  # not yet
                continue
            threshold, until = known
            quick = screen(question.operator, threshold, question.signal.absolute)
            if not any(map(quick, history.values[-question.signal.over :])):
                self.screen, self.threshold, self.until, self.quick = question, threshold, until, quick
                self.near = history.count
                return
        if not self.plan.screens:
            self.quick, self.near = _never, ALWAYS

    def take(self, series: Series, sample: Sample) -> Iterable[Finding]:
        """Look at the rule once more."""
        rule = self.plan.rule
        if series.history.count <= rule.after:
            return ()
        answer = self._answer(series)
        if answer is None:
            return ()
        if answer and not series.run.applies(rule):
            answer = False
        return self.looked(answer, series, sample)

    def looked(self, answer: bool, series: Series, sample: Sample) -> Iterable[Finding]:
        """Take note of what the look showed."""
        rule, question = self.plan.rule, self.plan.questions[0]
        is_critical = False
        if rule.critical is not None:
            exceeds = answer and question.exceeds(series, rule.critical)
            self._critical.look(exceeds, sample.step, sample.time)
            is_critical = self._critical.active
        change = self.hold.look(answer, sample.step, sample.time)
        if change == "ends" and self.begun is not None:
            over, self.begun = ended(self.begun, sample), None
            return (over,)
        was = self.begun
        severity = Severity.CRITICAL if is_critical else rule.severity
        if change != "begins" and (was is None or severity.rank <= was.severity.rank):
            return ()
        onset = self.hold.onset if was is None else (was.onset_step, was.onset_time)
        self.begun = begun(rule, question, series, sample, severity, onset)
        return (self.begun,)

    def _answer(self, series: Series) -> bool | None:
        missing = self.plan.rule.missing
        answer: bool | None = None
        for question in self.plan.questions:
            answer = question.answer(series)
            if answer is None and missing != "unknown" and question.lacks(series):
                answer = missing == "alert"
            if not answer:
                break
        return answer


class Series:
    """One series that rules read."""

    __slots__ = ("_band", "_due", "_step", "history", "looks", "missed", "process", "run")

    def __init__(self, run: Run, name: str, reader: Reader, process: Process) -> None:
        self.run = run
        self.history = reader.history()
        self.looks = [Look(plan) for plan in reader.plans]
        for read in reader.reads:
            run.histories.setdefault(read, []).append(self.history)
        if name in reader.reads:  # by itself: of a pattern, the series that came last is meant
            process.known[name] = self.history
        self._step = BEFORE
        self._band, self._due = NOWHERE, 0.0  # between these values no look has anything to do, up to that count
        self.process = process
        self.missed = 0  # steps without a value that have been looked at

    def observe(self, sample: Sample) -> Iterable[Finding]:
        """Look at every rule of the series. A step that comes twice counts once."""
        step, value = sample.step, sample.value
        if step is not None:
            if step <= self._step:
                return () if step > self._step - LATE_STEPS else self._resumed(sample)
            self._step = self.process.step = step
        history = self.history
        if value - value != 0.0:  # not finite
            history.is_finite = False
            return self._looked(sample, [look for look in self.looks if look.plan.rule.missing != "unknown"])
        history.record = sample.record_id
        history.add(step, value)
        self.missed = 0
        count = history.count
        low, high = self._band
        if low < value < high and count < self._due:
            return ()
        return self._look(sample, count)

    def look_again(self) -> None:
        """What values are compared with may have changed."""
        self._band = NOWHERE
        for look in self.looks:
            look.quick = None

    def _look(self, sample: Sample, count: int) -> Iterable[Finding]:
        found: list[Finding] = []
        is_calm = True
        for look in self.looks:
            quick = look.quick
            if quick is None or count >= look.until:
                look.rescreen(self)
            elif quick(sample.value):
                look.near, look.quick = count + 1, None
            if count >= look.near and not look.hold.bits:
                continue
            is_calm = False
            found += look.take(self, sample)
        if is_calm:
            self._due = min([look.until for look in self.looks], default=inf)
        self._band = band(self.looks, sample.value) if is_calm else NOWHERE
        return found

    def other(self, metric: str) -> History | None:
        """The series of another metric: of the same process, or else the one of the run that was updated last."""
        found = self.process.known.get(metric) or self.run.latest(metric)
        if found is None or found.step is None or self.history.step is None:
            return found
        # What lies ahead is from before the run was resumed.
        return found if found.step <= self.history.step + LATE_STEPS else None

    def argument(self, argument: Argument) -> float | None:
        """A limit that follows from the run's arguments."""
        return self.run.argument(argument)

    def _looked(self, sample: Sample, looks: Iterable[Look]) -> list[Finding]:
        return [finding for look in looks for finding in look.take(self, sample)]

    def _resumed(self, sample: Sample) -> list[Finding]:
        """The run went back: what was seen since says nothing about what comes."""
        text = f"the run went back to step {sample.step}; {sample.name} is looked at anew"
        over = [ended(look.begun, sample, text) for look in self.looks if look.begun is not None]
        self.history.clear()
        for look in self.looks:
            look.clear()
        self._step, self._band = BEFORE, NOWHERE
        return [*over, *self.observe(sample)]
