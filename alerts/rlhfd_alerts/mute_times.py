"""Times at which a route keeps silent, after Alertmanager: weekdays, times, days of month, months, years, a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from zoneinfo import ZoneInfo

from rlhfd_alerts.errors import RoutingError

__all__ = ["MuteTime", "parse_mute_time"]

_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MuteTime:
    """A moment is in it if it is in one span of every kind that is given; spans include both ends, but for ``times``
    (minutes of the day), which end before their last. Days of the month count from 1, or from the end: -1 is the last.
    """

    zone: tzinfo = timezone.utc
    weekdays: tuple[_Span, ...] = ()  # sunday is 0
    times: tuple[_Span, ...] = ()
    days_of_month: tuple[_Span, ...] = ()
    months: tuple[_Span, ...] = ()
    years: tuple[_Span, ...] = ()

    def covers(self, now: float) -> bool:
        """Whether the unix time ``now`` lies in it."""
        moment = datetime.fromtimestamp(now, self.zone)
        return (
            _within((moment.weekday() + 1) % 7, self.weekdays)
            and _within(moment.hour * 60 + moment.minute, [(first, end - 1) for first, end in self.times])
            and _is_day(moment, self.days_of_month)
            and _within(moment.month, self.months)
            and _within(moment.year, self.years)
        )


def parse_mute_time(
    *,
    location: str = "UTC",
    weekdays: Iterable[str] = (),
    times: Iterable[str] = (),
    days_of_month: Iterable[str] = (),
    months: Iterable[str] = (),
    years: Iterable[str] = (),
) -> MuteTime:
    """Return the mute time that is spelled like ``weekdays=["monday:friday"], times=["18:00-24:00", "00:00-08:00"]``.

    Raises :class:`RoutingError` that names what cannot be read and what could.
    """
    return MuteTime(
        zone=_zone(location),
        weekdays=_spans(weekdays, _named(_WEEKDAYS, 0), "a weekday is one of sunday ... saturday"),
        times=tuple(map(_times, times)),
        days_of_month=_spans(days_of_month, _day, "a day is 1 to 31, or -31 to -1 from the end", mixed=True),
        months=_spans(months, _named(_MONTHS, 1), "a month is one of january ... december, or 1 to 12"),
        years=_spans(years, _number(1970, 9999), "a year is 1970 to 9999"),
    )


def _within(value: int, spans: Sequence[_Span]) -> bool:
    return not spans or any(first <= value <= last for first, last in spans)


def _is_day(moment: datetime, spans: Sequence[_Span]) -> bool:
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1)
    length = (following - datetime(moment.year, moment.month, 1)).days
    counted = [tuple(day if day > 0 else max(length + 1 + day, 1) for day in span) for span in spans]
    return _within(moment.day, [(first, last) for first, last in counted])


def _zone(location: str) -> tzinfo:
    try:
        return timezone.utc if location == "UTC" else ZoneInfo(location)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise RoutingError(f"location {location!r} is not known here: a name like Europe/Berlin, or UTC") from error


def _spans(texts: Iterable[str], read: Callable[[str], int], hint: str, mixed: bool = False) -> tuple[_Span, ...]:
    spans = []
    for text in texts:
        ends = text.split(":")
        try:
            first, last = read(ends[0].strip()), read(ends[-1].strip())
        except ValueError as error:
            raise RoutingError(f"{text!r}: {hint}; a span is FIRST:LAST") from error
        is_mixed = mixed and (first > 0) != (last > 0)  # 15:-1: the second half of the month
        if len(ends) > 2 or (first > last and not is_mixed):
            raise RoutingError(f"{text!r}: a span is FIRST:LAST, the first not after the last; give two otherwise")
        spans.append((first, last))
    return tuple(spans)


def _named(names: Sequence[str], start: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isdigit() and start and start <= int(text) < start + len(names):
            return int(text)
        return names.index(text.lower()) + start

    return read


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return read


def _day(text: str) -> int:
    day = int(text)
    if day == 0 or not -31 <= day <= 31:
        raise ValueError(text)
    return day


def _times(text: str) -> _Span:
    try:
        first, end = (_minute(part.strip()) for part in text.split("-"))
    except ValueError as error:
        raise RoutingError(f"{text!r}: times are HH:MM-HH:MM, up to 24:00") from error
    if first >= end:
        raise RoutingError(f'{text!r} ends before it begins: over midnight write "22:00-24:00", "00:00-06:00"')
    return first, end


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if not (0 <= hour < 24 and 0 <= minute < 60) and (hour, minute) != (24, 0):
        raise ValueError(text)
    return hour * 60 + minute
