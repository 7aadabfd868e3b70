"""Predictions by time: memory that will be exhausted, disks that will be full."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.series import EVIDENCE, MAX_SERIES, labels
from rlhfd_daemon.analyzers.supply import Course, Outlook
from rlhfd_daemon.config_analyzers import ForecastConfig
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["DISK", "MEMORY", "SupplyForecast"]

MEMORY, DISK = "memory_exhaustion", "disk_full"
GPU_REMEDY = (
    "Save and stop before it fails: lower --vllm.gpu_memory_utilization, --train.micro_batch_size, "
    "--rollout.micro_batch_size or --train.max_tokens_per_gpu, or move memory off the GPU (--ds.adam_offload, "
    "--ds.enable_sleep, --vllm.enable_sleep). Memory that grows with every step is a leak: resume from a checkpoint "
    "(--ckpt.load_enable) buys time."
)
HOST_REMEDY = (
    "Before the kernel kills a process: look at process/<role>/rss_bytes for the one that grows. Fewer engines per "
    "node (--vllm.num_engines), no --vllm.enable_sleep, no --ds.adam_offload; a leak in the reward function or agent "
    "grows in the rollout actors. Resuming from a checkpoint (--ckpt.load_enable) buys time."
)
DISK_REMEDY = (
    "Make room now: a checkpoint that finds the disk full is lost. Keep fewer (--ckpt.max_num, --ckpt.max_mem), save "
    "less often (--ckpt.save_steps), without --ckpt.save_hf, whose exports stay, or to another --ckpt.path."
)


@dataclass(frozen=True)
class _Kind:
    """What a metric says of a supply: ``left`` itself, how much is ``used``, or its ``size``."""

    pattern: re.Pattern[str]
    says: str
    rule: str = MEMORY
    remedy: str = HOST_REMEDY


def _kind(pattern: str, says: str, rule: str = MEMORY, remedy: str = HOST_REMEDY) -> _Kind:
    return _Kind(re.compile(pattern), says, rule, remedy)


# The group is the supply: what says its size belongs to what says how much is left.
_KINDS = (
    _kind(r"(gpu/[^/]+/memory)_used_bytes", "used", remedy=GPU_REMEDY),
    _kind(r"(gpu/[^/]+/memory)_total_bytes", "size"),
    _kind(r"(host/memory)_available_bytes", "left"),
    _kind(r"(host/memory)_total_bytes", "size"),
    _kind(r"(host/shm)_used_bytes", "used"),
    _kind(r"(host/shm)_total_bytes", "size"),
    _kind(r"((?:host/cgroup|cgroup)[_/]memory)_bytes", "used"),
    _kind(r"(host/shm)_used_bytes", "used"),
    _kind(r"(host/shm)_total_bytes", "size"),
    _kind(r"((?:host/cgroup|cgroup)[_/]memory)_limit_bytes", "size"),
    _kind(r"(disk/[^/]+)/free_bytes", "left", rule=DISK, remedy=DISK_REMEDY),
    _kind(r"(disk/[^/]+)/total_bytes", "size", rule=DISK),
    _kind(r"(process/[^/]+)/(?:children_)?rss_bytes", "grows"),
)


class _Supply:
    """One memory or disk. ``course`` is of what is left."""

    def __init__(self) -> None:
        self.size: float | None = None
        self.course = Course()
        self.active: Finding | None = None
        self.calm = 0


class SupplyForecast:
    """Looks at every tenth value; an alert ends when the fall is over or slow at two looks in a row."""

    def __init__(self, config: ForecastConfig) -> None:
        self._config = config
        self._supplies: dict[SeriesKey, _Supply] = {}
        self._processes: dict[SeriesKey, Course] = {}
        self._watches: dict[SeriesKey, Watch | None] = {}

    def watch(self, first: Sample) -> Watch | None:
        for kind in _KINDS:
            match = kind.pattern.fullmatch(first.name)
            if match:
                return self._watch(first, kind, match[1])
        return None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        key = sample.series
        watch = self._watches[key] if key in self._watches else self._watches.setdefault(key, self.watch(sample))
        return () if watch is None else watch(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._supplies = {key: one for key, one in self._supplies.items() if key[:2] != (run, boot)}
        self._processes = {key: one for key, one in self._processes.items() if key[:2] != (run, boot)}
        self._watches = {key: one for key, one in self._watches.items() if key[:2] != (run, boot)}

    def _watch(self, first: Sample, kind: _Kind, name: str) -> Watch | None:
        if len(self._supplies) + len(self._processes) >= MAX_SERIES:
            return None
        key = (first.run, first.boot, first.role, first.rank, name)
        if kind.says == "grows":
            course = self._processes.setdefault(first.series, Course())
            return lambda sample: _grow(course, sample)
        supply = self._supplies.setdefault(key, _Supply())
        if kind.says == "size":
            return lambda sample: _resize(supply, sample)
        return lambda sample: self._take(kind, supply, sample)

    def _take(self, kind: _Kind, supply: _Supply, sample: Sample) -> Iterable[Finding]:
        left = sample.value
        if kind.says == "used":
            if supply.size is None:
                return ()
            left = supply.size - left
        if not isfinite(left) or not supply.course.take(sample.time, left):
            return ()
        config = self._config
        outlook = supply.course.outlook(config.min_minutes * 60, config.min_values)
        scarce = supply.size is None or left < config.left_ratio * supply.size
        limit = config.warning_minutes * 60
        if outlook is not None and scarce and outlook.seconds <= limit:
            supply.calm = 0
            return self._begin(kind, supply, sample, left, outlook)
        if supply.active is None or (outlook is not None and outlook.seconds <= 2 * limit):
            return ()
        supply.calm += 1
        if supply.calm < 2:
            return ()
        ended, supply.active, supply.calm = supply.active, None, 0
        return (_over(ended, sample, left),)

    def _begin(self, kind: _Kind, supply: _Supply, sample: Sample, left: float, outlook: Outlook) -> Iterable[Finding]:
        critical = outlook.seconds <= self._config.critical_minutes * 60
        severity = Severity.CRITICAL if critical else Severity.WARNING
        if supply.active is not None and supply.active.severity.rank >= severity.rank:
            return ()
        grows = self._fastest() if kind.rule == MEMORY and kind.remedy is HOST_REMEDY else ""
        of = "" if supply.size is None else f" of {_bytes(supply.size)}"
        what = "full" if kind.rule == DISK else "exhausted"
        minutes = max(2.0, outlook.seconds / 60)
        text = (
            f"{sample.name}: {_bytes(left)}{of} are left and {_bytes(outlook.rate * 60)} a minute go, steadily for "
            f"{outlook.since_seconds / 60:.0f} minutes: {what} in about {minutes:.0f} minutes{grows}"
        )
        onset = sample.time - outlook.since_seconds
        supply.active = Finding(
            run=sample.run,
            boot=sample.boot,
            rule=kind.rule,
            family="system",
            metric=sample.name,
            severity=severity,
            active=True,
            step=sample.step,
            time=sample.time,
            value=sample.value,
            baseline=None,
            onset_step=None,
            onset_time=onset if supply.active is None else supply.active.onset_time,
            summary=text,
            remedy=kind.remedy,
            evidence=supply.course.evidence(EVIDENCE),
            labels=labels(sample),
        )
        return (supply.active,)

    def _fastest(self) -> str:
        """The process that grows fastest, as the end of a sentence."""
        config = self._config
        growths = {key: one.growth(config.min_minutes * 60, config.min_values) for key, one in self._processes.items()}
        key = max(growths, key=lambda one: growths[one], default=None)
        if key is None or growths[key] <= 0:
            return ""
        return f"; {key[-1]} of {key[0]} grows by {_bytes(growths[key] * 60)} a minute"


def _grow(course: Course, sample: Sample) -> Iterable[Finding]:
    if isfinite(sample.value):
        course.take(sample.time, sample.value)
    return ()


def _resize(supply: _Supply, sample: Sample) -> Iterable[Finding]:
    """Take note of the size. Another size than before is another supply, such as a volume that was grown."""
    if isfinite(sample.value) and sample.value > 0:
        if supply.size not in (None, sample.value):
            supply.course = Course()
        supply.size = sample.value
    return ()


def _over(ended: Finding, sample: Sample, left: float) -> Finding:
    text = f"{sample.name}: {_bytes(left)} are left and no longer go at that rate"
    return replace(ended, active=False, time=sample.time, step=sample.step, value=sample.value, summary=text)


def _bytes(number: float) -> str:
    for unit, size in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"
