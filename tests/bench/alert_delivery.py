"""What becomes of alerts when things break: rlhfd beside Debian's Alertmanager, which `make bench-alerts` unpacks.

Usage: python tests/bench/alert_delivery.py [KILLS] [SEED]. Prints one table; exits with 1 if rlhfd loses anything, has
an effect twice, or is later than `Retry-After` and two seconds. Each runs on data of its own, all at the same time,
with one webhook on loopback, started again at once after each `kill -9`. An alert begins at a random moment of the
second after each start, the kill comes at a random moment of its first half. rlhfd's alerts are NaN in distinct runs,
by real emitters. Alertmanager's are posted until taken (API v2), and, in the last column, all of them again every five
seconds: Prometheus does that every minute. Its `group_wait` is 0 s, `group_by` the alert, `group_interval` 10 s
(default: 5 minutes).
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.delivery_sides import AlertmanagerSide, RlhfdSide, Side
from rlhfd_alerts.testing import Reply
from services import Server
from support import wait_for

KILLS = 100
SILENCES = 10
RESEND_SECONDS = 5.0
RETRY_AFTER_SECONDS = 2
GRACE_SECONDS = 2.0  # on top of Retry-After
TOLD_SECONDS = 60.0  # what has not come by then is lost
AFTERWARDS_SECONDS = 2 * RESEND_SECONDS + 2.0  # for what comes twice
OUTAGE_SECONDS = 13.0  # an Alertmanager tries for ten

Make = Callable[[Path, Server], Side]


class Outcome(NamedTuple):
    """Of one side."""

    name: str
    lost: int
    repeated: int
    resent: int
    silences_lost: int
    retried_after: float | None
    told: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        on_time = self.retried_after is not None and self.retried_after <= RETRY_AFTER_SECONDS + GRACE_SECONDS
        return (
            not (self.lost or self.repeated or self.silences_lost) and on_time and self.told == ("firing", "resolved")
        )


@contextlib.contextmanager
def running(make: Make, receiver: Server) -> Iterator[Side]:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as folder:
        side = make(Path(folder), receiver)
        try:
            yield side
        finally:
            side.close()


def happens(condition: Callable[[], object], seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        wait_for(condition, seconds)
        return True
    return False


def killed(make: Make, kills: int, seed: int) -> tuple[int, int, int]:
    """Alerts lost, effects too many, and requests that a receiver drops since it has seen their identity."""
    chance = random.Random(seed)
    alerts = [f"run-{number}" for number in range(kills)]
    with contextlib.closing(Server()) as receiver, running(make, receiver) as side:
        for number, alert in enumerate(alerts):
            begins = threading.Timer(chance.uniform(0.0, 1.0), side.fire, [alert])
            begins.start()
            time.sleep(chance.uniform(0.0, 0.5))
            side.kill()
            side.start()
            begins.join()
            if number % 10 == 9:
                say(f"{side.name}: {number + 1} kills")

        def firing() -> list[tuple[str, str]]:
            return [(one.alert, one.identity) for one in side.messages(receiver) if one.state == "firing"]

        happens(lambda: {alert for alert, _ in firing()} >= set(alerts), TOLD_SECONDS)
        time.sleep(AFTERWARDS_SECONDS)
        told = firing()
    reached = {alert for alert, _ in told}
    return len(set(alerts) - reached), len(set(told)) - len(reached), len(told) - len(set(told))


def silences_lost(make: Make) -> int:
    """How many are gone after a kill that comes as soon as the command has returned."""
    lost = 0
    with contextlib.closing(Server()) as receiver, running(make, receiver) as side:
        for number in range(SILENCES):
            known = side.silence(f"run-{number}")
            side.kill()
            side.start()
            lost += known not in side.silences()
    return lost


def retried_after(make: Make) -> float | None:
    """Seconds from a 429 to the next attempt; none if there is none."""
    refusal = Reply(429, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    with contextlib.closing(Server(refusal)) as receiver, running(make, receiver) as side:
        side.fire("run")
        wait_for(lambda: receiver.requests)
        began = time.monotonic()
        return time.monotonic() - began if happens(lambda: len(receiver.requests) > 1, TOLD_SECONDS) else None


def told_after_outage(make: Make) -> tuple[str, ...]:
    """What is told of an alert that began and ended while the receiver was away."""
    away = Server()
    away.close()
    with running(make, away) as side:
        side.fire("run")
        time.sleep(2.0)
        side.end("run")
        time.sleep(OUTAGE_SECONDS)
        with contextlib.closing(Server(port=away.port)) as back:
            happens(lambda: len(list(side.messages(back))) > 1, TOLD_SECONDS / 2)
            return tuple(one.state for one in side.messages(back))


def outcome(name: str, make: Make, kills: int, seed: int) -> Outcome:
    lost = killed(make, kills, seed)
    say(f"{name}: silences")
    silences = silences_lost(make)
    say(f"{name}: 429, outage")
    found = Outcome(name, *lost, silences, retried_after(make), told_after_outage(make))
    say(str(found))
    return found


def table(found: list[Outcome], kills: int) -> str:
    def row(title: str, cell: Callable[[Outcome], object]) -> str:
        return f"| {title} | {' | '.join(str(cell(one)) for one in found)} |"

    return "\n".join(
        (
            row("", lambda one: one.name),
            f"|---{'|---' * len(found)}|",
            row(f"alerts lost, of {kills}, one `kill -9` each", lambda one: one.lost),
            row("alerts told again", lambda one: one.repeated),
            row("requests that the receiver drops by `webhook-id`", lambda one: one.resent),
            row(
                f"silences lost, of {SILENCES}, by `kill -9` after the command returned", lambda one: one.silences_lost
            ),
            row(f"429 with `Retry-After: {RETRY_AFTER_SECONDS}`: next attempt", lambda one: _after(one.retried_after)),
            row("begins and ends while the receiver is away: told", lambda one: ", ".join(one.told) or "nothing"),
        )
    )


def _after(seconds: float | None) -> str:
    return "none: lost" if seconds is None else f"after {seconds:.1f} s"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    kills, seed = [*given, *(KILLS, 20261125)[len(given) :]]
    sides: dict[str, Make] = {
        RlhfdSide.name: RlhfdSide,
        "Alertmanager": AlertmanagerSide,
        f"Alertmanager, re-sent every {RESEND_SECONDS:g} s": lambda folder, receiver: AlertmanagerSide(
            folder, receiver, resend_seconds=RESEND_SECONDS
        ),
    }
    with ThreadPoolExecutor(len(sides)) as pool:
        found = list(pool.map(lambda side: outcome(side[0], side[1], kills, seed), sides.items()))
    print(table(found, kills))
    if not found[0].is_good:
        raise SystemExit("rlhfd misses its goal")


if __name__ == "__main__":
    main()
