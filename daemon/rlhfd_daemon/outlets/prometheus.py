"""The page `/metrics`: what was last known of every run and of the node, and how the daemon itself fares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from rlhfd_daemon.outlets.latest import Latest, Shown
from rlhfd_daemon.outlets.naming import Family, Series, series
from rlhfd_daemon.outlets.self_metrics import self_families
from rlhfd_daemon.sample import Sample

__all__ = ["Exposition", "Page", "Scrape"]

MAX_NAMES = 30_000
Labels = tuple[tuple[str, str], ...]


class Page(NamedTuple):
    """One rendered answer."""

    body: bytes
    content_type: str


@dataclass(frozen=True)
class Scrape:
    """What one scrape shows, taken in the loop's thread; to be rendered in any."""

    shown: Sequence[Shown]
    status: Mapping[str, Any]


class Exposition:
    """Gathers in the loop's thread (:meth:`gather`), renders in another (:meth:`render`)."""

    def __init__(self, latest: Latest, status: Callable[[], Mapping[str, Any]]) -> None:
        self._latest = latest
        self._status = status
        self._series: dict[str, Series] = {}
        self._process = ProcessCollector(registry=None)

    def gather(self) -> Scrape:
        """Everything that changes, as of now."""
        now = time.time()
        runs = [{"run": run.run, "step": run.step, "live": run.live, "last_seen": run.last_seen}
                for run in self._latest.runs(now) if run.is_training]  # fmt: skip
        outlet = {"series": self._latest.series, "series_dropped_total": self._latest.dropped_total}
        return Scrape(self._latest.shown(now), {**self._status(), "shown_runs": runs, "latest": outlet})

    def render(self, scrape: Scrape, accept: str = "") -> Page:
        """The page in the format that ``accept`` (a header) asks for: OpenMetrics or Prometheus' own."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that is none
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        registry = CollectorRegistry()
        registry.register(_Families(chain(self._process.collect(), self_families(scrape.status), self._values(scrape))))
        return Page(encode(registry), content_type)

    def _values(self, scrape: Scrape) -> Iterator[Metric]:
        """One family after the other. Of two names for one series (`kl`, `train/kl`) the newer value counts."""
        families: dict[str, tuple[Family, dict[Labels, Sample]]] = {}
        for run, (role, rank), samples in scrape.shown:
            owner = _owner(run, role, rank)
            for sample in samples:
                family, labels = self._described(sample.name)
                found = families.get(family.name)
                if found is None:
                    found = families[family.name] = (family, {})
                known = found[1].get(key := owner + labels)
                if known is None or known.time <= sample.time:
                    found[1][key] = sample
        for _, (family, values) in sorted(families.items()):
            metric = Metric(family.name, family.help, family.kind, family.unit)
            name = f"{family.name}_total" if family.kind == "counter" else family.name
            for labels, sample in values.items():
                metric.add_sample(name, dict(labels), sample.value)
            yield metric

    def _described(self, name: str) -> Series:
        found = self._series.get(name)
        if found is None:
            if len(self._series) >= MAX_NAMES:
                self._series.clear()
            found = self._series[name] = series(name)
        return found


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _owner(run: str | None, role: str | None, rank: int | None) -> Labels:
    labels = (("run", run), ("role", role), ("rank", None if rank is None else str(rank)))
    return tuple((label, value) for label, value in labels if value is not None)
