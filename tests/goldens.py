"""The notifications that every receiver renders for the golden files, and the files' upkeep.

``PYTHONPATH=tests .venv/bin/python -m goldens`` writes them anew; read the diff before committing it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhfd_alerts.alert import Alert, Episode, News, Notification, Transition
from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.content import body
from rlhfd_alerts.context import Context, Links
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.mail_text import digest_text, html_of, text_of
from rlhfd_alerts.message import Message, read
from rlhfd_alerts.receivers import alertmanager, discord, email, pagerduty, slack
from rlhfd_alerts.template import NAMES, fill
from rlhfd_alerts.testing import example_finding

FOLDER = Path(__file__).parent / "fixtures" / "notifications"
NOW = 1_700_000_300.0
CONTEXT = Context(
    version="1.2.3", host="node-7", links=Links("https://grafana.example/d/x?var-run={run}", "https://docs.example/r")
)
HOSTILE = "<!channel> *bold* _x_ `code` ~s~ </pre><script>&amp; @everyone [a](http://b) \x1b[31m\r\nBcc: x \u202e|>"
MAIL = email.EmailSettings(host="mail", sender="rlhfd@example.org", to=("ops@example.org",))
TEMPLATE = '{{"text": "{title}", "all": [' + ", ".join(f'"{{{name}}}"' for name in NAMES) + "]}}"


def firing() -> Notification:
    """An alert without an episode."""
    return _notification(example_finding())


def resolved() -> Notification:
    """Its end."""
    finding = example_finding(active=False, value=0.06, step=150, time=1.7e9 + 60)
    lifecycle = Lifecycle()
    lifecycle.observe(example_finding(), 1)
    transition = lifecycle.observe(finding, 2)
    assert transition is not None
    return group([transition])[0]


def episode() -> Notification:
    """An episode of more members than any message shows."""
    findings = [
        example_finding(
            metric=f"train/metric_{number}", rule="kl_runaway" if number == 0 else "level_change",
            severity=Severity.CRITICAL if number == 7 else Severity.WARNING,
            labels=(("role", "actor"), ("rank", str(number)), ("host", f"node-{number % 3}")),
        )
        for number in range(40)
    ]  # fmt: skip
    return _in_episode([_alert(finding) for finding in findings], News.OPENED)


def episode_over() -> Notification:
    """The end of an episode."""
    alerts = [_alert(example_finding()), _alert(example_finding(metric="train/reward", rule="level_change"))]
    over = [replace(one, state=News.RESOLVED.state, ends_at=1.7e9 + 60) for one in alerts]
    return _in_episode(over, News.RESOLVED)


def hostile() -> Notification:
    """Text that wants to be markup, everywhere."""
    return _notification(
        example_finding(
            run=HOSTILE, rule=HOSTILE, metric=HOSTILE, family=HOSTILE, summary=HOSTILE * 40, remedy=HOSTILE * 40,
            labels=(("role", HOSTILE), ("rank", HOSTILE), ("host", HOSTILE), (HOSTILE, HOSTILE)),
        )
    )  # fmt: skip


CASES: dict[str, Callable[[], Notification]] = {
    "firing": firing, "resolved": resolved, "episode": episode, "episode_over": episode_over, "hostile": hostile,
}  # fmt: skip


def content(notification: Notification) -> bytes:
    """The canonical body."""
    return canonical_json(body(notification))


def message(notification: Notification) -> Message:
    """The notification as receivers read it."""
    return read(notification.id, content(notification), CONTEXT)


def rendered(one: Message) -> dict[str, Any]:
    """What every receiver makes of a message, and of a digest of it and others."""
    mail = email.render(one, MAIL, NOW)
    every = [message(make()) for make in CASES.values()]
    return {
        "slack": slack.render(one, "channel"),
        "slack_digest": slack.render_digest([*every, one]),
        "discord": discord.render(one),
        "discord_digest": discord.render_digest([*every, one]),
        "pagerduty": pagerduty.render(one, "routing-key"),
        "alertmanager": [alertmanager.rendered(held, NOW, 60.0) for held in alertmanager.held(one, NOW)][:3],
        "email": {name: mail[name] for name in ("Subject", "Message-ID", "References", "Date", "To", "From")},
        "email_text": text_of(one).split("\n"),
        "email_html": html_of(one),
        "email_digest": digest_text([*every, one]).split("\n"),
        "webhook_template": json.loads(fill(TEMPLATE, one, is_json=True)),
    }


def _notification(*findings: Any) -> Notification:
    transitions = [Lifecycle().observe(finding, 1) for finding in findings]
    return group([one for one in transitions if one is not None])[0]


def _alert(finding: Any) -> Alert:
    transition = Lifecycle().observe(finding, 1)
    assert transition is not None
    return transition.alert


def _in_episode(alerts: list[Alert], news: News) -> Notification:
    is_over = news is News.RESOLVED
    whole = Episode(
        id="ep_0123456789abcdef", state=news.state, severity=Severity.CRITICAL, opening=1, opened_step=120,
        opened_time=1.7e9, ended_step=150 if is_over else None, ended_time=1.7e9 + 60 if is_over else None,
        members=tuple(alerts[:32]), more=len(alerts[32:]), firing=0 if is_over else len(alerts), confidence=0.75,
        news=(news,),
    )  # fmt: skip
    return group([Transition(alert, news.state, 1, 1.7e9, whole) for alert in alerts])[0]


def main() -> None:
    """Write the golden files."""
    for name, make in CASES.items():
        text = json.dumps(rendered(message(make())), ensure_ascii=False, indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
